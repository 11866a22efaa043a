"""This version resumes a killed plant of 28f7935 at its positions.

The fixtures contain a killed and a finished file feed, a live feed and a backfill. They contain snapshots of
aggregation and analytics older than the end of the log, a store behind the log, retention holds, alerts and settings.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.waiting import PATIENCE, until
from tests.upgrade import ticks
from tests.upgrade.fixture import Opened, open_embedded, open_kafka

LIVE = ("AAPL", "MSFT", "EUR/USD", "BTC/USD")


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def opened(request: pytest.FixtureRequest, tmp_path: Path, empty_dsn: str) -> Iterator[Opened]:
    if request.param == "kafka":
        with open_kafka(tmp_path / "data", tmp_path / "kafka", empty_dsn) as found:
            yield found
    else:
        yield open_embedded(tmp_path / "data", empty_dsn)


async def _rows(dsn: str, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        return [tuple(row) for row in await connection.fetch(sql, *arguments)]
    finally:
        await connection.close()


def stored(dsn: str, symbols: tuple[str, ...]) -> Counter[tuple[Any, ...]]:
    """Return the stored ticks of these symbols with their counts."""
    sql = "SELECT symbol, time, price, size, trade_id FROM realtime_prices WHERE symbol = ANY($1)"
    return Counter(asyncio.run(_rows(dsn, sql, list(symbols))))


def in_file() -> Counter[tuple[Any, ...]]:
    """Return the ticks of the killed replay's file with their counts."""
    return Counter(
        (symbol, datetime.fromisoformat(time), float(price), float(size), trade_id)
        for time, symbol, price, size, trade_id in ticks.rows()
    )


def logged(opened: Opened) -> Counter[tuple[Any, ...]]:
    """Return the live ticks of the raw topic with their counts."""
    found: Counter[tuple[Any, ...]] = Counter()
    for line in opened.run("tail", "raw", "--json", "--from", "earliest", "-n", "1000000", rate=0).splitlines():
        row = json.loads(line)
        if row.get("symbol") in LIVE and row.get("kind") == "ticks":
            time = datetime.fromisoformat(row["time"].replace("Z", "+00:00")).astimezone(UTC)
            found[row["symbol"], time, row["price"], row["size"], row["trade_id"]] += 1
    return found


def verified(opened: Opened) -> list[dict[str, Any]]:
    return [json.loads(line) for line in opened.run("verify", "--json", rate=0).splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_folder_of_28f7935_resumes_at_its_positions(opened: Opened, tmp_path: Path) -> None:
    file, days = ticks.write_ticks(tmp_path / "ticks.csv"), ticks.write_days(tmp_path / "days.csv")
    part, live = stored(opened.dsn, ticks.SYMBOLS), stored(opened.dsn, LIVE)
    assert 0 < part.total() < ticks.TICKS, "the fixture's replay was killed in the middle"
    assert live
    on_log = logged(opened)
    assert on_log - live, "the fixture's store is behind its log"
    before = verified(opened)
    assert len(before) == 3
    assert all(one["equal"] and one["records"] > 0 for one in before), before

    with opened.running("up", rate=10) as url, httpx.Client(base_url=url, timeout=PATIENCE.seconds(60)) as client:
        # The file's feed resumes: each tick is stored once, and no committed tick was read again.
        resumed = json.loads(opened.run("replay", str(file), "--json", rate=10).splitlines()[-1])
        assert (resumed["ticks"], resumed["repeats"], resumed["dead_lettered"]) == (ticks.TICKS, 0, 0)
        assert stored(opened.dsn, ticks.SYMBOLS) == in_file()
        again = json.loads(opened.run("replay", str(days), "--symbol", "FILEDAYS", "--interval", "1d", "--json",
                                      rate=10).splitlines()[-1])  # fmt: skip
        assert not again["changed"]
        # The live feed and the backfill continue.
        until(
            lambda: any(tick not in live and tick[1] > max(t[1] for t in live) for tick in stored(opened.dsn, LIVE)),
            "live ticks",
        )
        until(lambda: client.get("/health").json()["status"] == "ok", "a healthy plant")
        _indicators_are_those_of_all_bars(client)
        assert len(client.get("/v1/alerts").json()["alerts"]) == 2

    now = stored(opened.dsn, LIVE)
    assert not live - now, "every stored tick remains"
    assert not on_log - now, "the store contains every logged tick"
    assert not now - logged(opened), "the store contains no tick twice"
    after = verified(opened)
    assert all(one["equal"] for one in after), after
    assert sum(one["records"] for one in after) > sum(one["records"] for one in before)


def _indicators_are_those_of_all_bars(client: httpx.Client) -> None:
    """Check that streamed values after an old snapshot equal those computed over all stored bars."""
    span = {"start": "2026-03-04T15:00:00Z", "end": "2026-03-04T15:20:00Z", "limit": 100}
    for symbol, interval, name, column in (
        ("FILEA", "1m", "SMA", "sma_5"), ("FILEB", "1m", "RSI", "rsi_14"), ("FILEC", "5m", "EMA", "ema_12"),
        ("FILEDAYS", "1d", "SMA", "sma_20"), ("FILEDAYS", "1d", "ATR", "atr_14"),
    ):  # fmt: skip
        period = int(column.rpartition("_")[2])
        range_ = {"limit": 100} if interval == "1d" else span
        made = client.get(f"/v1/analytics/{symbol}", params={"interval": interval, **range_}).json()["values"]
        wanted = client.get(
            f"/v1/indicators/{name}/{symbol}", params={"interval": interval, "period": period, **range_}
        )
        values = {row["time"]: row[column] for row in wanted.json()["values"] if row["state"] == "final"}
        final = {row["time"]: row[column] for row in made if row["state"] == "final"}
        assert final
        assert final.keys() == values.keys()
        for time, value in final.items():
            other = values[time]
            assert (value is None) == (other is None), (symbol, column, time)
            assert value is None or math.isclose(value, other, rel_tol=1e-9), (symbol, column, time)
