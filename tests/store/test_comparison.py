"""The comparison finds correct bars equal, excludes bars that it cannot compare, and reads only changed ranges."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import pyarrow as pa
import pytest

from tests.store.rows import MINUTE_US, OPEN_US, arrived, bars, ticks
from tests.store.test_arrival import store_feed
from tests.store.test_bars import put as put_bars
from tests.store.test_prices import put as put_ticks
from tests.store.test_rollups import run
from tickerplant.core.flags import TickFlag
from tickerplant.store import Store

NOW: Final = dt.datetime.now(dt.UTC)


async def compared(store: Store, now: dt.datetime = NOW) -> str:
    """Refresh the 5m check roll-ups, compare, and return the result as text."""
    await run(store, "rollup_5m", "compare", now=now)
    async with store.session() as session:
        return str(await session.value("SELECT detail FROM jobs WHERE name = 'compare'"))


def five(minute: int, table: pa.Table, **more: Any) -> dict[str, Any]:
    """Return the fields of the 5m bar of these ticks."""
    prices = table.column("price").to_pylist()
    return {
        "minute": minute, "symbol": "S0000", "interval": "5m", "reason": "parts", "trades": table.num_rows,
        "open": prices[0], "high": max(prices), "low": min(prices), "close": prices[-1],
        "volume": sum(table.column("size").to_pylist()), **more,
    }  # fmt: skip


async def check_healthy(store: Store) -> None:
    """Compare a feed with times in seconds: many ticks share an instant, and some are late."""
    await store_feed(store, 3, minutes=30, corrective=False)
    assert await compared(store) == "0 of 12 5m bars differ from the check roll-up of their ticks"
    assert await compared(store) == "0 of 12 5m bars differ from the check roll-up of their ticks", "nothing changed"


async def check_counts(store: Store) -> None:
    parts = [ticks(50, start_us=OPEN_US + minute * MINUTE_US, step_us=0, seed=minute) for minute in range(0, 30, 5)]
    cancel = parts[3].slice(0, 1)
    cancel = cancel.set_column(6, cancel.schema.field("flags"), pa.array([int(TickFlag.CANCEL)], pa.uint16()))
    for offset, part in enumerate([*parts, cancel]):
        await put_ticks(store, arrived(part, offset))
    good = [five(minute, part) for minute, part in zip(range(0, 30, 5), parts, strict=True)]
    # Equal; another high; without a bar; with a cancel; of a vendor; incomplete; without ticks.
    await put_bars(store, bars(
        good[0], good[1] | {"high": 1e6}, good[3] | {"reason": "cancel", "volume": 1.0},
        good[4] | {"reason": "official", "high": 1e6}, good[5] | {"complete": False, "high": 1e6},
        five(60, parts[0]),
    ))  # fmt: skip
    example = "S0000 2012-06-21 13:35:00+00"
    assert await compared(store) == (
        f"1 of 2 5m bars differ from the check roll-up of their ticks, e.g. {example}; "
        "left out, with cancels or corrections: 1; left out, not built from ticks of one source: 1; "
        "left out, incomplete or forming: 1; bars without a bar in the check roll-up: 1; "
        "bars of the check roll-up without a published bar: 1"
    )
    # A revision of an old bar is compared, although no tick arrived.
    await put_bars(store, bars(good[1] | {"version": 2}))
    assert (await compared(store)).startswith("0 of 1 5m bars differ")


async def check_unordered(store: Store) -> None:
    # Ticks of an earlier release have no arrival: open and close are not compared.
    part = ticks(50, step_us=0)
    await put_ticks(store, part)
    await put_bars(store, bars(five(0, part, open=101.0, close=99.0)))
    assert await compared(store) == (
        "0 of 1 5m bars differ from the check roll-up of their ticks; "
        "compared without open and close, because the order of their ticks is unknown: 1"
    )
    await put_bars(store, bars(five(0, part, high=1e6, version=2)))
    assert (await compared(store)).startswith("1 of 1 5m bars differ")


async def check_time(store: Store) -> None:
    # The last ten minutes are compared later. A day whose check roll-up is pending is compared after its update.
    table = ticks(600, step_us=1_000_000)
    await put_ticks(store, arrived(table, 1))
    await put_bars(store, bars(*(five(minute, table.slice(minute * 60, 300)) for minute in (0, 5))))
    soon = dt.datetime(2012, 6, 21, 13, 46, tzinfo=dt.UTC)
    assert (await compared(store, soon)).startswith("0 of 1 5m bars")
    assert (await compared(store, soon + dt.timedelta(minutes=9))).startswith("0 of 1 5m bars")
    await put_ticks(store, arrived(ticks(1, start_us=OPEN_US + 20 * MINUTE_US), 2))
    await run(store, "compare")
    async with store.session() as session:
        assert await session.value("SELECT count(*) FROM arrivals WHERE comparing_from IS NOT NULL") == 2
    assert (await compared(store)).endswith("; bars of the check roll-up without a published bar: 1")
    async with store.session() as session:
        assert await session.value("SELECT count(*) FROM arrivals WHERE comparing_from IS NOT NULL") == 0


CHECKS: Final = [check_healthy, check_counts, check_unordered, check_time]


@pytest.mark.parametrize("check", CHECKS)
async def test_bars_are_compared_with_the_roll_up_of_their_ticks(store: Store, check: Any) -> None:
    await check(store)
