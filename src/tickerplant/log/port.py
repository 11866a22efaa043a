"""The event log's interface. Other packages use the adapters only through it.

A log has topics, a topic has partitions, and a partition is one sequence of records, ordered by offset. A `Writer`
appends in transactions; a `Reader` reads. There are two adapters, Apache Kafka and one SQLite file. Both pass one
conformance suite (`tests/conformance`).

Calls block for at most their timeout, and release the GIL while they wait. A Reader or a Writer belongs to one thread
at a time. An event loop calls them from an executor.

Offsets increase and never repeat, but are not always consecutive: Kafka uses some offsets for transaction markers. A
*position* is the offset of the next record to read.

    with log.writer("aggregation-0") as writer, log.reader([RAW], group="aggregation") as reader:
        consumed = reader.poll(timeout_s=1.0)
        with writer.transaction() as transaction:
            transaction.append(OHLCV, 0, encode(...))
            transaction.put_state(STATE_AGGREGATION, 0, "snapshot", blob)
            transaction.send_positions(reader, {TopicPartition(RAW, 0): consumed[-1].offset + 1})
        # leaving the block commits; an exception aborts and writes nothing
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from tickerplant.core.schemas import TopicSpec
from tickerplant.core.streams import MAX_RECORD_BYTES as MAX_RECORD_BYTES
from tickerplant.core.streams import ConsumedRecord as ConsumedRecord
from tickerplant.core.streams import Payload as Payload
from tickerplant.core.streams import TopicPartition as TopicPartition


@dataclass(frozen=True, slots=True)
class Start:
    """Start position in partitions for which neither the group nor `on_assigned` has a position."""

    at: str = "earliest"
    time_us: int = 0
    positions: Mapping[TopicPartition, int] = field(default_factory=dict)


EARLIEST: Final = Start("earliest")
LATEST: Final = Start("latest")


def at_time(time_us: int) -> Start:
    """Return a start at the first record appended at or after `time_us`."""
    return Start("time", time_us=time_us)


def at_positions(positions: Mapping[TopicPartition, int]) -> Start:
    """Return a start at these positions. Other partitions start at the earliest record."""
    return Start("positions", positions=positions)


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of a log. A log that continues an older log in new topics has a new generation."""

    log_id: str
    generation: int


class RebalanceListener(Protocol):
    """An owner of state by partition. `poll` calls it when partitions are assigned or revoked."""

    def on_assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Open the state of newly assigned partitions; return the positions to read from.

        A partition without a returned position starts at its committed position. `partitions` does not contain the
        partitions that this reader keeps at a rebalance.
        """
        ...

    def before_rebalance(self) -> None:
        """Commit the state that the next owner of the partitions can use. The reader still owns its partitions.

        An adapter calls it only if members give up their partitions before they are assigned again, as on Kafka. The
        call should take less than a second, because all members of the group wait.
        """
        return

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Drop the state of revoked partitions. The owner must not commit for them again."""
        ...


class Reader(Protocol):
    """Reads partitions in order: as a member of a group, or all partitions if it has no group."""

    def poll(
        self, *, timeout_s: float, max_records: int = 256, max_bytes: int = 8 * 1024 * 1024
    ) -> list[ConsumedRecord]:
        """Return committed records, in order within each partition; [] if none arrives within `timeout_s`, or
        after a `wake`.

        Returns available records at once: at least one, and no more than the limits allow. Other records stay in the
        log (back-pressure). Delivery is at least once: the next owner of a partition reads all records after the
        committed position again. Raises LogUnavailable if the log is unavailable for longer than the adapter's
        `patience_s`; the caller may poll again.
        """
        ...

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions that this reader owns; none while the group distributes its partitions again."""
        ...

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Continue from these positions in assigned partitions."""
        ...

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Commit positions of the group, without a transaction. An empty mapping does nothing.

        Raises Fenced if this reader no longer owns a partition.
        """
        ...

    def wake(self) -> None:
        """Make a `poll` that waits in another thread return within 0.1 s. Only this method is thread-safe."""
        ...

    def close(self) -> None:
        """Leave the group. Other members get the partitions within about a second. A second call does nothing."""
        ...

    def __enter__(self) -> Reader: ...
    def __exit__(self, *exc: object) -> None: ...


class Transaction(Protocol):
    """Records, state values and positions that commit together or not at all. Readers see them after the commit."""

    def append(self, topic: str, partition: int, value: Payload) -> None:
        """Append one record. Raises RecordTooLarge above `MAX_RECORD_BYTES`, UnknownTopic for a missing topic."""
        ...

    def put_state(self, topic: str, partition: int, key: str, value: Payload | None) -> None:
        """Set the value of a key in a state topic, of any size; None deletes the key."""
        ...

    def send_positions(self, reader: Reader, positions: Mapping[TopicPartition, int]) -> None:
        """Commit positions of the reader's group. The commit raises Fenced if the reader lost one of the partitions."""
        ...


class Writer(Protocol):
    """Appends in transactions.

    A restarted process uses the same name: a newer writer of a name fences older writers.
    """

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin a transaction. Leaving the block commits it; an exception in the block aborts it. Only one may be open.

        The commit raises Fenced if another process owns the name or the partitions; the caller must stop. The commit
        raises LogUnavailable if it is unknown whether the transaction was written; the caller must resume from the last
        commit.
        """
        ...

    def committed(self) -> Mapping[TopicPartition, int]:
        """Return the last offset of each partition to which the last committed transaction appended."""
        ...

    def close(self) -> None:
        """Close the writer. An open transaction is aborted. A second call does nothing."""
        ...

    def __enter__(self) -> Writer: ...
    def __exit__(self, *exc: object) -> None: ...


class Leadership(Protocol):
    """One member's wait until it leads. At most one live member of a name leads.

    A frozen member may act as leader when it continues. Only a newer writer of the same name prevents this.
    """

    def poll(self, *, timeout_s: float) -> bool:
        """Return True if this member leads; wait at most `timeout_s` for a change. Call it at least once a minute."""
        ...

    def close(self) -> None:
        """End the leadership or the wait. Another member leads within about a second. A second call does nothing."""
        ...

    def __enter__(self) -> Leadership: ...
    def __exit__(self, *exc: object) -> None: ...


class EventLog(Protocol):
    """One event log. Thread-safe; open one per process."""

    def identity(self) -> Identity:
        """Return the identity of this log. Raises UnknownTopic before `create_topics`."""
        ...

    def create_topics(self, specs: Iterable[TopicSpec], partitions: int, *, generation: int = 1) -> list[str]:
        """Create the missing topics and return their names. The first call also creates the log's identity.

        `generation` is for a log that continues the store of an older log; later calls do not change it. Raises
        LogError if a topic exists with another count of partitions, which is fixed at its creation.
        """
        ...

    def partitions(self, topic: str) -> int:
        """Return the count of partitions of a topic. Raises UnknownTopic."""
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
        """Return a reader of these topics.

        A reader without `group` owns all partitions, commits nothing and holds back no retention.
        `member` is a name that stays the same after a restart. Two live members must have different names.
        """
        ...

    def read_range(self, source: TopicPartition, begin: int, end: int) -> Iterator[ConsumedRecord]:
        """Yield the committed, retained records of one partition in `[begin, end)`, in order.

        The call does not wait for new records and holds back no retention. Memory is bounded for a range of any length.
        Raises LogUnavailable.
        """
        ...

    def writer(self, name: str) -> Writer:
        """Return a new writer with this name.

        The new writer fences an earlier writer of the name and aborts that writer's open transaction.
        """
        ...

    def get_state(self, topic: str, partition: int, key: str) -> bytes | None:
        """Return the newest committed value of a key; None if the key has no value."""
        ...

    def state_keys(self, topic: str, partition: int) -> list[str]:
        """Return the keys that have a value, sorted."""
        ...

    def offsets(self, topic: str, *, read_uncommitted: bool = False) -> dict[TopicPartition, tuple[int, int]]:
        """Return (earliest, end) of each partition: the first retained offset, and the end of the committed records.

        If `read_uncommitted` is set, the end includes records of open transactions. The records of a transaction may
        become readable shortly after its positions.
        """
        ...

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """Return the committed positions of a group; {} if it has none."""
        ...

    def lag(self, group: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """Return the count of records after the group's committed position, by partition.

        On Kafka, a large count includes transaction markers.
        """
        ...

    def groups(self) -> list[str]:
        """Return the names of groups that have committed a position, sorted."""
        ...

    def members(self, group: str) -> int:
        """Return the count of live members of a group. A dead member may count for a few more seconds.

        On Kafka, 1 means one or more.
        """
        ...

    def abort_abandoned(
        self, group: str, sources: Sequence[TopicPartition], outputs: Collection[str], own: str
    ) -> list[str]:
        """Abort the transactions that dead former owners of these inputs left open; return the names of their writers.

        Call it for gained partitions, before positions and state are read. The outputs are in the same partitions of
        the topics `outputs`. `own` is the name of the caller's writer. Blocks for seconds if there is such a
        transaction.
        """
        ...

    def lead(self, name: str, member: str) -> Leadership:
        """Return a member's wait for the leadership `name`. `member` is the member's name in the brokers' tools.

        If the leader dies, another member leads when the leader's session ends. In the embedded log, it leads at once.
        """
        ...

    def outage(self) -> str:
        """Return the reason why the log is unavailable, without a request; "" if no reason is known.

        Never waits. The text contains the duration of the outage.
        """
        ...

    def make_durable(self) -> None:
        """Block until the records that are readable now would survive a power failure.

        On Kafka the call returns at once, because survival depends on the replicas.
        """
        ...

    def trim(self, now_us: int) -> dict[str, int]:
        """Apply retention; return the count of dropped records by topic; {} if the log applies retention by itself.

        The embedded log drops no record at or after a group's position or a retention hold. Kafka's brokers respect
        neither; the adapter reports positions that they have dropped.
        """
        ...

    def hold_retention(self, holder: str, positions: Mapping[TopicPartition, int] | None) -> None:
        """Retain partitions from these offsets on for `holder`, replacing its earlier holds; None releases them.

        Kafka's retention cannot be held back: see `trim`.
        """
        ...

    def close(self) -> None:
        """Close the log. Close its readers and writers first. A second call does nothing."""
        ...
