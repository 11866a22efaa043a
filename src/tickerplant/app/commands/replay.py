"""`tickerplant replay`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tickerplant.app.commands.common import emit, say
from tickerplant.core.errors import BadInput, LogError, LogUnavailable, TickerplantError

if TYPE_CHECKING:
    from tickerplant.app.plant import Plant
    from tickerplant.app.settings import Loaded
    from tickerplant.log.port import EventLog, TopicPartition
    from tickerplant.market_data.replay import ReplayOptions, ReplayProgress, ReplaySummary

LOOK_S: Final = 0.05
HINT_S: Final = 15.0
AWAY_S: Final = 120.0
"""How long a replay waits for a log that went away under it; a broker is back within seconds of its restart."""

LOCAL: Final = ("aggregation", "analytics", "persistence")
"""The services that turn raw records into tables."""


def replay(
    loaded: Loaded,
    file: Annotated[Path, typer.Argument(help="Ticks or bars: CSV (also .gz) or Parquet.")],
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

    Feeds the plant that runs on the data folder, or brings its own for as long as it takes.
    """
    from tickerplant.app import parts
    from tickerplant.app.lean import lean
    from tickerplant.app.supervisor import signals
    from tickerplant.core.schemas import OHLCV

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
    bars: dict[str, int] = {}
    with signals(stop), _Progress(file, quiet=json) as progress:
        if wait:
            with _plant(loaded) as (plant, brought):
                before = plant.event_log.offsets(OHLCV)
                result = _feed(plant.event_log, file, options, progress, stop)
                _wait(plant, result, progress, stop, brought=brought)
                bars = _bars_since(plant.event_log, {tp: end for tp, (_, end) in before.items()}, result.feed)
        else:
            with parts.event_log(loaded.settings) as event_log:
                parts.ensure_settings(event_log, loaded.settings, only_first=True)
                result = _feed(event_log, file, options, progress, stop)
    _report(file, result, bars, time.monotonic() - began, json=json, waited=wait)


def _feed(
    event_log: EventLog, file: Path, options: ReplayOptions, progress: _Progress, stop: threading.Event
) -> ReplaySummary:
    from tickerplant.app import parts

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
    return dict(sorted(found.items(), key=lambda item: parse(item[0]).us))


@contextlib.contextmanager
def _plant(loaded: Loaded) -> Iterator[tuple[Plant, bool]]:
    """Give the plant to feed, and whether its services are ours."""
    from tickerplant.app import parts
    from tickerplant.app import plant as plants

    settings = loaded.settings
    if not settings.embedded_log or plants.folder_is_held(settings):
        with plants.opened(settings) as plant:
            parts.ensure_settings(plant.event_log, settings, only_first=True)
            yield plant, False
        return
    with plants.folder_alone(settings), plants.opened(settings) as plant:
        parts.ensure_settings(plant.event_log, settings)
        supervisor = plant.supervise(LOCAL)
        supervisor.start()
        try:
            yield plant, True
        finally:
            supervisor.stop()


def _wait(plant: Plant, result: ReplaySummary, progress: _Progress, stop: threading.Event, *, brought: bool) -> None:
    from tickerplant.app import parts
    from tickerplant.app.catchup import STAGES, Chase

    chase = Chase(result.ends, plant.event_log.identity().generation)
    hint_s: float | None = time.monotonic() + HINT_S
    before: list[tuple[str, int]] = []
    with parts.StorePositions(plant.dsn) as positions:
        while rest := chase.missing(parts.progress(plant.event_log, positions)):
            progress.arrived(3 * len(result.ends), len(rest))
            if stop.wait(LOOK_S):
                raise TickerplantError("stopped before all was in the tables; nothing is lost, the log has it")
            failure = plant.supervisor.failure()
            if failure is not None:
                raise failure if isinstance(failure, TickerplantError) else LogError(f"a service gave up: {failure}")
            if rest != before:
                before, hint_s = rest, time.monotonic() + HINT_S
            elif not brought and hint_s is not None and time.monotonic() > hint_s:
                hint_s = None
                say(f"waiting for: {STAGES[rest[0][0]]}. Are aggregation, analytics and persistence running?")
        progress.arrived(3 * len(result.ends), 0)


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
