"""`tickerplant replay`."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tickerplant.app.commands.common import ColumnOption, DateOrderOption, DecimalOption, StrictOption, emit, notify
from tickerplant.app.commands.feeding import (
    exit_if_remaining,
    plant_to_feed,
    wait_until_computed,
    wait_until_stored,
)
from tickerplant.app.disk import free_space
from tickerplant.app.terminal.output import echo
from tickerplant.core.errors import BadInput, LogUnavailable, TickerplantError
from tickerplant.core.free_space import MIB

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.app.terminal.progress import ProgressBars
    from tickerplant.core.free_space import FreeSpace
    from tickerplant.log.port import EventLog, TopicPartition
    from tickerplant.market_data.files.replay import ReplayOptions, ReplayProgress, ReplaySummary


@dataclass(frozen=True, slots=True)
class Published:
    """The bars that a replay published: the count of closed bars by interval, without revisions.

    `cut`: symbol and start of each minute whose prints this file shares with another file of its source. `unused`: the
    count of rows that bars do not contain, by reason. `remaining`: a sentence about indicators that are not recomputed
    yet, "" if there are none.
    """

    bars: dict[str, int] = field(default_factory=dict)
    cut: list[tuple[str, str]] = field(default_factory=list)
    unused: dict[str, int] = field(default_factory=dict)
    remaining: str = ""


WholeOption = Annotated[
    bool | None,
    typer.Option(
        "--whole/--partial",
        help="Treat the first and last minute of the file as complete or incomplete. Default: complete, unless another "
        "file of the source continues the minute.",
        show_default=False,
    ),
]

READ: Final = "read"
STORED: Final = "stored"

SPACE_POLL_S: Final = 0.5
"""Seconds between two checks of the free space, while the disk is almost full."""
OUTAGE_S: Final = 120.0
"""Maximum seconds to wait for a log that becomes unavailable during a replay. A restarted broker is available
again within seconds."""


def replay(
    loaded: Loaded,
    file: Annotated[
        Path, typer.Argument(help="File of ticks or bars: CSV (also .gz), Parquet or Databento's DBN (also .zst).")
    ],
    symbol: Annotated[str | None, typer.Option("--symbol", help="Symbol, if the file has no symbol column.")] = None,
    interval: Annotated[str | None, typer.Option("--interval", help="Interval of the bars in the file.")] = None,
    tz: Annotated[
        str | None, typer.Option("--tz", help="Time zone of times without one, e.g. America/New_York.")
    ] = None,
    date_order: DateOrderOption = None,
    speed: Annotated[
        float | None, typer.Option("--speed", min=0.001, help="Multiple of real time; default: as fast as possible.")
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Name of the source, for source priority.")] = None,
    conditions: Annotated[
        str | None,
        typer.Option(
            "--conditions",
            help="Code set of the trade conditions. Default: as the column tape defines.",
            metavar="cta|utp|polygon",
        ),
    ] = None,
    column: ColumnOption = None,
    decimal: DecimalOption = None,
    strict: StrictOption = False,
    whole: WholeOption = None,
    force_interval: Annotated[
        bool, typer.Option("--force-interval", help="Read bars whose times do not fit their interval.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until everything is in the tables.")] = True,
    s_partitions: Annotated[
        int | None,
        typer.Option("--partitions", help="Number of partitions of new topics.", rich_help_panel="Settings"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Feed a file of ticks or bars through the plant into the tables. A second replay of a file changes nothing.

    Uses the plant that runs on the data folder, or else runs the services itself. On Kafka, a plant must run.
    """
    from tickerplant.app.wiring import files

    if not file.is_file():
        raise BadInput(f"there is no file {file}; check the path")
    options = files.replay_options(
        symbol=symbol,
        interval=interval,
        tz=tz,
        date_order=date_order,
        speed=speed,
        source=source,
        conditions=conditions,
        columns=column,
        decimal=decimal,
        strict=strict,
    )
    _replay(
        loaded.for_files(), file, replace(options, whole=whole, force_interval=force_interval), wait=wait, json=json
    )


def _replay(loaded: Loaded, file: Path, options: ReplayOptions, *, wait: bool, json: bool) -> None:
    """Feed the file and print the result."""
    from tickerplant.app.runtime.signals import signals
    from tickerplant.app.terminal.progress import ProgressBars

    stop, began = threading.Event(), time.monotonic()
    with signals(stop), ProgressBars((READ, STORED), quiet=json) as progress:
        run = _feed_and_wait if wait else _feed_only
        result, published = run(loaded, file, options, progress, stop)
    _report(file, result, published, time.monotonic() - began, json=json, waited=wait)


def _feed_and_wait(
    loaded: Loaded, file: Path, options: ReplayOptions, progress: ProgressBars, stop: threading.Event
) -> tuple[ReplaySummary, Published]:
    """Feed the file and wait until it is in the tables; return the summary and the published bars."""
    from tickerplant.core.schemas import OHLCV, STATUS

    with plant_to_feed(loaded) as (plant, own_services):
        before = plant.event_log.offsets(OHLCV) | plant.event_log.offsets(STATUS)
        result = _feed(plant.event_log, file, options, progress, stop, free_space(loaded.settings))
        wait_until_stored(
            plant,
            result.ends,
            stop,
            own_services=own_services,
            report=lambda total, missing: progress.update(STORED, total - missing, total),
        )
        positions = {tp: end for tp, (_, end) in before.items()}
        published = _published_since(plant.event_log, positions, result.feed)
        published = replace(published, unused=_unused_since(plant.event_log, positions, result.feed))
        remaining = wait_until_computed(plant, result.ends, stop, own_services=own_services)
    return result, replace(published, remaining=remaining)


def _feed_only(
    loaded: Loaded, file: Path, options: ReplayOptions, progress: ProgressBars, stop: threading.Event
) -> tuple[ReplaySummary, Published]:
    """Feed the file into the log; return the summary and an empty `Published`."""
    from tickerplant.app.wiring.log import open_log
    from tickerplant.app.wiring.rules import ensure_rules

    with open_log(loaded.settings) as event_log:
        ensure_rules(event_log, loaded.settings, only_first=True)
        return _feed(event_log, file, options, progress, stop, free_space(loaded.settings)), Published()


def _feed(
    event_log: EventLog, file: Path, options: ReplayOptions, progress: ProgressBars, stop: threading.Event,
    space: FreeSpace,
) -> ReplaySummary:  # fmt: skip
    """Feed the file, and pause while `space` is low. While the log is unavailable, retry from the last position."""
    from tickerplant.app.wiring import files

    def report(done: ReplayProgress) -> None:
        progress.update(READ, done.rows, done.rows_total, f"{done.rows:,} rows of {file.name}")
        _wait_for_space(space, stop)

    retry_until = time.monotonic() + OUTAGE_S
    while True:
        began = time.monotonic()
        try:
            result = files.replay(event_log, file, options, progress=report, stop=stop)
            break
        except LogUnavailable as error:
            if began > retry_until:
                raise
            if time.monotonic() - began > OUTAGE_S:  # the attempt ran for a long time before it failed
                retry_until = time.monotonic() + OUTAGE_S
            notify(f"the log is unavailable, retrying from the last position: {error}")
            if stop.wait(1.0):
                raise
    if result.stopped:
        raise TickerplantError("stopped before the end of the file; run the same command again to continue")
    return result


def _wait_for_space(space: FreeSpace, stop: threading.Event) -> None:
    """Wait while the disk is almost full, until `stop`."""
    if space.is_low():
        least, resume = space.least_bytes // MIB, space.resume_bytes // MIB
        notify(
            f"the replay waits, because less than {least:,} MiB are free (min_free_mb); free some space, until "
            f"{resume:,} MiB are free"
        )
        while space.is_low() and not stop.wait(SPACE_POLL_S):
            pass


def _published_since(event_log: EventLog, positions: dict[TopicPartition, int], feed: str) -> Published:
    """Return the bars that aggregation published from records of this feed after these positions."""
    import pyarrow.compute as pc

    from tickerplant.core.arrow_values import times_of
    from tickerplant.core.interval import parse
    from tickerplant.core.reasons import CUT
    from tickerplant.core.records import Bars, decode
    from tickerplant.core.schemas import FINAL, OHLCV
    from tickerplant.core.times import iso
    from tickerplant.log.port import at_positions

    found, cut = dict[str, int](), set[tuple[str, str]]()
    after = {tp: position for tp, position in positions.items() if tp.topic == OHLCV}
    with event_log.reader([OHLCV], start=at_positions(after)) as reader:
        while deliveries := reader.poll(timeout_s=0.05):
            for delivery in deliveries:
                record = decode(delivery.value)
                if not isinstance(record.header, Bars) or record.header.feed != feed:
                    continue
                first = pc.and_(pc.equal(record.batch["state"], FINAL), pc.equal(record.batch["revision"], 0))
                for counted in pc.value_counts(record.batch["interval"].filter(first)).to_pylist():
                    found[counted["values"]] = found.get(counted["values"], 0) + counted["counts"]
                if CUT not in record.batch["reason"].dictionary.to_pylist():
                    continue
                minutes = record.batch.filter(
                    pc.and_(pc.equal(record.batch["reason"], CUT), pc.equal(record.batch["interval"], "1m"))
                )
                starts = [iso(start_us) for start_us in times_of(minutes["time"]).tolist()]
                cut.update(zip(minutes["symbol"].to_pylist(), starts, strict=True))
    closed = dict(sorted(found.items(), key=lambda item: (parse(item[0]).is_activity, parse(item[0]))))
    return Published(closed, sorted(cut, key=lambda minute: (minute[1], minute[0])))


def _unused_since(event_log: EventLog, positions: dict[TopicPartition, int], feed: str) -> dict[str, int]:
    """Return the number of rows of this feed that bars do not contain, by reason, reported after these positions."""
    from tickerplant.core.records import FeedState, header_of
    from tickerplant.core.schemas import STATUS
    from tickerplant.log.port import at_positions

    found: dict[str, int] = {}
    after = {tp: position for tp, position in positions.items() if tp.topic == STATUS}
    with event_log.reader([STATUS], start=at_positions(after)) as reader:
        while deliveries := reader.poll(timeout_s=0.05):
            for delivery in deliveries:
                header = header_of(delivery.value)
                if isinstance(header, FeedState) and header.feed == feed and header.state in ("late", "unsupported"):
                    found[header.reason] = found.get(header.reason, 0) + header.count
    return found


def _note_of_unused(reason: str, count: int) -> str:
    from tickerplant.core.reasons import NO_PRINT

    if reason == NO_PRINT:
        return (
            f"{count:,} cancels or corrections have no earlier print with their id, time and symbol in this file, so "
            "they change no bar; replay one file that contains the prints and the later cancels and corrections"
        )
    return f"{count:,} rows or symbols not used for bars: {reason}"


def _report(
    file: Path, result: ReplaySummary, published: Published, seconds: float, *, json: bool, waited: bool
) -> None:
    bars, cut = published.bars, [{"symbol": symbol, "time": start} for symbol, start in published.cut]
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
                "conflicts": result.conflicts,
                "unknown_conditions": result.unknown_conditions,
                "bars": bars,
                "cut_minutes": cut,
                "unused": published.unused,
                "notes": [*result.notes],
                "errors": result.errors,
                "seconds": round(seconds, 3),
                "remaining": published.remaining or None,
            }
        )
        exit_if_remaining(published.remaining)
        return
    for note in result.notes:
        notify(f"{file.name}: {note}")
    if cut:
        more = f" and {len(cut) - 1:,} more minutes" if len(cut) > 1 else ""
        notify(
            f"{file.name}: the minute {cut[0]['time']} of {cut[0]['symbol']}{more} continues in another file of the "
            "source, so its bars are incomplete; replay one file with all prints of the minute, or decide with --whole "
            "or --partial"
        )
    for reason, count in published.unused.items():
        notify(f"{file.name}: {_note_of_unused(reason, count)}")
    for error in result.errors:
        notify(f"{file.name}: {error}")
    what = ", ".join(f"{n:,} {name}" for n, name in ((result.ticks, "ticks"), (result.bars, "bars")) if n) or "nothing"
    if result.already:
        echo(f"{file.name} was replayed before ({what}); nothing has changed")
    else:
        where = "in the tables" if waited else "in the log"
        echo(f"{file.name}: {result.rows_read:,} rows read; {what} {where} after {seconds:.1f} s")
        conflicts = f" ({result.conflicts:,} of them conflicts)" if result.conflicts and result.ticks else ""
        echo(f"{result.dead:,} rows dead-lettered{conflicts}, {result.repeats:,} repeats dropped")
    if bars:
        echo("bars closed: " + ", ".join(f"{n:,} × {name}" for name, n in bars.items()))
    if result.dead:
        notify("see `tickerplant tail deadletter` for the rows that could not be read")
    exit_if_remaining(published.remaining)
