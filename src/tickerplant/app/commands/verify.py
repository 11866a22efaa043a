"""`tickerplant verify`."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickerplant.app.commands.common import emit, table, time_option
from tickerplant.core.errors import BadInput, TickerplantError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.app.verify.replay_check import Verified


def verify(
    loaded: Loaded,
    from_: Annotated[
        str | None, typer.Option("--from", help="From this time of appending on; without it as early as can be.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="Before this time of appending.")] = None,
    partition: Annotated[
        list[int] | None, typer.Option("--partition", min=0, help="Only this partition; may be repeated.")
    ] = None,
    snapshot: Annotated[
        str | None,
        typer.Option("--snapshot", metavar="none|LABEL", help="Begin from this kept snapshot, or with none."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a partition.")] = False,
) -> None:
    """Run aggregation again over raw and compare every byte with what the log has. Reads alone; 1 if they differ."""
    from tickerplant.app.runtime import services
    from tickerplant.app.runtime.memory_tuning import lean
    from tickerplant.app.runtime.supervisor import signals
    from tickerplant.app.verify import replay_check as verifying
    from tickerplant.app.wiring import open_readonly
    from tickerplant.core.schemas import RAW

    lean()
    asked = verifying.Asked(time_option(from_, "--from"), time_option(to, "--to"), snapshot)
    if asked.from_us is not None and asked.to_us is not None and asked.from_us >= asked.to_us:
        raise BadInput(f"--from {from_} is not before --to {to}")
    stop = threading.Event()
    found: list[Verified] = []
    with open_readonly.log_of(loaded.settings) as event_log, signals(stop):
        partitions = event_log.partitions(RAW)
        chosen = sorted(set(partition or range(partitions)))
        if chosen[-1] >= partitions:
            raise BadInput(f"there is no partition {chosen[-1]}; the log has {partitions}, counted from 0")
        factory = services.aggregation_stages(event_log)
        plans = [verifying.plan(event_log, factory, number, asked) for number in chosen]
        with _Progress(sum(plan.end - plan.position for plan in plans), stop, quiet=json) as progress:
            for plan in plans:
                found.append(verifying.verify(event_log, factory, plan, asked, progress.at))
                progress.done(plan.end - plan.position)
                if json:
                    emit(_as_dict(found[-1]))
    if not json:
        _print(found)
    if not all(one.equal for one in found):
        raise typer.Exit(1)


def _as_dict(found: Verified) -> dict[str, Any]:
    said = asdict(found)
    if found.difference is not None:
        said["difference"]["cells"] = [cell._asdict() for cell in found.difference.cells]
    return {"equal": found.equal, **said}


def _print(found: list[Verified]) -> None:
    from tickerplant.core.schemas import DEADLETTER, OHLCV, STATUS

    headings = ("partition", "result", "from snapshot", "raw offsets", "raw records", "closed bars",
                "bars", "status", "dead", "equal to snapshots")  # fmt: skip
    rows = []
    for one in found:
        counts = (one.records, one.closed_bars, *(one.compared[topic] for topic in (OHLCV, STATUS, DEADLETTER)))
        result, stretch = "equal" if one.equal else "DIFFERS", f"[{one.begin}, {one.end})"
        numbers = (f"{count:,}" for count in counts)
        rows.append((one.partition, result, one.snapshot, stretch, *numbers, ", ".join(one.states)))
    table(headings, rows)
    for one in found:
        for note in one.notes:
            print(f"partition {one.partition}: {note}")
    for one in found:
        if one.difference is not None:
            _print_difference(one)
    if all(one.equal for one in found):
        bars, records = sum(one.closed_bars for one in found), sum(one.records for one in found)
        if records:
            print(f"equal: {records:,} raw records make the same {bars:,} closed bars, byte for byte")
        else:
            print("nothing to compare: aggregation has read no raw record yet")


def _print_difference(one: Verified) -> None:
    difference = one.difference
    assert difference is not None
    where = f", log offset {difference.log_offset}" if difference.log_offset is not None else ""
    place = f"partition {one.partition}, raw offset {difference.raw_offset}, {difference.topic}{where}"
    print(f"\n{place}: {difference.sentence}")
    if difference.cells:
        table(("where", "column", "on the log", "made again"), difference.cells)


class _Progress:
    """A bar on a terminal, nothing elsewhere; stops the work when asked to."""

    def __init__(self, total: int, stop: threading.Event, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._stop, self._before = stop, 0
        self._bars = Progress(
            TextColumn("partition {task.fields[partition]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._task = self._bars.add_task("verify", total=total, partition=0)

    def at(self, partition: int, done: int, total: int) -> None:
        """Take how far a partition is."""
        del total
        if self._stop.is_set():
            raise TickerplantError("stopped before all was compared; what was compared is equal")
        self._bars.update(self._task, completed=self._before + done, partition=partition)

    def done(self, total: int) -> None:
        """Take that a partition is done."""
        self._before += total
        self._bars.update(self._task, completed=self._before)

    def __enter__(self) -> _Progress:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()
