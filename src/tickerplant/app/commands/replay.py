"""`tickerplant replay`."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tickerplant.app.commands.common import emit, say
from tickerplant.app.commands.feeding import plant_to_feed, wait_until_stored
from tickerplant.core.errors import BadInput, LogUnavailable, TickerplantError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.log.port import EventLog, TopicPartition
    from tickerplant.market_data.files.replay import ReplayOptions, ReplayProgress, ReplaySummary

AWAY_S: Final = 120.0
"""How long a replay waits for a log that went away under it; a broker is back within seconds of its restart."""


def replay(
    loaded: Loaded,
    file: Annotated[
        Path, typer.Argument(help="Ticks or bars: CSV (also .gz), Parquet or Databento's DBN (also .zst).")
    ],
    symbol: Annotated[str | None, typer.Option("--symbol", help="Symbol of a file that has no such column.")] = None,
    interval: Annotated[str | None, typer.Option("--interval", help="The file has bars of this interval.")] = None,
    tz: Annotated[str | None, typer.Option("--tz", help="Zone of times that name none, e.g. America/New_York.")] = None,
    date_order: Annotated[
        str | None, typer.Option("--date-order", help="How 03/04/2024 is meant: mdy or dmy.", metavar="mdy|dmy")
    ] = None,
    speed: Annotated[
        float | None, typer.Option("--speed", min=0.001, help="Multiple of real time; without it as fast as it goes.")
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Who said it, for the order of sources.")] = None,
    conditions: Annotated[
        str | None,
        typer.Option(
            "--conditions",
            help="Whose trade conditions the file has; without it, the column tape says.",
            metavar="cta|utp|polygon",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return only when all of it is in the tables.")] = True,
    s_partitions: Annotated[
        int | None, typer.Option("--partitions", help="Partitions of new topics.", rich_help_panel="Settings")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Push a file of ticks or bars through the plant, into the tables. The same file again changes nothing.

    Feeds the plant that runs on the data folder, or brings its own for as long as it takes; on Kafka one must run.
    """
    from tickerplant.app.runtime.memory_tuning import lean
    from tickerplant.app.runtime.supervisor import signals
    from tickerplant.app.wiring import parts

    lean()
    if not file.is_file():
        raise BadInput(f"there is no file {file}")
    options = parts.replay_options(
        symbol=symbol,
        interval=interval,
        tz=tz,
        date_order=date_order,
        speed=speed,
        source=source,
        conditions=conditions,
    )
    stop, began = threading.Event(), time.monotonic()
    with signals(stop), _Progress(file, quiet=json) as progress:
        run = _store if wait else _log
        result, bars = run(loaded, file, options, progress, stop)
    _report(file, result, bars, time.monotonic() - began, json=json, waited=wait)


def _store(
    loaded: Loaded, file: Path, options: ReplayOptions, progress: _Progress, stop: threading.Event
) -> tuple[ReplaySummary, dict[str, int]]:
    """Feed the file, and return when all of it is in the tables: what was done, and how many bars it closed."""
    from tickerplant.core.schemas import OHLCV

    with plant_to_feed(loaded) as (plant, brought):
        before = plant.event_log.offsets(OHLCV)
        result = _feed(plant.event_log, file, options, progress, stop)
        wait_until_stored(plant, result.ends, stop, brought=brought, arrived=progress.arrived)
        bars = _bars_since(plant.event_log, {tp: end for tp, (_, end) in before.items()}, result.feed)
    return result, bars


def _log(
    loaded: Loaded, file: Path, options: ReplayOptions, progress: _Progress, stop: threading.Event
) -> tuple[ReplaySummary, dict[str, int]]:
    """Feed the file, and return when all of it is in the log: what was done, and no bars yet."""
    from tickerplant.app.wiring import parts

    with parts.event_log(loaded.settings) as event_log:
        parts.ensure_settings(event_log, loaded.settings, only_first=True)
        return _feed(event_log, file, options, progress, stop), {}


def _feed(
    event_log: EventLog, file: Path, options: ReplayOptions, progress: _Progress, stop: threading.Event
) -> ReplaySummary:
    from tickerplant.app.wiring import parts

    patient_until = time.monotonic() + AWAY_S
    while True:
        began = time.monotonic()
        try:
            result = parts.replay(event_log, file, options, progress=progress.fed, stop=stop)
            break
        except LogUnavailable as error:
            if began > patient_until:
                raise
            if time.monotonic() - began > AWAY_S:  # it had worked for long before: patience begins anew
                patient_until = time.monotonic() + AWAY_S
            say(f"the log is out of reach, going on where it was: {error}")
            if stop.wait(1.0):
                raise
    if result.stopped:
        raise TickerplantError("stopped half-way; the same command goes on where it was")
    return result


def _bars_since(event_log: EventLog, positions: dict[TopicPartition, int], feed: str) -> dict[str, int]:
    """Return how many bars this feed's records have closed since these positions, by interval; revisions count once."""
    import pyarrow.compute as pc

    from tickerplant.core.interval import parse
    from tickerplant.core.records import Bars, decode
    from tickerplant.core.schemas import FINAL, OHLCV
    from tickerplant.log.port import at_positions

    found: dict[str, int] = {}
    with event_log.reader([OHLCV], start=at_positions(positions)) as reader:
        while deliveries := reader.poll(timeout_s=0.05):
            for delivery in deliveries:
                record = decode(delivery.value)
                if not isinstance(record.header, Bars) or record.header.feed != feed:
                    continue
                first = pc.and_(pc.equal(record.batch["state"], FINAL), pc.equal(record.batch["revision"], 0))
                for counted in pc.value_counts(record.batch.filter(first)["interval"]).to_pylist():
                    found[counted["values"]] = found.get(counted["values"], 0) + counted["counts"]
    return dict(sorted(found.items(), key=lambda item: (parse(item[0]).is_activity, parse(item[0]))))


class _Progress:
    """A bar on a terminal, nothing elsewhere."""

    def __init__(self, file: Path, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(),
            TextColumn("{task.fields[what]}"),
            TimeElapsedColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._fed = self._bars.add_task("read", total=None, what=file.name)
        self._arrived = self._bars.add_task("stored", total=None, what="")

    def fed(self, done: ReplayProgress) -> None:
        """Take how far the file has been read."""
        self._bars.update(self._fed, completed=done.rows, total=done.rows_total, what=f"{done.rows:,} rows")

    def arrived(self, total: int, rest: int) -> None:
        """Take how many partitions of topics have still to arrive."""
        self._bars.update(self._arrived, completed=total - rest, total=total, what="")

    def __enter__(self) -> _Progress:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()


def _report(
    file: Path, result: ReplaySummary, bars: dict[str, int], seconds: float, *, json: bool, waited: bool
) -> None:
    if json:
        emit(
            {
                "file": str(file),
                "feed": result.feed,
                "changed": not result.already,
                "read": result.rows_read,
                "ticks": result.ticks,
                "vendor_bars": result.bars,
                "dead_lettered": result.dead,
                "repeats": result.repeats,
                "unknown_conditions": result.unknown_conditions,
                "bars": bars,
                "seconds": round(seconds, 3),
            }
        )
        return
    for note in result.notes:
        say(f"{file.name}: {note}")
    for error in result.errors:
        say(f"{file.name}: {error}")
    what = ", ".join(f"{n:,} {name}" for n, name in ((result.ticks, "ticks"), (result.bars, "bars")) if n) or "nothing"
    if result.already:
        print(f"{file.name} was replayed before ({what}): nothing has changed")
    else:
        where = "in the tables" if waited else "in the log"
        print(f"{file.name}: {result.rows_read:,} rows read; {what} {where} after {seconds:.1f} s")
        print(f"{result.dead:,} rows dead-lettered, {result.repeats:,} repeats dropped")
    if bars:
        print("bars closed: " + ", ".join(f"{n:,} × {name}" for name, n in bars.items()))
    if result.dead:
        say("`tickerplant tail deadletter` shows what could not be read")
