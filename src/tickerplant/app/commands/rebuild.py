"""`tickerplant rebuild`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from tickerplant.app.commands.common import emit, say, time_option
from tickerplant.app.commands.feeding import plant_to_feed, wait_until_stored
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.log.port import EventLog, TopicPartition


def rebuild(
    loaded: Loaded,
    symbols: Annotated[list[str], typer.Argument(metavar="SYMBOL...", help="Symbols, e.g. AAPL EUR/USD.")],
    from_: Annotated[str, typer.Option("--from", help="Bars from this time on (UTC unless it says).")],
    to: Annotated[str, typer.Option("--to", help="Bars before this time.")],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return only when all of it is in the tables.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Make bars of a stretch again from raw, under the settings of now; they replace those that are there.

    Asks the plant that runs on the data folder, or brings its own for as long as it takes; on Kafka one must run.
    """
    from tickerplant.app.runtime.memory_tuning import lean
    from tickerplant.app.runtime.supervisor import signals
    from tickerplant.app.wiring import open_readonly, parts
    from tickerplant.core.schemas import OHLCV
    from tickerplant.core.symbols import check_symbol

    lean()
    names = list(dict.fromkeys(map(check_symbol, symbols)))
    from_us, to_us = time_option(from_, "--from") or 0, time_option(to, "--to") or 0
    if to_us <= from_us:
        raise BadInput(f"--from {from_} is not before --to {to}")
    stop, began = threading.Event(), time.monotonic()
    with signals(stop):
        with open_readonly.log_of(loaded.settings) as event_log:
            event_log.identity()  # a folder without a plant is not made one
            if not wait:
                offsets = parts.request_rebuild(event_log, names, from_us, to_us)
        if wait:
            with plant_to_feed(loaded) as (plant, brought):
                before = {tp: end for tp, (_, end) in plant.event_log.offsets(OHLCV).items()}
                offsets = parts.request_rebuild(plant.event_log, names, from_us, to_us)
                wait_until_stored(plant, offsets, stop, brought=brought)
                made = _made(plant.event_log, before, offsets)
    if wait:
        _report(names, offsets, made, time.monotonic() - began, json=json)
    elif json:
        emit({"symbols": names, "offsets": offsets, "waited": False})
    else:
        print(f"asked to make the bars of {', '.join(names)} again; the plant does it as it comes there")


def _report(names: list[str], offsets: Mapping[int, int], made: Made, seconds: float, *, json: bool) -> None:
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
            }
        )
        return
    counted = [f"{n:,} × {interval}" for interval, n in made.by_interval.items()]
    counted += [f"{made.withdrawn:,} withdrawn"] if made.withdrawn else []
    if counted:
        print(f"bars made again after {seconds:.1f} s: {', '.join(counted)}")
    for name in nothing:
        say(f"{name}: nothing to rebuild there; raw has no ticks or bars of it in that stretch, or not any more")


@dataclass(slots=True)
class Made:
    """What came out of a rebuild: closed bars by interval and by symbol, and how many bars went."""

    by_interval: dict[str, int] = field(default_factory=dict)
    by_symbol: dict[str, int] = field(default_factory=dict)
    withdrawn: int = 0


def _made(event_log: EventLog, since: Mapping[TopicPartition, int], offsets: Mapping[int, int]) -> Made:
    """Return what stands in `market.prices.ohlcv` from `since` on with the version of the rebuild at these offsets."""
    from tickerplant.core.interval import parse
    from tickerplant.core.records import Bars, decode
    from tickerplant.core.schemas import FORMING, OHLCV, WITHDRAWN
    from tickerplant.core.version import make_version

    generation, made = event_log.identity().generation, Made()
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
