"""The protocol between the loop of a stateful service and the pure state that it runs.

A *stage* is the state of one input partition. The loop (`log/processor.py`) passes it one record at a time; the stage
returns the records to append. A step does no IO and reads no clock, so the same input always gives the same outputs.
`aggregation` and `analytics` implement stages; they may not import `log`, so the types are here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import pyarrow as pa

from tickerplant.core import records, schemas

Payload: TypeAlias = Any
"""An object with the buffer protocol: bytes, a memoryview or an Arrow buffer."""

MAX_RECORD_BYTES: Final = 32 * 1024 * 1024
"""Maximum bytes of a record of the log. A state value may be larger; adapters split it."""
MAX_PASSED_ON_BYTES: Final = MAX_RECORD_BYTES - 1024
"""Maximum bytes of a raw record that aggregation passes on. The copy also contains the cause."""
MAX_DEAD_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
"""Maximum payload bytes of one dead letter. The largest log record (`MAX_RECORD_BYTES`) is four times as long,
so payload, reason and Arrow's framing always fit."""
MAX_REASON_CHARS: Final = 4_000
"""Maximum characters of a dead letter's reason. A parser's message may quote the whole input."""

QUEUED_KEY: Final = "queued"
"""State key of a stage's queued background work, in the service's state topic."""


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class ConsumedRecord:
    """A record as a reader returns it. `value` is read-only memory, valid for as long as it is referenced."""

    topic: str
    partition: int
    offset: int
    appended_at_us: int
    value: Payload

    @property
    def source(self) -> TopicPartition:
        """Return the partition that contains the record."""
        return TopicPartition(self.topic, self.partition)


class Output(NamedTuple):
    """One record to append. Its partition has the same number as the partition of the record that caused it."""

    topic: str
    value: Payload


class History(Protocol):
    """A function with which a stage reads the input partition before the record of its step."""

    def __call__(self, begin: int, end: int) -> Iterator[ConsumedRecord]:
        """Yield the retained records of `[begin, end)` in order, but none at or after the step's own record."""
        ...


def _no_records(begin: int, end: int) -> Iterator[ConsumedRecord]:
    return iter(())


EMPTY_HISTORY: Final[History] = _no_records
"""A history without records."""


class Stage(Protocol):
    """The state of one partition. Its steps do no IO and read no clock."""

    def step(self, consumed: ConsumedRecord, history: History) -> Sequence[Output]:
        """Apply one record and return the records that it causes. Invalid content becomes a dead letter.

        A stage reads records that are no longer in its state through `history`. Each read costs milliseconds. The log
        before a record never changes, so the step remains a function of its arguments.
        """
        ...

    def snapshot(self) -> bytes:
        """Return the complete state, from which the factory restores an equal stage."""
        ...

    def keep_label(self) -> str | None:
        """Return the current UTC date by log time, or None before the first record and for times that have no date.

        The first snapshot of each date is kept.
        """
        ...

    def oldest_offset(self) -> int | None:
        """Return the smallest offset that this stage may still read through `history`.

        The offset never decreases. The log retains records from there on, within the bounds of
        `log.snapshot_retention`. None (the default): the stage reads nothing older than its position.
        """
        return None

    def commit_may_wait(self) -> bool:
        """Return whether the last step, which had no outputs, may be committed later with other steps.

        False (the default): a writer may wait until the position of the step's record is committed.
        """
        return False

    def has_background_work(self) -> bool:
        """Return whether `run_background_work` may soon have work; if so, the loop polls with shorter timeouts."""
        return False

    def queued_work(self) -> bytes | None:
        """Return a description of the queued background work for other processes; None if the stage never has any.

        The loop stores it under `QUEUED_KEY` in the transaction of the step that changed it.
        """
        return None

    def run_background_work(self, position: int) -> Sequence[Output] | None:
        """Run one unit of work that no record causes; return its outputs, or None if there is no work.

        The work may do IO, and should take a fraction of a second. `position` is the offset of the next input record.
        The loop does not call this method while the stage still replays records up to the committed positions.
        """
        return None


class StageFactory(Protocol):
    """A function that creates the stage of a partition. `format` is the version number of the stage's snapshots."""

    format: int

    def __call__(self, partition: int, snapshot: bytes | None) -> Stage:
        """Return the stage restored from `snapshot`, or a new stage if `snapshot` is None. Raises SnapshotRefused."""
        ...


def dead_letter(record: ConsumedRecord, reason: str, sent_at_us: int, *, cause: int = 0) -> Output:
    """Return the dead letter of a record that a stage cannot apply.

    `sent_at_us` and `cause` are the values for its header. The payload is cut at `MAX_DEAD_PAYLOAD_BYTES` and the
    reason at `MAX_REASON_CHARS`. The dead letter of the largest record therefore fits into the log.
    """
    payload, reason = cut_to_fit(record.value, reason)
    columns = [
        pa.array([record.topic], pa.utf8()),
        pa.array([record.partition], pa.int32()),
        pa.array([record.offset], pa.int64()),
        pa.array([reason], pa.utf8()),
        pa.array([payload], pa.binary()),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=schemas.DEAD)
    header = records.Dead(sent_at_us=sent_at_us, cause=cause)
    return Output(schemas.DEADLETTER, records.encode(header, batch))


def cut_to_fit(payload: Payload, reason: str) -> tuple[bytes, str]:
    """Return the payload and the reason of a dead letter, cut to their maximum sizes.

    The reason of a cut payload states how many bytes were kept.
    """
    view = memoryview(payload).cast("B")
    if len(reason) > MAX_REASON_CHARS:
        reason = reason[:MAX_REASON_CHARS] + "…"
    if len(view) > MAX_DEAD_PAYLOAD_BYTES:
        reason += f" (the first {MAX_DEAD_PAYLOAD_BYTES} of {len(view)} bytes are kept)"
    return bytes(view[:MAX_DEAD_PAYLOAD_BYTES]), reason
