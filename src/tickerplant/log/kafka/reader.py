"""Reading from Kafka: one consumer for each reader."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from tickerplant.core.errors import Fenced, LogError, LogUnavailable
from tickerplant.log.kafka.connection import checked, error_of, told, translate
from tickerplant.log.port import ConsumedRecord, RebalanceListener, Start, TopicPartition

if TYPE_CHECKING:
    from tickerplant.log.kafka.log import KafkaLog

_SLICE_S = 0.1
"""How long one sleep inside `poll` is, and so how long `wake` may take; ten calls a second cost nothing measurable."""


class KafkaReader:
    """Reads in one thread at a time; `wake` alone may come from another.

    What the consumer has fetched ahead is bounded (64 MB), and a poll that is never called fetches no more.
    """

    def __init__(
        self,
        log: KafkaLog,
        topics: Sequence[str],
        group: str | None,
        member: str | None,
        start: Start,
        listener: RebalanceListener | None,
    ) -> None:
        self._log, self.group, self._start, self._listener = log, group, start, listener
        self._topics = list(dict.fromkeys(topics))
        self._sources = [TopicPartition(t, p) for t in self._topics for p in range(log.partitions(t))]
        self._ends = {} if start.at != "latest" else {p: log.offsets(p.topic)[p][1] for p in self._sources}
        self._woken = threading.Event()
        self._closed = False
        self._owned: set[TopicPartition] = set()
        self._at: dict[TopicPartition, int] = {}
        self._gone: dict[TopicPartition, str] = {}
        self._kept: Message | None = None
        self._taken: list[ConsumedRecord] = []
        self._error: BaseException | None = None
        self._down_since_s: float | None = None
        more: dict[str, Any] = {"error_cb": self._on_error}
        if member is not None:
            more["group.instance.id"] = member
        name = log.named(group) if group is not None else f"tickerplant-alone-{uuid.uuid4().hex}"
        self._consumer = checked(Consumer, log.cluster.consumer(name, **more))
        self._begun = False
        if group is not None:
            with told("joining the group"):
                self._consumer.subscribe(
                    [log.named(topic) for topic in self._topics],
                    on_assign=self._on_assign,
                    on_revoke=self._on_revoke,
                    on_lost=self._on_revoke,
                )

    def poll(
        self, *, timeout_s: float, max_records: int = 256, max_bytes: int = 8 * 1024 * 1024
    ) -> list[ConsumedRecord]:
        """Return what has been committed; wait for the first record, then take what has been fetched already."""
        if self._closed:
            raise LogError("the reader is closed")
        deadline = time.monotonic() + timeout_s
        self._begin_alone()
        self._taken = []
        room = max_bytes
        with told("reading"):
            while len(self._taken) < max_records:
                message = self._next(deadline)
                if message is None:
                    break
                value = message.value() or b""
                if len(value) > room and self._taken:
                    self._kept = message
                    break
                room -= len(value)
                self._taken.append(self._delivery(message, value))
        taken, self._taken = self._taken, []
        self._woken.clear()
        if not taken:
            self._raise_gone()
            self._check_brokers()
        return taken

    def _next(self, deadline: float) -> Message | None:
        """Return the next message: waiting until the deadline for the first of a poll, not at all for the others."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        while True:
            left_s = 0.0 if self._taken or self._woken.is_set() else deadline - time.monotonic()
            message: Message | None = self._consumer.poll(min(max(left_s, 0.0), _SLICE_S))
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if message is not None:
                self._down_since_s = None
                if message.error() is None:
                    return message
                self._note(message)
                if self._gone:
                    return None
            elif left_s <= _SLICE_S:
                return None

    def _delivery(self, message: Message, value: bytes) -> ConsumedRecord:
        source, offset = self._source(message), message.offset() or 0
        self._at[source] = offset + 1
        return ConsumedRecord(*source, offset, message.timestamp()[1] * 1000, value)

    def _source(self, part: Message | KafkaPartition) -> TopicPartition:
        if isinstance(part, KafkaPartition):
            return TopicPartition(self._log.unnamed(part.topic), part.partition)
        return TopicPartition(self._log.unnamed(part.topic() or ""), part.partition() or 0)

    def _note(self, message: Message) -> None:
        """Deal with an error that came in a message's place; what passes by itself is left alone."""
        error = message.error()
        assert error is not None
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            source = self._source(message)
            self._gone[source] = error.str()
        elif error.fatal() or not isinstance(translate(error, ""), LogUnavailable | Fenced):
            raise translate(error, "reading")

    def _raise_gone(self) -> None:
        for source, text in self._gone.items():
            self._log.note_passed(source)
            raise LogError(
                f"the position in {source.topic}/{source.partition} is not in the log: retention has passed it, or "
                f"it is of another log ({text}); nothing was skipped: `seek` to go on, knowing what is missing"
            )

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._down_since_s is None:
            self._down_since_s = time.monotonic()

    def _check_brokers(self) -> None:
        """Raise LogUnavailable if the brokers have been away for longer than we are patient."""
        if self._down_since_s is None or time.monotonic() - self._down_since_s < self._log.cluster.patience_s:
            return
        with told("the brokers are away"):
            self._consumer.list_topics(self._log.named(self._topics[0]), timeout=1.0)
        self._down_since_s = None

    # Partitions that come and go. librdkafka calls these from inside its poll.

    def _begin_alone(self) -> None:
        if self.group is None and not self._begun:
            self._assign(self._sources)
            self._begun = True

    def _on_assign(self, consumer: Any, partitions: list[KafkaPartition]) -> None:
        try:
            self._assign([self._source(partition) for partition in partitions])
        except BaseException as error:  # librdkafka would print and forget it
            self._error = error
            consumer.assign([])

    def _assign(self, sources: list[TopicPartition]) -> None:
        self._owned = set(sources)
        self._gone = {}
        told_positions: Mapping[TopicPartition, int] = {}
        if self._listener is not None and sources:
            told_positions = self._listener.on_assigned(sorted(sources))
        positions = dict(told_positions)
        missing = [source for source in sources if source not in positions]
        if missing:
            with told("looking up where to begin"):
                positions |= self._committed(missing)
                positions |= self._beginnings([source for source in missing if source not in positions])
        self._at = {source: positions[source] for source in sources}
        self._go_on()

    def _go_on(self) -> None:
        """Have librdkafka fetch from where we are. (Its own seek refuses a partition that is not being fetched yet, or
        that is not any more because its position was gone.)
        """
        with told("beginning to read"):
            self._consumer.assign([KafkaPartition(self._log.named(t), p, at) for (t, p), at in self._at.items()])

    def _committed(self, sources: list[TopicPartition]) -> dict[TopicPartition, int]:
        if self.group is None:
            return {}
        parts = [KafkaPartition(self._log.named(t), p) for t, p in sources]
        found = self._consumer.committed(parts, timeout=self._log.cluster.patience_s)
        return {self._source(part): part.offset for part in found if part.offset not in (OFFSET_INVALID, None)}

    def _beginnings(self, sources: list[TopicPartition]) -> dict[TopicPartition, int]:
        start, patience_s = self._start, self._log.cluster.patience_s
        if start.at == "latest":
            return {source: self._ends[source] for source in sources}
        named = {source: start.positions[source] for source in sources if source in start.positions}
        rest = [source for source in sources if source not in named]
        if start.at == "time" and rest:
            at_ms = -(-start.time_us // 1000)
            wanted = [KafkaPartition(self._log.named(t), p, at_ms) for t, p in rest]
            for part in self._consumer.offsets_for_times(wanted, timeout=patience_s):
                if part.offset >= 0:
                    named[self._source(part)] = part.offset
        for source in rest:
            if source not in named:
                part = KafkaPartition(self._log.named(source.topic), source.partition)
                low, high = self._consumer.get_watermark_offsets(part, timeout=patience_s)
                named[source] = high if start.at == "time" else low
        return named

    def _on_revoke(self, consumer: Any, partitions: list[KafkaPartition]) -> None:
        gone = [self._source(partition) for partition in partitions]
        self._owned -= set(gone)
        self._at = {source: at for source, at in self._at.items() if source in self._owned}
        self._taken = [delivery for delivery in self._taken if delivery.source in self._owned]
        if self._kept is not None and self._source(self._kept) not in self._owned:
            self._kept = None
        self._gone = {}
        try:
            if self._listener is not None and gone:
                self._listener.on_revoked(sorted(gone))
        except BaseException as error:
            self._error = error
        consumer.unassign()

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions that are ours as of the last poll."""
        return frozenset(self._owned)

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Go on from these positions in assigned partitions."""
        self._begin_alone()
        for source in positions:
            if source not in self._owned:
                raise LogError(f"{source.topic}/{source.partition} is not assigned to this reader")
            self._gone.pop(source, None)
        self._kept = None  # fetched again
        self._at |= positions
        self._go_on()

    def check_owned(self, positions: Mapping[TopicPartition, int]) -> None:
        """Raise Fenced if one of these partitions is not ours as of the last poll."""
        for source in positions:
            if source not in self._owned:
                raise Fenced(f"{source.topic}/{source.partition} is not this reader's any more")

    def group_metadata(self) -> Any:
        """Return what the broker knows this member by; its generation goes with the positions in a transaction."""
        return self._consumer.consumer_group_metadata()

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Keep positions for the group, without a transaction."""
        if self.group is None:
            raise LogError("a reader without a group commits nothing")
        if not positions:  # librdkafka would commit all that it had stored itself, and finds nothing
            return
        self.check_owned(positions)
        parts = [KafkaPartition(self._log.named(t), p, at) for (t, p), at in positions.items()]
        try:
            for part in self._consumer.commit(offsets=parts, asynchronous=False):
                if part.error is not None:
                    raise KafkaException(part.error)
        except KafkaException as exception:
            raise translate(error_of(exception), f"committing for the group {self.group}") from exception

    def wake(self) -> None:
        """Make a waiting poll, or else the next, return within 0.1 s."""
        self._woken.set()

    def close(self) -> None:
        """Leave the group. The partitions of a member with a name wait for it for the session timeout."""
        if self._closed:
            return
        self._closed = True
        self._consumer.close()

    def __enter__(self) -> KafkaReader:
        """Return the reader."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()
