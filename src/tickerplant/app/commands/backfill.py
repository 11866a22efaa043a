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

from tickerplant.app.commands.common import emit, notify, table, time_range
from tickerplant.app.commands.feeding import check_services, exit_if_remaining, plant_to_feed, wait_until_computed
from tickerplant.app.terminal.output import echo
from tickerplant.core.errors import BadInput, ConfigError, TickerplantError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded, Settings
    from tickerplant.app.runtime.plant import Plant
    from tickerplant.app.terminal.progress import ProgressBars
    from tickerplant.core.coverage import StatusRange
    from tickerplant.market_data.backfill import Order, Progress

LABEL: Final = "backfill"
POLL_S: Final = 0.3
ACCEPTED_S: Final = 90.0
"""Maximum seconds to wait for progress of a backfill manager. An idle manager writes its progress every minute."""
GAPS_SHOWN: Final = 20
RECENT_US: Final = 180_000_000
"""Age in µs below which a missing bar is not reported. Its answer may still be outstanding."""


def backfill(
    loaded: Loaded,
    symbols: Annotated[
        list[str] | None, typer.Argument(metavar="[SYMBOL...]", help="Symbols. Default: the symbols of the settings.")
    ] = None,
    interval: Annotated[
        list[str] | None,
        typer.Option(
            "--interval", "-i", help="1m, 5m or 1d; repeatable. Default: all intervals of the setting history."
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Start of the range, inclusive; UTC if it has no time zone. Default: as the setting history defines.",
        ),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="End of the range, exclusive; default: now.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Fetch missing history now, until vendors return nothing more. Then list the bars that are still missing, and why.

    Uses the plant that runs on the data folder, or else runs the services itself. On Kafka, a plant must run. After an
    interruption, run the same command again to continue.
    """
    from tickerplant.app.runtime.signals import signals
    from tickerplant.app.terminal.progress import ProgressBars

    order = _order(symbols or (), interval or (), from_, to)
    settings = loaded.settings
    made_up = settings.wants_sandbox
    if not made_up and not settings.vendors.any_key():
        raise ConfigError("no vendor is configured: set a vendor's key, or name a vendor in vendors.intraday and "
                          "vendors.daily (see `tickerplant vendors`)")  # fmt: skip
    if not order.intervals and not settings.history:
        raise BadInput("the setting history is `none`; choose the bars to fetch with --interval")
    stop, began = threading.Event(), time.monotonic()
    with signals(stop), ProgressBars((LABEL,), quiet=json) as bars:
        shown = _Progress(bars)
        with plant_to_feed(loaded, made_up=made_up) as (plant, own_services):
            run = _fetch if own_services else _order_and_watch
            done = run(plant, order, stop, shown)
            remaining = _wait_until_computed(plant, done, stop, shown, own_services=own_services)
        gaps = _gaps(settings, order)
    _report(done, gaps, time.monotonic() - began, remaining, json=json)
    exit_if_remaining(remaining)


def _order(symbols: Sequence[str], intervals: Sequence[str], from_: str | None, to: str | None) -> Order:
    from tickerplant.app.config.settings import HISTORY_INTERVALS
    from tickerplant.core.interval import parse
    from tickerplant.core.symbols import check_symbol
    from tickerplant.market_data.backfill import Order

    names = [parse(text).name for text in intervals]
    wrong = next((name for name in names if name not in HISTORY_INTERVALS), None)
    if wrong is not None:
        raise BadInput(
            f"--interval {wrong}: vendors supply only bars of {', '.join(HISTORY_INTERVALS)}; use one of them"
        )
    start_us, end_us = (us or 0 for us in time_range(from_, to))
    if start_us > time.time_ns() // 1_000:
        raise BadInput(f"--from {from_} is in the future; write an earlier time")
    return Order(
        id=uuid.uuid4().hex[:12],
        symbols=[*dict.fromkeys(check_symbol(symbol) for symbol in symbols)],
        intervals=[*dict.fromkeys(names)],
        start_us=start_us,
        end_us=end_us,
    )


def _fetch(plant: Plant, order: Order, stop: threading.Event, shown: _Progress) -> Progress:
    """Fetch the order with a backfill manager in this process; return the final progress."""
    from tickerplant.app.runtime import services
    from tickerplant.app.wiring.sandbox import sandbox_process

    settings = plant.settings

    def report(progress: Progress) -> None:
        check_services(plant)
        shown.update(progress, progress.requests, progress.bars)

    with contextlib.ExitStack() as stack:
        vendor = stack.enter_context(sandbox_process(plant.settings))[1] if settings.wants_sandbox else None
        done = asyncio.run(services.backfill(settings, plant.event_log, plant.dsn, order, vendor, stop, report))
    _check(stop)
    return done


def _wait_until_computed(
    plant: Plant, done: Progress, stop: threading.Event, shown: _Progress, *, own_services: bool
) -> str:
    """Wait for the indicators of the fetched bars; return a sentence about the remaining work, "" if there is none."""
    from tickerplant.core.schemas import RAW

    if not done.bars:
        return ""
    shown.show("indicators")
    return wait_until_computed(plant, range(plant.event_log.partitions(RAW)), stop, own_services=own_services)


def _order_and_watch(plant: Plant, order: Order, stop: threading.Event, shown: _Progress) -> Progress:
    """Place the order with the running plant, and watch its progress; return the progress of the completed order.

    Raises TickerplantError at `stop`, or after `ACCEPTED_S` without progress.
    """
    from tickerplant.market_data.backfill import Progress
    from tickerplant.market_data.backfill.orders import place_order
    from tickerplant.market_data.backfill.progress import read_progress

    log = plant.event_log
    before = read_progress(log) or Progress()
    place_order(log, order)
    last, changed_s = before, time.monotonic()
    while not stop.wait(POLL_S):
        now = read_progress(log) or before
        if now != last:
            last, changed_s = now, time.monotonic()
        # A manager that has restarted counts from zero.
        base = before if now.requests >= before.requests else Progress()
        requests, bars = now.requests - base.requests, now.bars - base.bars
        shown.update(now, requests, bars)
        if order.id in now.orders:
            now.requests, now.bars, now.failed = requests, bars, max(0, now.failed - base.failed)
            return now
        if time.monotonic() - changed_s > ACCEPTED_S:
            raise TickerplantError(
                f"no backfill has reported progress for {ACCEPTED_S:.0f} s. The order is in the log, and a plant with "
                "a vendor processes it. If `tickerplant health` shows no running plant, start one (`tickerplant up`, "
                "or `tickerplant run market_data`)"
            )
    raise TickerplantError("stopped watching; the plant continues the backfill")


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise TickerplantError("stopped before the end; run the same command again to continue")


def _gaps(settings: Settings, order: Order) -> list[tuple[str, str, StatusRange]]:
    """Return the missing ranges of the order with interval and symbol, oldest first.

    Excludes bars that ended less than `RECENT_US` ago, and today's daily bar.
    """
    from tickerplant.app.wiring.coverage_query import read_coverage, rules_and_market_time
    from tickerplant.core.coverage import GAPS, status_ranges
    from tickerplant.core.interval import parse
    from tickerplant.core.times import DAY_US

    days = {name: text for name, _, text in (entry.partition(":") for entry in settings.history)}
    _, now_us = rules_and_market_time(settings)
    found = []
    for name in order.intervals or days:
        length = parse(name)
        finished_us = int(length.floor(now_us - (0 if name == "1d" else RECENT_US)))
        end_us = min(order.end_us or finished_us, finished_us)
        start_us = order.start_us or (None if days.get(name, "max") == "max" else now_us - int(days[name]) * DAY_US)
        if start_us is not None and start_us >= end_us:
            continue
        report = read_coverage(settings, order.symbols or settings.symbols, name, start_us, end_us)
        for symbol, statuses in report.found.items():
            found += [
                (name, symbol, one)
                for one in status_ranges(statuses, name, report.start_us, report.end_us)
                if one.status in GAPS
            ]
    return sorted(found, key=lambda gap: (gap[2].from_us, gap[1], gap[0]))


class _Progress:
    """Shows the progress of a backfill in a progress bar."""

    def __init__(self, bars: ProgressBars) -> None:
        self._bars = bars
        self._total = 0
        self._done = 0
        self.show("reading stored bars")

    def update(self, progress: Progress, requests: int, bars: int) -> None:
        """Show the counts of fetched and of remaining bars, and the present request."""
        left = progress.missing - progress.later
        self._total = max(self._total, left + bars)
        self._done = self._total - left
        counts = f"{bars:,} bars, {left:,} left, {requests:,} requests"
        self.show(f"{counts}  {progress.blocked if progress.later and not left else progress.request}")

    def show(self, text: str) -> None:
        """Show a text beside the bar."""
        self._bars.update(LABEL, self._done, self._total or None, text)


def _report(
    done: Progress, gaps: Sequence[tuple[str, str, StatusRange]], seconds: float, remaining: str, *, json: bool
) -> None:
    if json:
        emit(
            {
                "requests": done.requests,
                "bars": done.bars,
                "failed": done.failed,
                "seconds": round(seconds, 3),
                "gaps": [_as_dict(*gap) for gap in gaps],
                "remaining": remaining or None,
            }
        )
        return
    echo(f"{done.bars:,} bars from {done.requests:,} requests are in the tables after {seconds:.1f} s")
    if not gaps:
        echo("nothing is missing")
        return
    newest = gaps[-GAPS_SHOWN:]
    echo(f"{sum(one.bars for _, _, one in gaps):,} bars are still missing:")
    table(
        ("symbol", "interval", "from", "to", "bars", "status", "reason", "retry at"),
        [
            (symbol, name, _time(one.from_us), _time(one.to_us), f"{one.bars:,}", one.status,
             ": ".join(word for word in (one.source, one.note) if word), _time(one.again_us) if one.again_us else "")
            for name, symbol, one in newest
        ],
    )  # fmt: skip
    if len(gaps) > len(newest):
        notify(f"{len(gaps) - len(newest):,} more gaps; `tickerplant coverage` lists them")


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
