"""`tickerplant backfill`."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tickerplant.app.commands.common import emit, say, table, time_option
from tickerplant.app.commands.feeding import check_services, plant_to_feed, wait_until_computed
from tickerplant.core.errors import BadInput, ConfigError, TickerplantError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded, Settings
    from tickerplant.app.runtime.plant import Plant
    from tickerplant.core.coverage import StatusRange
    from tickerplant.market_data.backfill import Order, Progress

LOOK_S: Final = 0.3
TAKEN_S: Final = 90.0
"""A manager writes how it stands at each of its looks, a minute apart when it has nothing to do."""
GAPS_SHOWN: Final = 20
YOUNG_US: Final = 180_000_000
"""What ended less than three minutes ago may be on its way still, or has not been asked for yet."""


def backfill(
    loaded: Loaded,
    symbols: Annotated[
        list[str] | None, typer.Argument(metavar="[SYMBOL...]", help="Only these symbols; without any the settings'.")
    ] = None,
    interval: Annotated[
        list[str] | None,
        typer.Option("--interval", "-i", help="1m, 5m or 1d, more than once if need be; without it the settings'."),
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="From this time on (UTC unless it says); as far as the settings say.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="Before this time; now.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Fetch what is missing of history now, and return when nothing is left that vendors would give now.

    Asks the plant that runs on the data folder, or brings its own for as long as it takes; on Kafka one must run.
    Interrupted, the same command goes on where it was. What stays missing is listed with the reason.
    """
    from tickerplant.app.runtime.memory_tuning import lean
    from tickerplant.app.runtime.supervisor import signals

    order = _order(symbols or (), interval or (), from_, to)
    settings = loaded.settings
    made_up = settings.wants_sandbox
    if not made_up and not settings.vendors.any_key():
        raise ConfigError("there is no vendor to ask: set a vendor's key, or name one in vendors.intraday and "
                          "vendors.daily (see `tickerplant vendors`)")  # fmt: skip
    if not order.intervals and not settings.history:
        raise BadInput("history is `none` in the settings: say which --interval is wanted")
    lean()
    stop, began = threading.Event(), time.monotonic()
    with signals(stop), _Shown(quiet=json) as shown:
        with plant_to_feed(loaded, made_up=made_up) as (plant, ours):
            done = _ours(plant, order, made_up, stop, shown) if ours else _theirs(plant, order, stop, shown)
        gaps = _gaps(settings, order)
    _report(done, gaps, time.monotonic() - began, json=json)


def _order(symbols: Sequence[str], intervals: Sequence[str], from_: str | None, to: str | None) -> Order:
    from tickerplant.app.config.settings import HISTORY_INTERVALS
    from tickerplant.core.interval import parse
    from tickerplant.core.symbols import check_symbol
    from tickerplant.market_data.backfill import Order

    names = [parse(text).name for text in intervals]
    wrong = next((name for name in names if name not in HISTORY_INTERVALS), None)
    if wrong is not None:
        raise BadInput(f"bars of {', '.join(HISTORY_INTERVALS)} are fetched, not of {wrong}")
    from_us, to_us = time_option(from_, "--from") or 0, time_option(to, "--to") or 0
    if from_us > time.time_ns() // 1_000:
        raise BadInput(f"--from {from_} lies in the future")
    if from_us and to_us and to_us <= from_us:
        raise BadInput(f"--from {from_} is not before --to {to}")
    return Order(
        id=uuid.uuid4().hex[:12],
        symbols=[*dict.fromkeys(check_symbol(symbol) for symbol in symbols)],
        intervals=[*dict.fromkeys(names)],
        start_us=from_us,
        end_us=to_us,
    )


def _ours(plant: Plant, order: Order, made_up: bool, stop: threading.Event, shown: _Shown) -> Progress:
    """Fetch with a manager and services of our own."""
    from tickerplant.app.runtime import services
    from tickerplant.app.wiring.sandbox import sandbox_process
    from tickerplant.core.schemas import RAW

    def look(progress: Progress) -> None:
        check_services(plant)
        shown.update(progress, progress.requests, progress.bars)

    with contextlib.ExitStack() as stack:
        vendor = stack.enter_context(sandbox_process(plant.settings))[1] if made_up else None
        done = asyncio.run(services.backfill(plant, order, vendor, stop, look))
    _check(stop)
    if done.bars:
        shown.say("indicators")
        for partition in range(plant.event_log.partitions(RAW)):
            wait_until_computed(plant, partition, stop)
    return done


def _theirs(plant: Plant, order: Order, stop: threading.Event, shown: _Shown) -> Progress:
    """Leave the order to the plant that runs, and watch."""
    from tickerplant.market_data.backfill import Progress
    from tickerplant.market_data.backfill.orders import place_order
    from tickerplant.market_data.backfill.progress import read_progress

    log = plant.event_log
    before = read_progress(log) or Progress()
    place_order(log, order)
    last, heard_s = before, time.monotonic()
    while not stop.wait(LOOK_S):
        now = read_progress(log) or before
        if now != last:
            last, heard_s = now, time.monotonic()
        # A manager that has been started since counts from nothing.
        base = before if now.requests >= before.requests else Progress()
        requests, bars = now.requests - base.requests, now.bars - base.bars
        shown.update(now, requests, bars)
        if order.id in now.orders:
            now.requests, now.bars, now.failed = requests, bars, max(0, now.failed - base.failed)
            return now
        if time.monotonic() - heard_s > TAKEN_S:
            raise TickerplantError(
                "nobody takes the order up: no market_data with a vendor runs on this log; start it "
                "(`tickerplant up`, or `tickerplant run market_data`), and it is taken up"
            )
    raise TickerplantError("no longer watching; the plant goes on with it")


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise TickerplantError("stopped half-way; the same command goes on where it was")


def _gaps(settings: Settings, order: Order) -> list[tuple[str, str, StatusRange]]:
    """Return what stays missing of what was ordered, with its interval and symbol, oldest first.

    Of the last minutes and of today's daily bar nothing is said: they are not over for long enough.
    """
    from tickerplant.app.wiring.coverage_query import covered, in_force
    from tickerplant.core.coverage import GAPS, status_ranges
    from tickerplant.core.interval import parse
    from tickerplant.core.times import DAY_US

    days = {name: text for name, _, text in (entry.partition(":") for entry in settings.history)}
    _, now_us = in_force(settings)
    found = []
    for name in order.intervals or days:
        length = parse(name)
        over_us = int(length.floor(now_us - (0 if name == "1d" else YOUNG_US)))
        to_us = min(order.end_us or over_us, over_us)
        from_us = order.start_us or (None if days.get(name, "max") == "max" else now_us - int(days[name]) * DAY_US)
        if from_us is not None and from_us >= to_us:
            continue
        seen = covered(settings, order.symbols or settings.symbols, name, from_us, to_us)
        for symbol, statuses in seen.found.items():
            found += [
                (name, symbol, one)
                for one in status_ranges(statuses, name, seen.from_us, seen.to_us)
                if one.status in GAPS
            ]
    return sorted(found, key=lambda gap: (gap[2].from_us, gap[1], gap[0]))


class _Shown:
    """A bar on a terminal, nothing elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._bars = Progress(
            BarColumn(),
            TextColumn("{task.fields[what]}"),
            TimeElapsedColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._task = self._bars.add_task("backfill", total=None, what="looking at what is there")
        self._most = 0

    def update(self, progress: Progress, requests: int, bars: int) -> None:
        """Take how far it is."""
        left = progress.missing - progress.later
        self._most = max(self._most, left + bars)
        what = f"{bars:,} bars, {left:,} to come, {requests:,} requests"
        why = progress.blocked if progress.later and not left else progress.request
        self._bars.update(self._task, total=self._most or None, completed=self._most - left, what=f"{what}  {why}")

    def say(self, what: str) -> None:
        """Say what goes on."""
        self._bars.update(self._task, what=what)

    def __enter__(self) -> _Shown:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()


def _report(done: Progress, gaps: Sequence[tuple[str, str, StatusRange]], seconds: float, *, json: bool) -> None:
    if json:
        emit(
            {
                "requests": done.requests,
                "bars": done.bars,
                "failed": done.failed,
                "seconds": round(seconds, 3),
                "gaps": [_as_dict(*gap) for gap in gaps],
            }
        )
        return
    print(f"{done.bars:,} bars of {done.requests:,} requests are in the tables after {seconds:.1f} s")
    if not gaps:
        print("nothing is missing")
        return
    newest = gaps[-GAPS_SHOWN:]
    print(f"{sum(one.bars for _, _, one in gaps):,} bars stay missing:")
    table(
        ("symbol", "interval", "from", "to", "bars", "status", "why", "again"),
        [
            (symbol, name, _time(one.from_us), _time(one.to_us), f"{one.bars:,}", one.status,
             ": ".join(word for word in (one.source, one.note) if word), _time(one.again_us) if one.again_us else "")
            for name, symbol, one in newest
        ],
    )  # fmt: skip
    if len(gaps) > len(newest):
        say(f"{len(gaps) - len(newest):,} stretches more; `tickerplant coverage` shows them")


def _as_dict(interval: str, symbol: str, one: StatusRange) -> dict[str, Any]:
    from tickerplant.core.times import iso

    return {
        "symbol": symbol, "interval": interval, "from": iso(one.from_us), "to": iso(one.to_us), "bars": one.bars,
        "status": one.status, "source": one.source or None, "note": one.note or None,
        "again_at": iso(one.again_us) if one.again_us else None,
    }  # fmt: skip


def _time(us: int) -> str:
    from tickerplant.core.times import datetime_of

    return f"{datetime_of(us):%Y-%m-%d %H:%M}"
