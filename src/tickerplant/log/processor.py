"""The loop of the stateful services: each record is one step, and each step's effects happen exactly once.

A *stage* (`core/streams.py`) is the pure state of one input partition: it applies a record and returns output records.
The processor does all IO around it. `_commit` applies the effects in this order. Each is safe to repeat, because none
is visible before Step 4:

1. append the outputs of the steps since the last commit,
2. put changed descriptions of queued work, and a snapshot of the state that is being committed for each partition
   whose snapshot is due,
3. send the input positions,
4. commit the log's transaction.

Between two batches a stage may do background work (`Stage.run_background_work`). Its outputs are not a function of the
input. They therefore commit in one transaction with a snapshot of the state after them, and no restart repeats the
work.

A restart loads the newest snapshot, replays up to the committed positions, discards the outputs of the replay and
continues. After a failed transaction the state in memory is ahead of the log. The processor therefore discards this
state and restarts the same way.

`_StageLifecycle` handles rebalances.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, Protocol

import structlog

from tickerplant.core import faults
from tickerplant.core.errors import Fenced, LogUnavailable
from tickerplant.core.outage import LONGEST_WAIT_S, Outage
from tickerplant.core.streams import (
    QUEUED_KEY,
    ConsumedRecord,
    History,
    Output,
    Stage,
    StageFactory,
    TopicPartition,
)
from tickerplant.log import snapshots
from tickerplant.log.port import (
    EventLog,
    Reader,
    RebalanceListener,
    Transaction,
    Writer,
)
from tickerplant.log.snapshots import KEPT_PREFIX, SNAPSHOT_KEY, Snapshot

SNAPSHOT_RECORDS: Final = 2_000
FEW_RECORDS: Final = 32
PAUSE_FACTOR: Final = 2.0
MAX_PAUSE_S: Final = 0.05
"""Maximum pause in seconds after a batch of fewer than `FEW_RECORDS` records. The pause is `PAUSE_FACTOR` times the
processing time of the batch. Records that arrive in the pause share one transaction, which costs as much as several
records.
"""
REPLAY_S: Final = 0.5
"""Maximum seconds of a partition's steps since its newest snapshot. The next owner repeats these steps after a crash.
The maximum is higher if snapshots would exceed `SNAPSHOT_SHARE`."""
SNAPSHOT_SHARE: Final = 0.01
"""Maximum ratio of the time of snapshots to the time of steps, for snapshots that are due because of `REPLAY_S`."""
HANDOVER_RECORDS: Final = 100
"""Minimum records since the newest snapshot for a snapshot before a rebalance. The next owner then replays fewer
records."""
HANDOVER_BYTES: Final = 16 * 1024 * 1024
"""Maximum bytes of all snapshots before a rebalance, estimated from the previous snapshots. All members wait
for these snapshots."""
COMMIT_EVERY_S: Final = 1.0
"""Maximum seconds for which steps without outputs wait for a commit, if they may (`Stage.commit_may_wait`). Most ticks
cause no outputs, and a restart may repeat their steps. These steps share a transaction with the next outputs."""
WAITING_POLL_S: Final = 0.05
"""Maximum seconds of a poll while a stage has background work."""
_MAX_OUTPUT_BYTES: Final = 16 * 1024 * 1024  # maximum outputs in memory; above it a batch commits before its end

log = structlog.get_logger(__name__)


class Bootstrap(NamedTuple):
    """A stage with an initial state, and the position from which it reads."""

    position: int
    stage: Stage


class BootstrapFactory(Protocol):
    """Creates the first stage of a partition that has no snapshot, from a source other than its input."""

    def __call__(self, source: TopicPartition, committed: int, earliest: int) -> Bootstrap | None:
        """Return the stage, which is snapshotted first, and its position; None to start at the earliest record.

        `committed` is the group's position, 0 if it has none. `earliest` is the first retained offset.
        """
        ...


@dataclass(slots=True)
class ProcessorCounters:
    """Counters of a processor since its start, for metrics and tests."""

    records: int = 0
    outputs: int = 0
    discarded_records: int = 0
    discarded_outputs: int = 0
    commits: int = 0
    snapshots: int = 0
    restarts: int = 0


@dataclass(slots=True)
class _Partition:
    """An owned partition: its stage, its positions, and the positions up to which its outputs are committed."""

    stage: Stage
    positions: dict[TopicPartition, int]
    committed: dict[TopicPartition, int]
    kept: str
    records_since_snapshot: int = 0
    steps_s: float = 0.0
    """Seconds that the steps since the newest snapshot have taken."""
    snapshot_bytes: int = 0
    """Bytes of the newest snapshot's state."""
    snapshot_s: float = 0.0
    """Seconds that the newest snapshot of this process took; 0.0 before the first."""
    touched: bool = False
    bootstrapped: bool = False
    queued: bytes | None = None
    """The description of queued work that the log contains."""


@dataclass(slots=True)
class Processor:
    """Runs one stage per input partition, exactly once. Belongs to the thread that calls `run`."""

    event_log: EventLog
    name: str
    topics: Sequence[str]
    state_topic: str
    factory: StageFactory
    instance: str = "0"
    snapshot_interval_records: int = SNAPSHOT_RECORDS
    """Maximum number of records of a partition between two snapshots. A restart replays the later records."""
    poll_records: int = 256
    """Maximum records of one poll, and thus of one transaction."""
    on_batch: Callable[[ProcessorCounters], None] | None = None
    outputs: Sequence[str] = ()
    """Topics of the outputs of all stages."""
    bootstrap: BootstrapFactory | None = None
    """Factory of the stage of a partition that has no snapshot; for a processor of one topic."""
    counts: ProcessorCounters = field(default_factory=ProcessorCounters)
    _stages: dict[int, _Partition] = field(default_factory=dict)
    _discarded_before: int = 0
    _committed_s: float = 0.0
    _stepping: bool = False
    """True while outputs may be in no transaction: during steps and, after an error, until the stages are dropped."""
    _outage: Outage = field(default_factory=Outage)

    def run(self, stop: threading.Event, *, poll_s: float = 0.5) -> None:
        """Process records until `stop` is set, then snapshot all owned partitions and return.

        Raises Fenced if another member of this name took over, and SnapshotRefused if a snapshot has another format.
        The processor restarts after LogUnavailable.
        """
        while not stop.is_set():
            self._stages.clear()
            began = time.monotonic()
            try:
                self._process(stop, poll_s)
            except LogUnavailable as error:
                self.counts.restarts += 1
                if time.monotonic() - began > LONGEST_WAIT_S:
                    self._outage.end()
                if self._outage.fail(str(error), time.time()):
                    log.warning("log unavailable, restarting from the last commit", service=self.name, error=str(error))
                stop.wait(1.0)

    def _process(self, stop: threading.Event, poll_s: float) -> None:
        member = f"{self.name}-{self.instance}"
        with (
            self.event_log.writer(member) as writer,
            self.event_log.reader(
                self.topics, group=self.name, member=member, listener=(lifecycle := _StageLifecycle(self))
            ) as reader,
        ):
            lifecycle.hand_over = partial(self._hand_over, writer, reader)
            self._stepping = False
            while not stop.is_set():
                consumed = reader.poll(timeout_s=self._poll_s(poll_s), max_records=self.poll_records)
                began, self._stepping = time.monotonic(), True
                try:
                    if reader.assignment():  # not during a rebalance
                        self._run_background_work(writer, reader)
                        if not consumed:
                            self._commit_waiting(writer, reader)
                    if consumed:
                        self._step_all(consumed, writer, reader)
                except Fenced:
                    if reader.assignment():
                        raise
                    return  # the partitions were lost during the commit; `run` opens them again
                self._stepping = False
                if consumed and len(consumed) < FEW_RECORDS:
                    stop.wait(min(MAX_PAUSE_S, PAUSE_FACTOR * (time.monotonic() - began)))
            if self._stages and reader.assignment():
                try:
                    self._commit(writer, reader, [], snapshot_all=True)
                except Fenced as error:  # another member has the partitions already
                    log.info("no snapshot at the stop", service=self.name, error=str(error))

    def _hand_over(self, writer: Writer, reader: Reader) -> None:
        """Commit snapshots for the next owners of the partitions, unless an error has lost outputs."""
        if self._stepping:
            return
        due, room = list[int](), HANDOVER_BYTES
        for partition, owned in self._stages.items():
            if owned.records_since_snapshot < HANDOVER_RECORDS or owned.bootstrapped or _behind(owned):
                continue
            if owned.snapshot_bytes <= room:
                due.append(partition)
                room -= owned.snapshot_bytes
        try:
            self._commit(writer, reader, [], snapshots=due)
        except Fenced as error:
            log.info("no snapshot before the rebalance", service=self.name, error=str(error))

    def _poll_s(self, poll_s: float) -> float:
        """Return the maximum duration of the next poll, in seconds."""
        if any(owned.stage.has_background_work() for owned in self._stages.values()):
            return min(poll_s, WAITING_POLL_S)
        return poll_s

    def _commit_is_due(self) -> bool:
        """Return True if steps have waited long enough for a commit, or if another effect of a commit is due."""
        return (
            time.monotonic() - self._committed_s >= COMMIT_EVERY_S
            or any(map(self._snapshot_is_due, self._stages.values()))
            or bool(self._changed_queues(()))
        )

    def _commit_waiting(self, writer: Writer, reader: Reader) -> None:
        """Commit the steps that have waited long enough, if there are any."""
        if any(owned.touched for owned in self._stages.values()) and self._commit_is_due():
            self._commit(writer, reader, [])
            if self.on_batch is not None:
                self.on_batch(self.counts)

    def _step_all(self, consumed: Sequence[ConsumedRecord], writer: Writer, reader: Reader) -> None:
        outputs: list[tuple[int, Output]] = []
        size, may_wait = 0, True
        for record in consumed:
            owned = self._stages.get(record.partition)
            if owned is None:
                continue
            source, began = record.source, time.perf_counter()
            produced = owned.stage.step(record, self._history(source, record.offset))
            owned.steps_s += time.perf_counter() - began
            owned.positions[source] = record.offset + 1
            owned.records_since_snapshot += 1
            self.counts.records += 1
            if record.offset < owned.committed.get(source, 0):
                self.counts.discarded_records += 1
                self.counts.discarded_outputs += len(produced)
                continue
            owned.touched = True
            may_wait = may_wait and not produced and owned.stage.commit_may_wait()
            for output in produced:
                outputs.append((record.partition, output))
                size += len(output.value)
            if size > _MAX_OUTPUT_BYTES:
                self._commit(writer, reader, outputs)
                outputs, size = [], 0
        if not may_wait or self._commit_is_due():
            self._commit(writer, reader, outputs)
        self._log_resumed()
        if self.on_batch is not None:
            self.on_batch(self.counts)

    def _run_background_work(self, writer: Writer, reader: Reader) -> None:
        """Run one unit of background work of each stage and commit it with a snapshot.

        A stage that was just bootstrapped is committed with a snapshot too.
        """
        for partition, owned in list(self._stages.items()):
            if _behind(owned):
                continue
            topic = TopicPartition(self.topics[0], partition)
            made = owned.stage.run_background_work(owned.positions[topic]) if topic in owned.positions else None
            if made is not None or owned.bootstrapped:
                outputs = [(partition, output) for output in made or ()]
                owned.bootstrapped = False
                self._commit(writer, reader, outputs, snapshots=[partition])
                if self.on_batch is not None:
                    self.on_batch(self.counts)

    def _history(self, source: TopicPartition, offset: int) -> History:
        def read(begin: int, end: int) -> Iterator[ConsumedRecord]:
            return self.event_log.read_range(source, begin, min(end, offset))

        return read

    def _commit(
        self,
        writer: Writer,
        reader: Reader,
        outputs: Sequence[tuple[int, Output]],
        *,
        snapshot_all: bool = False,
        snapshots: Collection[int] = (),
    ) -> None:
        """Commit the steps since the last commit: the four effects of the module's docstring.

        A snapshot is due after `snapshot_interval_records` records, after steps of `REPLAY_S`, at the first record of a
        UTC day, or on request.
        """
        due = {
            partition: owned
            for partition, owned in self._stages.items()
            if self._snapshot_is_due(owned) or (snapshot_all and owned.records_since_snapshot) or partition in snapshots
        }
        # A stage that still replays must not be snapshotted: its positions are before the committed positions.
        due = {p: owned for p, owned in due.items() if not _behind(owned)}
        moved = {
            source: position
            for partition, owned in self._stages.items()
            if owned.touched or partition in due  # sending positions fences a member that has lost the partition
            for source, position in owned.positions.items()
        }
        self._committed_s = time.monotonic()
        if not moved and not due:
            return
        faults.reach(f"{self.name}.commit.before")
        with writer.transaction() as transaction:
            # Step 1
            for partition, output in outputs:
                transaction.append(output.topic, partition, output.value)
            faults.reach(f"{self.name}.append.after")
            # Step 2
            queued = self._changed_queues(snapshots)
            for partition, description in queued.items():
                transaction.put_state(self.state_topic, partition, QUEUED_KEY, description)
            for partition, owned in due.items():
                faults.reach(f"{self.name}.snapshot.before")
                self._put_snapshot(transaction, partition, owned)
                faults.reach(f"{self.name}.snapshot.after")
            # Step 3
            if moved:
                transaction.send_positions(reader, moved)
            # Step 4: at the end of the block
        faults.reach(f"{self.name}.commit.after")
        self.counts.commits += 1
        self.counts.outputs += len(outputs)
        for partition, description in queued.items():
            self._stages[partition].queued = description
        for owned in self._stages.values():
            owned.touched = False
        for owned in due.values():
            owned.records_since_snapshot, owned.steps_s = 0, 0.0

    def _changed_queues(self, snapshots: Collection[int]) -> dict[int, bytes]:
        """Return the changed descriptions of queued work, by partition. `snapshots`: partitions with a due snapshot."""
        found = {}
        for number, owned in self._stages.items():
            if (owned.touched or number in snapshots) and not _behind(owned):
                description = owned.stage.queued_work()
                if description is not None and description != owned.queued:
                    found[number] = description
        return found

    def _log_resumed(self) -> None:
        """Log once that a restart has replayed up to the committed positions, with the counts of the replay."""
        replayed = self.counts.discarded_records - self._discarded_before
        if replayed and not any(map(_behind, self._stages.values())):
            log.info("resumed", service=self.name, records=replayed, discarded_outputs=self.counts.discarded_outputs)
            self._discarded_before = self.counts.discarded_records

    def _snapshot_is_due(self, owned: _Partition) -> bool:
        return (
            owned.records_since_snapshot >= self.snapshot_interval_records
            or owned.steps_s > max(REPLAY_S, owned.snapshot_s / SNAPSHOT_SHARE)
            or self._has_new_label(owned)
        )

    def _has_new_label(self, owned: _Partition) -> bool:
        label = owned.stage.keep_label()
        return label is not None and label != owned.kept

    def _put_snapshot(self, transaction: Transaction, partition: int, owned: _Partition) -> None:
        began, label = time.perf_counter(), owned.stage.keep_label() or owned.kept
        blob = snapshots.encode(
            Snapshot(
                envelope=snapshots.ENVELOPE_VERSION,
                format=self.factory.format,
                positions={tp.topic: position for tp, position in owned.positions.items()},
                kept=label,
                state=(state := owned.stage.snapshot()),
                oldest=owned.stage.oldest_offset(),
            )
        )
        put = transaction.put_state
        put(self.state_topic, partition, SNAPSHOT_KEY, blob)
        if label and label != owned.kept:
            put(self.state_topic, partition, KEPT_PREFIX + label, blob)
            owned.kept = label
        owned.snapshot_bytes, owned.snapshot_s = len(state), time.perf_counter() - began
        self.counts.snapshots += 1

    def _open(self, partition: int, committed: Mapping[TopicPartition, int]) -> _Partition:
        newest = snapshots.read(self.event_log, self.state_topic, partition, SNAPSHOT_KEY)
        here = {
            tp: position for tp, position in committed.items() if tp.partition == partition and tp.topic in self.topics
        }
        if newest is None:
            return self._open_new(partition, here)
        snapshots.check(newest, self.name, partition, self.factory.format)
        positions = {TopicPartition(topic, partition): position for topic, position in newest.positions.items()}
        return _Partition(
            self.factory(partition, newest.state), positions, here, newest.kept, snapshot_bytes=len(newest.state)
        )

    def _open_new(self, partition: int, committed: dict[TopicPartition, int]) -> _Partition:
        if self.bootstrap is not None:
            source = TopicPartition(self.topics[0], partition)
            earliest, _ = self.event_log.offsets(source.topic)[source]
            first = self.bootstrap(source, committed.get(source, 0), earliest)
            if first is not None:
                return _Partition(first.stage, {source: first.position}, committed, "", bootstrapped=True)
        return _Partition(self.factory(partition, None), {}, committed, "")


def _behind(owned: _Partition) -> bool:
    return any(owned.positions.get(tp, 0) < position for tp, position in owned.committed.items())


class _StageLifecycle(RebalanceListener):
    """Opens the stages of assigned partitions and drops the stages of revoked partitions.

    The reader then continues from the positions of the snapshots.
    """

    def __init__(self, processor: Processor) -> None:
        self._processor = processor
        self.hand_over: Callable[[], None] | None = None

    def before_rebalance(self) -> None:
        if self.hand_over is not None:
            self.hand_over()

    def on_assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        processor = self._processor
        own = f"{processor.name}-{processor.instance}"
        processor.event_log.abort_abandoned(processor.name, partitions, processor.outputs, own)
        committed = processor.event_log.committed(processor.name)
        for partition in {tp.partition for tp in partitions}:
            if partition not in processor._stages:
                owned = processor._stages[partition] = processor._open(partition, committed)
                owned.queued = processor.event_log.get_state(processor.state_topic, partition, QUEUED_KEY)
        start: dict[TopicPartition, int] = {}
        for tp in partitions:
            owned = processor._stages[tp.partition]
            # Without a snapshot the state starts at the first retained record.
            start[tp] = owned.positions.get(tp, processor.event_log.offsets(tp.topic)[tp][0])
        return start

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        for tp in partitions:
            self._processor._stages.pop(tp.partition, None)
