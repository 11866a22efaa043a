"""`tickerplant verify`."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tickerplant.app.commands.common import emit, table, time_range
from tickerplant.app.terminal.output import echo
from tickerplant.core.errors import BadInput, TickerplantError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.app.terminal.progress import ProgressBars
    from tickerplant.app.verify.replay_check import PartitionResult


LABEL: Final = "verify"


def verify(
    loaded: Loaded,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Start of the range of append times, inclusive; default: as early as possible."),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="End of the range of append times, exclusive.")] = None,
    partition: Annotated[
        list[int] | None, typer.Option("--partition", min=0, help="Verify only this partition. Repeatable.")
    ] = None,
    snapshot: Annotated[
        str | None,
        typer.Option(
            "--snapshot", metavar="none|LABEL", help="Start from this kept snapshot; none: from the first raw record."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per partition.")] = False,
) -> None:
    """Recompute bars from raw records and compare every byte with the log.

    Read-only. Exits with 1 if a record differs.
    """
    from tickerplant.app.runtime import services
    from tickerplant.app.runtime.signals import signals
    from tickerplant.app.terminal.progress import ProgressBars
    from tickerplant.app.verify import replay_check
    from tickerplant.app.wiring import open_readonly
    from tickerplant.core.schemas import RAW

    request = replay_check.Request(*time_range(from_, to), snapshot)
    stop = threading.Event()
    found: list[PartitionResult] = []
    with open_readonly.log_of(loaded.settings) as event_log, signals(stop):
        partitions = event_log.partitions(RAW)
        chosen = sorted(set(partition or range(partitions)))
        if chosen[-1] >= partitions:
            raise BadInput(f"there is no partition {chosen[-1]}; the log has {partitions} partitions, numbered from 0")
        factory = services.aggregation_stages(event_log)
        plans = [replay_check.plan(event_log, factory, number, request) for number in chosen]
        with ProgressBars((LABEL,), quiet=json) as bars:
            progress = _Progress(bars, sum(plan.end - plan.position for plan in plans), stop)
            for plan in plans:
                found.append(replay_check.verify(event_log, factory, plan, request, progress.update))
                progress.finish(plan.end - plan.position)
                if json:
                    emit(_as_dict(found[-1]))
    if not json:
        _print(found)
    if not all(one.equal for one in found):
        raise typer.Exit(1)


def _as_dict(found: PartitionResult) -> dict[str, Any]:
    result = asdict(found)
    if found.difference is not None:
        result["difference"]["cells"] = [
            {"where": cell.where, "column": cell.column, "logged": cell.recorded, "made": cell.recomputed}
            for cell in found.difference.cells
        ]
    return {"equal": found.equal, **result}


def _print(found: list[PartitionResult]) -> None:
    from tickerplant.core.schemas import DEADLETTER, OHLCV, STATUS

    headings = ("partition", "result", "from snapshot", "raw offsets", "raw records", "closed bars",
                "bars", "status", "dead", "equal to snapshots")  # fmt: skip
    rows = []
    for one in found:
        counts = (one.records, one.closed_bars, *(one.compared[topic] for topic in (OHLCV, STATUS, DEADLETTER)))
        result, offsets = "equal" if one.equal else "DIFFERS", f"[{one.begin}, {one.end})"
        numbers = (f"{count:,}" for count in counts)
        rows.append((one.partition, result, one.snapshot, offsets, *numbers, ", ".join(one.states)))
    table(headings, rows)
    for one in found:
        for note in one.notes:
            echo(f"partition {one.partition}: {note}")
    for one in found:
        if one.difference is not None:
            _print_difference(one)
    if all(one.equal for one in found):
        bars, records = sum(one.closed_bars for one in found), sum(one.records for one in found)
        if records:
            echo(f"equal: {records:,} raw records give the same {bars:,} closed bars, byte for byte")
        else:
            echo("nothing to compare: aggregation has read no raw record of this range")


def _print_difference(one: PartitionResult) -> None:
    difference = one.difference
    assert difference is not None
    where = f", log offset {difference.log_offset}" if difference.log_offset is not None else ""
    place = f"partition {one.partition}, raw offset {difference.raw_offset}, {difference.topic}{where}"
    echo(f"\n{place}: {difference.sentence}")
    if difference.cells:
        table(("where", "column", "in the log", "recomputed"), difference.cells)


class _Progress:
    """Shows the progress over all partitions in a progress bar. Ends the run when `stop` is set."""

    def __init__(self, bars: ProgressBars, total: int, stop: threading.Event) -> None:
        self._bars, self._total, self._stop, self._finished = bars, total, stop, 0

    def update(self, partition: int, done: int, total: int) -> None:
        """Show the progress of a partition. Raises TickerplantError if `stop` is set."""
        del total
        if self._stop.is_set():
            raise TickerplantError("stopped before everything was compared; run the same command again")
        done += self._finished
        self._bars.update(LABEL, done, self._total, f"partition {partition}, {done:,} of {self._total:,} records")

    def finish(self, total: int) -> None:
        """Count a partition of `total` records as compared."""
        self._finished += total
