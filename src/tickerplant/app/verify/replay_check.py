"""Does the log still say what aggregation made of it? A stretch of raw is run again, and every byte is compared.

By partition: a stage is made from the newest kept snapshot before the stretch (or new, where raw still begins at its
first record), steps through raw, and what it makes for `market.prices.ohlcv`, `market.status` and the dead letters must
stand there in the same order, byte for byte. Where the position of a snapshot is passed, the state must be its bytes.

It reads alone, up to what aggregation had committed when it began, so it may run beside a plant. Memory holds one state
and some megabytes of each topic, however long the stretch. A topic whose beginning retention has taken is compared from
the first raw record on of which it has everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.app.verify.recorded_output import NOTHING, Difference, Logged
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
"""Stands for the label of a snapshot where there is none."""
MADE: Final = (OHLCV, STATUS, DEADLETTER)
PROGRESS_RECORDS: Final = 64
_ALL: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Asked:
    """What to verify: raw records appended in `[from_us, to_us)`, None without a bound.

    `snapshot`: the label to begin from, `none` for the beginning of raw; None: as the stretch wants it.
    """

    from_us: int | None = None
    to_us: int | None = None
    snapshot: str | None = None


@dataclass(slots=True)
class Verified:
    """What one partition's run found. Offsets are raw; `end` is exclusive, and `begin` if nothing was there."""

    partition: int
    snapshot: str
    begin: int
    end: int
    records: int = 0
    closed_bars: int = 0
    compared: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MADE, 0))
    """Records compared, by topic."""
    states: list[str] = field(default_factory=list)
    """Labels of the snapshots whose bytes the state has been compared with, and is equal to."""
    notes: list[str] = field(default_factory=list)
    difference: Difference | None = None

    @property
    def equal(self) -> bool:
        """Whether no difference was found."""
        return self.difference is None


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a partition's run begins and how far it goes, decided before anything is run."""

    source: TopicPartition
    label: str
    position: int
    end: int
    checkpoints: Sequence[KeptSnapshot]
    """Snapshots to compare the state with, by position."""


Progress = Callable[[int, int, int], None]
"""Told (partition, raw records' offsets done, of how many) now and then; may raise to stop."""


def plan(event_log: EventLog, factory: StageFactory, partition: int, asked: Asked) -> Plan:
    """Decide where to begin. Raises BadInput for a label that is not kept, TickerplantError where raw begins too late,
    SnapshotRefused for a snapshot of another format.
    """
    source = TopicPartition(RAW, partition)
    end = event_log.committed(GROUP).get(source, 0)
    kept = snapshots.kept_snapshots(event_log, STATE_AGGREGATION, RAW, partition)
    first = event_log.offsets(RAW)[source][0]
    start = _start(event_log, source, first, end, kept, asked)
    later = [one for one in kept if start.position < one.position <= end]
    newest = snapshots.read(event_log, STATE_AGGREGATION, partition, snapshots.SNAPSHOT_KEY)
    if newest is not None and start.position < (at := newest.positions.get(RAW, 0)) <= end:
        later.append(KeptSnapshot("", at))
    return Plan(source, start.label, start.position, max(start.position, end), later)


def _start(
    event_log: EventLog, source: TopicPartition, first: int, end: int, kept: Sequence[KeptSnapshot], asked: Asked
) -> KeptSnapshot:
    beginning = KeptSnapshot(FROM_THE_BEGINNING, 0)
    usable = [one for one in kept if one.position >= first]
    if asked.snapshot is not None:
        named = beginning if asked.snapshot == FROM_THE_BEGINNING else _named(asked.snapshot, source, kept)
        if named.position < first:
            raise _too_late(event_log, source, first, end, usable, f"from {_called(named)}")
        return named
    if asked.from_us is not None:
        for one in reversed(usable):
            found = first_record_from(event_log, source, one.position, end)
            if found is not None and found.appended_at_us <= asked.from_us:
                return one
    if first == 0:
        return beginning
    oldest = usable[0] if usable else None
    if oldest is None or asked.from_us is not None:
        raise _too_late(
            event_log, source, first, end, usable, "from then on" if asked.from_us is not None else "at all"
        )
    return oldest


def _named(label: str, source: TopicPartition, kept: Sequence[KeptSnapshot]) -> KeptSnapshot:
    for one in kept:
        if one.label == label:
            return one
    have = ", ".join(one.label for one in kept) or "none at all"
    raise BadInput(f"partition {source.partition} has no kept snapshot {label!r}; it has {have}")


def _called(kept: KeptSnapshot) -> str:
    return "the beginning of raw" if kept.label == FROM_THE_BEGINNING else f"snapshot {kept.label}"


def _too_late(
    event_log: EventLog, source: TopicPartition, first: int, end: int, usable: Sequence[KeptSnapshot], what: str
) -> TickerplantError:
    """Return the error that says what retention has taken, and from when on there is all that is needed."""
    since = "raw is empty"
    if (found := first_record_from(event_log, source, first, end)) is not None:
        since = f"raw begins at offset {found.offset}, of {iso(found.appended_at_us)}"
    possible = "no kept snapshot is left to begin from; one is kept with the first record of each UTC day"
    for one in usable:
        if (record := first_record_from(event_log, source, one.position, end)) is not None:
            possible = f"the earliest that can be verified is --from {iso(record.appended_at_us)}"
            break
    return TickerplantError(
        f"partition {source.partition} cannot be verified {what}: retention has passed it ({since}); {possible}"
    )


def verify(
    event_log: EventLog, factory: StageFactory, chosen: Plan, asked: Asked, progress: Progress | None = None
) -> Verified:
    """Run a partition's stretch again and return what was found, up to the first difference.

    Blocks, a millisecond or less a record. Raises SnapshotRefused as `plan` does, TickerplantError when retention has
    taken records that the run needed.
    """
    run = _Run(event_log, factory, chosen, asked)
    run.go(progress)
    if event_log.offsets(RAW)[chosen.source][0] > chosen.position:
        raise TickerplantError(
            f"retention has taken raw records of partition {chosen.source.partition} while they were run again; "
            "ask for a later stretch"
        )
    return run.found


class _Run:
    """One partition's run."""

    def __init__(self, event_log: EventLog, factory: StageFactory, chosen: Plan, asked: Asked) -> None:
        self._log, self._factory, self._plan, self._asked = event_log, factory, chosen, asked
        self._generation = event_log.identity().generation
        self._partition = chosen.source.partition
        self._checkpoints = list(chosen.checkpoints)
        self._logged: dict[str, Logged] = {}
        self._short: int | None = None
        self._last = -1
        self.found = Verified(self._partition, chosen.label, chosen.position, chosen.position)

    def go(self, progress: Progress | None) -> None:
        """Step through the stretch until its end or the first difference."""
        chosen, found = self._plan, self.found
        stage = self._stage()
        to_us = _ALL if self._asked.to_us is None else self._asked.to_us
        for done, delivery in enumerate(self._log.read_range(chosen.source, chosen.position, chosen.end), 1):
            if delivery.appended_at_us >= to_us:
                break
            if not self._check_states(stage, delivery.offset):
                return
            self._step(stage, delivery)
            if not found.equal:
                self._excuse()
                return
            if progress is not None and done % PROGRESS_RECORDS == 0:
                progress(self._partition, delivery.offset - chosen.position, chosen.end - chosen.position)
        else:
            if not self._check_states(stage, chosen.end):
                return
        for logged in self._logged.values():
            found.difference = found.difference or logged.left_over(make_version(self._generation, self._last))

    def _stage(self) -> Stage:
        if self._plan.label == FROM_THE_BEGINNING:
            return self._factory(self._partition, None)
        key = snapshots.KEPT_PREFIX + self._plan.label
        snapshot = snapshots.read(self._log, STATE_AGGREGATION, self._partition, key)
        if snapshot is None:
            raise TickerplantError(f"the snapshot {self._plan.label} was dropped just now; ask for a later stretch")
        return self._factory(
            self._partition, snapshots.check(snapshot, GROUP, self._partition, self._factory.format).state
        )

    def _step(self, stage: Stage, delivery: ConsumedRecord) -> None:
        produced = stage.step(delivery, self._history(delivery.offset))
        if delivery.appended_at_us < (self._asked.from_us or -_ALL):
            return
        version = make_version(self._generation, delivery.offset)
        if not self._logged:
            self.found.begin = delivery.offset
            self._open(version)
        self._last = delivery.offset
        found = self.found
        found.records += 1
        found.end = delivery.offset + 1
        for topic, logged in self._logged.items():
            values = [output.value for output in produced if output.topic == topic]
            found.difference = logged.compare(version, values)
            found.compared[topic] = logged.compared
            if found.difference is not None:
                return
            if topic == OHLCV and version >= logged.since:
                found.closed_bars += sum(map(_closed, values))

    def _open(self, version: int) -> None:
        for topic in MADE:
            logged = Logged(self._log, TopicPartition(topic, self._partition), self._generation, version)
            self._logged[topic] = logged
            if logged.since > version and topic != DEADLETTER:
                since = "" if logged.since == NOTHING else f" before raw offset {split_version(logged.since)[1]}"
                self.found.notes.append(f"retention has taken what {topic} had{since}: not compared")

    def _history(self, offset: int) -> History:
        source = self._plan.source

        def read(begin: int, end: int) -> Iterator[ConsumedRecord]:
            if begin < self._log.offsets(RAW)[source][0]:
                self._short = offset
            return self._log.read_range(source, begin, min(end, offset))

        return read

    def _excuse(self) -> None:
        if self._short is not None:
            self.found.notes.append(
                f"the record at raw offset {self._short} looks at ticks that retention has taken since: "
                "what comes of it cannot be made again"
            )

    def _check_states(self, stage: Stage, offset: int) -> bool:
        """Compare the state with the snapshots whose position is reached before the record at `offset`."""
        while self._checkpoints and self._checkpoints[0].position <= offset:
            kept = self._checkpoints.pop(0)
            key = kept.key if kept.label else snapshots.SNAPSHOT_KEY
            snapshot = snapshots.read(self._log, STATE_AGGREGATION, self._partition, key)
            # Dropped, or replaced by a running plant: there is nothing to compare with.
            if snapshot is None or snapshot.positions.get(RAW) != kept.position:
                continue
            name = kept.label or "the newest"
            if snapshot.format != self._factory.format:
                self.found.notes.append(f"snapshot {name} has another format: not compared")
                continue
            mine = stage.snapshot()
            if mine != snapshot.state:
                at = next((i for i, (a, b) in enumerate(zip(snapshot.state, mine, strict=False)) if a != b), -1)
                where = f"byte {at} is the first that differs" if at >= 0 else "one is the beginning of the other"
                self.found.difference = Difference(
                    "state", STATE_AGGREGATION, kept.position, None,
                    f"the state before raw offset {kept.position} is not that of snapshot {name}: "
                    f"{len(snapshot.state)} bytes kept, {len(mine)} made again, {where}",
                )  # fmt: skip
                self._excuse()
                return False
            self.found.states.append(name)
        return True


def _closed(value: Any) -> int:
    """Return how many closed bars a record of `market.prices.ohlcv` has."""
    record = records.decode(value)
    if not isinstance(record.header, records.Bars):
        return 0
    return int(pc.sum(pc.not_equal(record.batch["state"].cast(pa.utf8()), FORMING)).as_py() or 0)
