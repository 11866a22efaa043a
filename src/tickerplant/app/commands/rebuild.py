"""`tickerplant rebuild`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from tickerplant.app.commands.common import END_HELP, START_HELP, emit, notify, time_range
from tickerplant.app.commands.feeding import (
    exit_if_remaining,
    plant_to_feed,
    wait_until_computed,
    wait_until_stored,
)
from tickerplant.app.terminal.output import echo

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.log.port import EventLog, TopicPartition


def rebuild(
    loaded: Loaded,
    symbols: Annotated[list[str], typer.Argument(metavar="SYMBOL...", help="Symbols, e.g. AAPL EUR/USD.")],
    from_: Annotated[str, typer.Option("--from", help=START_HELP)],
    to: Annotated[str, typer.Option("--to", help=END_HELP)],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until everything is in the tables.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Rebuild the bars of a range from raw records with the present settings. The new bars replace the stored bars.

    Uses the plant that runs on the data folder, or else runs the services itself. On Kafka, a plant must run.
    """
    from tickerplant.app.runtime.signals import signals
    from tickerplant.app.wiring import open_readonly
    from tickerplant.app.wiring.log import request_rebuild
    from tickerplant.core.schemas import OHLCV
    from tickerplant.core.symbols import check_symbol

    names = list(dict.fromkeys(map(check_symbol, symbols)))
    start_us, end_us = (us or 0 for us in time_range(from_, to))
    stop, began = threading.Event(), time.monotonic()
    with signals(stop):
        with open_readonly.log_of(loaded.settings) as event_log:
            event_log.identity()  # raises if the log has no plant; nothing is created
            if not wait:
                offsets = request_rebuild(event_log, names, start_us, end_us)
        if wait:
            with plant_to_feed(loaded) as (plant, own_services):
                before = {tp: end for tp, (_, end) in plant.event_log.offsets(OHLCV).items()}
                offsets = request_rebuild(plant.event_log, names, start_us, end_us)
                wait_until_stored(plant, offsets, stop, own_services=own_services)
                remaining = wait_until_computed(plant, offsets, stop, own_services=own_services)
                made = _count_rebuilt(plant.event_log, before, offsets)
    if wait:
        _report(names, offsets, made, time.monotonic() - began, remaining, json=json)
        exit_if_remaining(remaining)
    elif json:
        emit({"symbols": names, "offsets": offsets, "waited": False})
    else:
        echo(f"requested a rebuild of {', '.join(names)}; the rebuild starts when the plant reads this request")


def _report(
    names: list[str], offsets: Mapping[int, int], made: Rebuilt, seconds: float, remaining: str, *, json: bool
) -> None:
    nothing = [name for name in names if name not in made.by_symbol]
    if json:
        emit(
            {
                "symbols": names,
                "offsets": offsets,
                "waited": True,
                "bars": made.by_interval,
                "withdrawn": made.withdrawn,
                "by_symbol": made.by_symbol,
                "nothing": nothing,
                "seconds": round(seconds, 3),
                "remaining": remaining or None,
            }
        )
        return
    counted = [f"{n:,} × {interval}" for interval, n in made.by_interval.items()]
    counted += [f"{made.withdrawn:,} withdrawn"] if made.withdrawn else []
    if counted:
        echo(f"bars rebuilt after {seconds:.1f} s: {', '.join(counted)}")
    for name in nothing:
        notify(
            f"{name}: nothing to rebuild; the log has no ticks or bars of this symbol in the range, or retention has "
            "deleted them"
        )


@dataclass(slots=True)
class Rebuilt:
    """The result of a rebuild: counts of bars. `by_symbol` includes the withdrawn bars, `by_interval` does not."""

    by_interval: dict[str, int] = field(default_factory=dict)
    by_symbol: dict[str, int] = field(default_factory=dict)
    withdrawn: int = 0


def _count_rebuilt(event_log: EventLog, since: Mapping[TopicPartition, int], offsets: Mapping[int, int]) -> Rebuilt:
    """Return counts of the bars in `market.prices.ohlcv` after `since` that the requests at `offsets` caused."""
    from tickerplant.core.interval import parse
    from tickerplant.core.records import Bars, decode
    from tickerplant.core.schemas import FORMING, OHLCV, WITHDRAWN
    from tickerplant.core.version import make_version

    generation, made = event_log.identity().generation, Rebuilt()
    for source, (_, end) in event_log.offsets(OHLCV).items():
        version = make_version(generation, offsets[source.partition])
        for delivery in event_log.read_range(source, since.get(source, 0), end):
            record = decode(delivery.value)
            if not isinstance(record.header, Bars) or record.header.cause != version:
                continue
            columns = (record.batch[name].to_pylist() for name in ("symbol", "interval", "state"))
            for symbol, interval, state in zip(*columns, strict=True):
                if state == FORMING:
                    continue
                made.by_symbol[symbol] = made.by_symbol.get(symbol, 0) + 1
                if state == WITHDRAWN:
                    made.withdrawn += 1
                else:
                    made.by_interval[interval] = made.by_interval.get(interval, 0) + 1
    made.by_interval = dict(sorted(made.by_interval.items(), key=lambda item: parse(item[0]).us))
    return made
