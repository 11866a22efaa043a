"""Recompute a range of raw records and compare the output of aggregation with the log, byte for byte.

For each partition a stage starts from the newest kept snapshot before the range. If there is no such snapshot, but the
raw topic still contains its first record, the stage starts empty. A range without a start begins at the first raw
record or, if retention has deleted this record, at the oldest kept snapshot. The stage processes the raw records. Its
output for `market.prices.ohlcv`, `market.status` and the dead letters must equal the records of these topics, in order.
At the position of a snapshot the stage's state must equal the snapshot (see `aggregation.snapshot.is_equal`).

The check is read-only. It ends at the offset that aggregation had committed when the check began, so a plant may run
meanwhile. Memory holds one state and some megabytes of each topic, for any length of the range. If retention has
deleted the beginning of a topic, its comparison starts with the first raw record whose output is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.aggregation.snapshot import is_equal
from tickerplant.app.verify.recorded_output import NOTHING, Difference, RecordedOutput
from tickerplant.core import records
from tickerplant.core.errors import BadInput, TickerplantError
from tickerplant.core.schemas import DEADLETTER, FORMING, OHLCV, RAW, STATE_AGGREGATION, STATUS
from tickerplant.core.streams import History, Stage, StageFactory
from tickerplant.core.times import iso
from tickerplant.core.version import make_version, split_version
from tickerplant.log import snapshots
from tickerplant.log.port import ConsumedRecord, EventLog, TopicPartition
from tickerplant.log.snapshots import KeptSnapshot, first_record_from

GROUP: Final = "aggregation"
FROM_THE_BEGINNING: Final = "none"
"""The label for a start without a snapshot, at the first raw record."""
OUTPUT_TOPICS: Final = (OHLCV, STATUS, DEADLETTER)
PROGRESS_RECORDS: Final = 64
_ALL: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Request:
    """A request to verify raw records appended in `[start_us, end_us)`. A bound of None is open.

    `snapshot` is the label of the snapshot to start from, or `none` for the first raw record. If it is None, the
    range selects the start.
    """

    start_us: int | None = None
    end_us: int | None = None
    snapshot: str | None = None


@dataclass(slots=True)
class PartitionResult:
    """The result of one partition.

    Offsets are raw offsets; `end` is exclusive, and equals `begin` for an empty range.
    """

    partition: int
    snapshot: str
    begin: int
    end: int
    records: int = 0
    closed_bars: int = 0
    compared: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTPUT_TOPICS, 0))
    """Records compared, by topic."""
    states: list[str] = field(default_factory=list)
    """Labels of the snapshots that equal the recomputed state."""
    notes: list[str] = field(default_factory=list)
    difference: Difference | None = None

    @property
    def equal(self) -> bool:
        """Return True if no difference was found."""
        return self.difference is None


@dataclass(frozen=True, slots=True)
class Plan:
    """The start and the end of a partition's run."""

    source: TopicPartition
    label: str
    position: int
    end: int
    checkpoints: Sequence[KeptSnapshot]
    """Snapshots to compare the state with, ordered by position."""


Progress = Callable[[int, int, int], None]
"""Function (partition, offsets done, all offsets) that is called every `PROGRESS_RECORDS` records. It may raise to stop
the run."""


def plan(event_log: EventLog, factory: StageFactory, partition: int, request: Request) -> Plan:
    """Return the start, the end and the checkpoints of a partition's run.

    Raises BadInput for a label without a kept snapshot, and TickerplantError if retention has deleted the start.
    """
    source = TopicPartition(RAW, partition)
    end = event_log.committed(GROUP).get(source, 0)
    kept = snapshots.kept_snapshots(event_log, STATE_AGGREGATION, RAW, partition)
    first = event_log.offsets(RAW)[source][0]
    start = _start(event_log, source, first, end, kept, request)
    later = [one for one in kept if start.position < one.position <= end]
    newest = snapshots.read(event_log, STATE_AGGREGATION, partition, snapshots.SNAPSHOT_KEY)
    if newest is not None and start.position < (at := newest.positions.get(RAW, 0)) <= end:
        later.append(KeptSnapshot("", at))
    return Plan(source, start.label, start.position, max(start.position, end), later)


def _start(
    event_log: EventLog, source: TopicPartition, first: int, end: int, kept: Sequence[KeptSnapshot], request: Request
) -> KeptSnapshot:
    beginning = KeptSnapshot(FROM_THE_BEGINNING, 0)
    usable = [one for one in kept if one.position >= first]
    if request.snapshot is not None:
        named = beginning if request.snapshot == FROM_THE_BEGINNING else _named(request.snapshot, source, kept)
        if named.position < first:
            raise _too_late(event_log, source, end, usable, f"from {_name(named)}")
        return named
    if request.start_us is not None:
        for one in reversed(usable):
            found = first_record_from(event_log, source, one.position, end)
            if found is not None and found.appended_at_us <= request.start_us:
                return one
    if first == 0:
        return beginning
    oldest = usable[0] if usable else None
    if oldest is None or request.start_us is not None:
        what = "at all" if request.start_us is None else f"from {iso(request.start_us)} on"
        raise _too_late(event_log, source, end, usable, what)
    return oldest


def _named(label: str, source: TopicPartition, kept: Sequence[KeptSnapshot]) -> KeptSnapshot:
    for one in kept:
        if one.label == label:
            return one
    labels = ", ".join(one.label for one in kept) or "none"
    raise BadInput(f"partition {source.partition} has no kept snapshot {label!r}; kept snapshots: {labels}")


def _name(kept: KeptSnapshot) -> str:
    return "the first raw record" if kept.label == FROM_THE_BEGINNING else f"snapshot {kept.label}"


def _too_late(
    event_log: EventLog, source: TopicPartition, end: int, usable: Sequence[KeptSnapshot], what: str
) -> TickerplantError:
    """Return the error for records that retention has deleted; its message has the earliest possible start."""
    first = event_log.offsets(RAW)[source][0]
    since = "the raw topic is empty"
    if (found := first_record_from(event_log, source, first, end)) is not None:
        since = f"the raw topic begins at offset {found.offset}, appended at {iso(found.appended_at_us)}"
    possible = (
        "There is no kept snapshot to start from. Aggregation keeps one with the first record of each UTC day; run the "
        "command again after that"
    )
    for one in usable:
        if (record := first_record_from(event_log, source, one.position, end)) is not None:
            possible = f"The earliest possible start is --from {iso(record.appended_at_us)}"
            break
    return TickerplantError(
        f"partition {source.partition} cannot be verified {what}, because retention has deleted records: {since}. "
        f"{possible}"
    )


def verify(
    event_log: EventLog, factory: StageFactory, chosen: Plan, request: Request, progress: Progress | None = None
) -> PartitionResult:
    """Recompute a partition's range and return the result, up to the first difference.

    Blocks for a millisecond or less per record. Raises SnapshotRefused for a snapshot of another format, and
    TickerplantError if retention has deleted records that the run needed.
    """
    run = _Run(event_log, factory, chosen, request)
    run.run(progress)
    if event_log.offsets(RAW)[chosen.source][0] > chosen.position:
        raise TickerplantError(
            f"retention deleted raw records of partition {chosen.source.partition} during the run; verify a later range"
        )
    return run.found


class _Run:
    """The run of one partition."""

    def __init__(self, event_log: EventLog, factory: StageFactory, chosen: Plan, request: Request) -> None:
        self._log, self._factory, self._plan, self._request = event_log, factory, chosen, request
        self._generation = event_log.identity().generation
        self._partition = chosen.source.partition
        self._checkpoints = list(chosen.checkpoints)
        self._recorded: dict[str, RecordedOutput] = {}
        self._deleted_at: int | None = None
        self._last = -1
        self.found = PartitionResult(self._partition, chosen.label, chosen.position, chosen.position)

    def run(self, progress: Progress | None) -> None:
        """Step through the range until its end or the first difference."""
        chosen, found = self._plan, self.found
        stage = self._stage()
        end_us = _ALL if self._request.end_us is None else self._request.end_us
        for done, record in enumerate(self._log.read_range(chosen.source, chosen.position, chosen.end), 1):
            if record.appended_at_us >= end_us:
                break
            if not self._check_states(stage, record.offset):
                return
            self._step(stage, record)
            if not found.equal:
                self._note_deleted()
                return
            if progress is not None and done % PROGRESS_RECORDS == 0:
                progress(self._partition, record.offset - chosen.position, chosen.end - chosen.position)
        else:
            if not self._check_states(stage, chosen.end):
                return
        for recorded in self._recorded.values():
            found.difference = found.difference or recorded.find_extra(make_version(self._generation, self._last))

    def _stage(self) -> Stage:
        if self._plan.label == FROM_THE_BEGINNING:
            return self._factory(self._partition, None)
        key = snapshots.KEPT_PREFIX + self._plan.label
        snapshot = snapshots.read(self._log, STATE_AGGREGATION, self._partition, key)
        if snapshot is None:
            raise TickerplantError(f"the snapshot {self._plan.label} was deleted during the run; verify a later range")
        return self._factory(
            self._partition, snapshots.check(snapshot, GROUP, self._partition, self._factory.format).state
        )

    def _step(self, stage: Stage, record: ConsumedRecord) -> None:
        produced = stage.step(record, self._history(record.offset))
        if record.appended_at_us < (self._request.start_us or -_ALL):
            return
        version = make_version(self._generation, record.offset)
        if not self._recorded:
            self.found.begin = record.offset
            self._open(version)
        self._last = record.offset
        found = self.found
        found.records += 1
        found.end = record.offset + 1
        for topic, recorded in self._recorded.items():
            values = [output.value for output in produced if output.topic == topic]
            found.difference = recorded.compare(version, values)
            found.compared[topic] = recorded.compared
            if found.difference is not None:
                return
            if topic == OHLCV and version >= recorded.since:
                found.closed_bars += sum(map(_closed, values))

    def _open(self, version: int) -> None:
        for topic in OUTPUT_TOPICS:
            recorded = RecordedOutput(self._log, TopicPartition(topic, self._partition), self._generation, version)
            self._recorded[topic] = recorded
            if recorded.since > version and topic != DEADLETTER:
                since = "" if recorded.since == NOTHING else f" before raw offset {split_version(recorded.since)[1]}"
                self.found.notes.append(f"not compared: retention has deleted the records of {topic}{since}")

    def _history(self, offset: int) -> History:
        source = self._plan.source

        def read(begin: int, end: int) -> Iterator[ConsumedRecord]:
            if begin < self._log.offsets(RAW)[source][0]:
                self._deleted_at = offset
            return self._log.read_range(source, begin, min(end, offset))

        return read

    def _note_deleted(self) -> None:
        if self._deleted_at is not None:
            self.found.notes.append(
                f"the output of raw offset {self._deleted_at} cannot be recomputed: it needs ticks that retention has "
                "deleted"
            )

    def _check_states(self, stage: Stage, offset: int) -> bool:
        """Compare the state with the snapshots at positions up to `offset`; return False at the first difference."""
        while self._checkpoints and self._checkpoints[0].position <= offset:
            kept = self._checkpoints.pop(0)
            key = kept.key if kept.label else snapshots.SNAPSHOT_KEY
            snapshot = snapshots.read(self._log, STATE_AGGREGATION, self._partition, key)
            # The snapshot was deleted, or a running plant replaced it; there is nothing to compare with.
            if snapshot is None or snapshot.positions.get(RAW) != kept.position:
                continue
            name = kept.label or "the newest"
            snapshot_name = f"snapshot {kept.label}" if kept.label else "the newest snapshot"
            if snapshot.format != self._factory.format:
                self.found.notes.append(f"{snapshot_name} is not compared, because it has another format")
                continue
            state = stage.snapshot()
            if not is_equal(snapshot.state, state):
                at = next((i for i, (a, b) in enumerate(zip(snapshot.state, state, strict=False)) if a != b), -1)
                where = f"the first difference is at byte {at}" if at >= 0 else "one is a prefix of the other"
                self.found.difference = Difference(
                    "state", STATE_AGGREGATION, kept.position, None,
                    f"the state before raw offset {kept.position} differs from {snapshot_name}: "
                    f"{len(snapshot.state)} bytes kept, {len(state)} bytes recomputed, {where}",
                )  # fmt: skip
                self._note_deleted()
                return False
            self.found.states.append(name)
        return True


def _closed(value: Any) -> int:
    """Return the number of closed bars in a record of `market.prices.ohlcv`."""
    record = records.decode(value)
    if not isinstance(record.header, records.Bars):
        return 0
    return int(pc.sum(pc.not_equal(record.batch["state"].cast(pa.utf8()), FORMING)).as_py() or 0)
