"""The event log, as everything else sees it.

A log has topics; a topic has partitions; a partition is one sequence of records by offset. Whoever wants to write takes
a `Writer` and makes transactions; whoever wants to read takes a `Reader`. There are two adapters, Apache Kafka and one
SQLite file, and one conformance suite that both pass (`tests/conformance`).

Calls block (none longer than its timeout) and release the GIL while they wait; a Reader or a Writer belongs to one
thread at a time. An event loop calls them from an executor.

Offsets grow and never repeat, but need not be dense: Kafka spends some on transaction markers. A *position* is the
offset of the next record to read.

    with log.writer("aggregation-0") as writer, log.reader([RAW], group="aggregation") as reader:
        consumed = reader.poll(timeout_s=1.0)
        with writer.transaction() as transaction:
            transaction.append(OHLCV, 0, encode(...))
            transaction.put_state(STATE_AGGREGATION, 0, "snapshot", blob)
            transaction.send_positions(reader, {TopicPartition(RAW, 0): consumed[-1].offset + 1})
        # leaving the block commits; an exception aborts, and leaves nothing
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from tickerplant.core.schemas import TopicSpec
from tickerplant.core.streams import ConsumedRecord as ConsumedRecord
from tickerplant.core.streams import Payload as Payload
from tickerplant.core.streams import TopicPartition as TopicPartition

MAX_RECORD_BYTES: Final = 32 * 1024 * 1024
"""The largest record that any adapter takes; a snapshot may be larger, adapters cut it."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin in partitions for which nothing else says so (no committed position, none from `assigned`)."""

    at: str = "earliest"
    time_us: int = 0
    positions: Mapping[TopicPartition, int] = field(default_factory=dict)


EARLIEST: Final = Start("earliest")
LATEST: Final = Start("latest")


def at_time(time_us: int) -> Start:
    """Begin at the first record appended at or after `time_us`."""
    return Start("time", time_us=time_us)


def at_positions(positions: Mapping[TopicPartition, int]) -> Start:
    """Begin at these positions; partitions that are not named begin at the earliest record."""
    return Start("positions", positions=positions)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which log this is. A drain into new topics is a new generation; versions carry it."""

    log_id: str
    generation: int


class RebalanceListener(Protocol):
    """Whoever keeps state by partition: told, from inside `poll`, what comes and what goes."""

    def on_assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """These partitions are ours now. Return where to read from; those left out begin at the committed position."""
        ...

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """These are no longer ours: drop their state, and never commit for them again."""
        ...


class Reader(Protocol):
    """Reads partitions in order, as a member of a group or, with no group, all partitions for itself."""

    def poll(
        self, *, timeout_s: float, max_records: int = 256, max_bytes: int = 8 * 1024 * 1024
    ) -> list[ConsumedRecord]:
        """Return what has been committed to the log, in order within each partition; wait for the first record.

        Returns [] after `timeout_s`. Returns at once when anything is there, and never more than the limits (but one
        record at least): what is not taken stays in the log, that is the back-pressure. Delivers at least once: what
        was not committed to the group is read again by whoever has the partition next. Raises LogUnavailable when the
        log is out of reach for longer than the adapter is patient; calling again is allowed.
        """
        ...

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions that are ours."""
        ...

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Go on from these positions in assigned partitions."""
        ...

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Keep positions for the group, without a transaction; none, and nothing is done.

        Raises Fenced if a partition is not ours any more.
        """
        ...

    def wake(self) -> None:
        """Make a `poll` that waits in another thread return at once. The only method that other threads may call."""
        ...

    def close(self) -> None:
        """Leave the group, so that others get the partitions at once. Harmless twice."""
        ...

    def __enter__(self) -> Reader: ...
    def __exit__(self, *exc: object) -> None: ...


class Transaction(Protocol):
    """What is appended, kept and committed together, or not at all. Nobody reads any of it before the commit."""

    def append(self, topic: str, partition: int, value: Payload) -> None:
        """Append one record. Raises RecordTooLarge above `MAX_RECORD_BYTES`, UnknownTopic for a topic not made."""
        ...

    def put_state(self, topic: str, partition: int, key: str, value: Payload | None) -> None:
        """Keep the newest value of a key in a state topic, of any size; None forgets the key."""
        ...

    def send_positions(self, reader: Reader, positions: Mapping[TopicPartition, int]) -> None:
        """Commit the reader's group to these positions; committing raises Fenced if one is no longer the reader's."""
        ...


class Writer(Protocol):
    """Appends in transactions. Its name stays the same over restarts: a later writer of a name fences the earlier."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin; leaving the block commits, an exception in it aborts. One at a time.

        Committing raises Fenced (stop: somebody else owns the name or the partitions) or LogUnavailable (nothing is
        known to be written; begin again from the state of the last commit).
        """
        ...

    def committed(self) -> Mapping[TopicPartition, int]:
        """Return, for each partition appended to in the last committed transaction, the offset of its last record."""
        ...

    def close(self) -> None:
        """Abort what is open. Harmless twice."""
        ...

    def __enter__(self) -> Writer: ...
    def __exit__(self, *exc: object) -> None: ...


class EventLog(Protocol):
    """One event log. Safe to share between threads; open one per process."""

    def identity(self) -> Identity:
        """Return which log this is. Raises UnknownTopic before `create_topics`."""
        ...

    def create_topics(self, specs: Iterable[TopicSpec], partitions: int, *, generation: int = 1) -> list[str]:
        """Make what is missing and return its names; the first call also gives the log its identity.

        `generation` is for a log that continues an older one's store; later calls leave the identity as it is.
        Raises LogError when a topic is there with another number of partitions: that number is fixed when it is made.
        """
        ...

    def partitions(self, topic: str) -> int:
        """Return the number of partitions. Raises UnknownTopic."""
        ...

    def reader(
        self,
        topics: Sequence[str],
        *,
        group: str | None = None,
        member: str | None = None,
        start: Start = EARLIEST,
        listener: RebalanceListener | None = None,
    ) -> Reader:
        """Return a reader. Without `group` it has all partitions, commits nothing and holds back no retention.

        `member` names a member of the group over restarts (so that it gets its partitions back without a wait); two
        living members must not share one.
        """
        ...

    def read_range(self, source: TopicPartition, begin: int, end: int) -> Iterator[ConsumedRecord]:
        """Yield the committed, retained records of one partition in `[begin, end)`, in order.

        For reading again what has been read: it waits for no new record and holds back no retention. Memory is bounded
        however long the range. Raises LogUnavailable.
        """
        ...

    def writer(self, name: str) -> Writer:
        """Return the writer of that name and fence any earlier one, whose open transaction is aborted."""
        ...

    def get_state(self, topic: str, partition: int, key: str) -> bytes | None:
        """Return the newest committed value of a key, or None."""
        ...

    def state_keys(self, topic: str, partition: int) -> list[str]:
        """Return the keys that have a value, sorted."""
        ...

    def offsets(self, topic: str, *, read_uncommitted: bool = False) -> dict[TopicPartition, tuple[int, int]]:
        """Return (earliest, end) of each partition: the oldest offset still there and the first not yet committed.

        `read_uncommitted`: the end includes records of open transactions. Other readers may see a transaction's records
        a little after its positions.
        """
        ...

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """Return the positions that a group has committed; {} for a group that never has."""
        ...

    def lag(self, group: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """Return how many records of each partition the group has still to read; markers do not count."""
        ...

    def groups(self) -> list[str]:
        """Return the names of groups that have committed a position, sorted."""
        ...

    def members(self, group: str) -> int:
        """Return how many members of a group live, as far as is known: a dead one may count for a few seconds more."""
        ...

    def make_durable(self) -> None:
        """Return when all that can be read now would survive a power cut."""
        ...

    def trim(self, now_us: int) -> dict[str, int]:
        """Apply retention and return the records dropped by topic; a log that does this by itself returns {}.

        Never passes the position of the slowest group, nor `floors` kept with `hold_retention`.
        """
        ...

    def hold_retention(self, holder: str, floors: Mapping[TopicPartition, int] | None) -> None:
        """Hold retention of these partitions back to these offsets for `holder` (a kept snapshot); None lets go."""
        ...

    def close(self) -> None:
        """Close what the log holds; readers and writers first. Harmless twice."""
        ...
