"""Reading: one consumer for each reader. Rebalances are handled in `_on_assign`, `_on_revoke` and `_on_lost`.

At a rebalance the brokers revoke all partitions of all members, and assign them again. The listener is notified only of
partitions that this reader loses or gains. The listener keeps the state of a partition that the reader owned in the
previous generation of the group. No other member can have owned the partition in between.
"""

from __future__ import annotations

import struct
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from tickerplant.core.errors import Fenced, LogError, LogUnavailable
from tickerplant.log.kafka.connection import checked, error_of, translate, translate_errors
from tickerplant.log.kafka.context import LogContext
from tickerplant.log.port import ConsumedRecord, RebalanceListener, Start, TopicPartition

_SLICE_S = 0.1
"""Seconds of one wait inside `poll`, and thus the maximum delay of `wake`."""

_METADATA = b"CGMDv2:"
"""Beginning of librdkafka's encoded group metadata. The generation (an integer in the machine's byte order) and the
names follow."""


def generation_of(metadata: Any) -> tuple[int, bytes] | None:
    """Return the generation in a member's group metadata, and the names of group and member; None if it is unknown."""
    if not isinstance(metadata, bytes) or not metadata.startswith(_METADATA) or len(metadata) < len(_METADATA) + 4:
        return None
    (generation,) = struct.unpack_from("=i", metadata, len(_METADATA))
    return generation, metadata[len(_METADATA) + 4 :]


class KafkaReader:
    """A reader for one thread at a time. Only `wake` may be called from other threads.

    The consumer stops fetching at 8 MB of prefetched records, which one response of at most 64 MB may exceed. Then it
    fetches no more until the next poll.
    """

    def __init__(
        self,
        context: LogContext,
        topics: Sequence[str],
        group: str | None,
        member: str | None,
        start: Start,
        listener: RebalanceListener | None,
    ) -> None:
        self._context, self.group, self._start, self._listener = context, group, start, listener
        self._topics = list(dict.fromkeys(topics))
        self._sources = [TopicPartition(t, p) for t in self._topics for p in range(context.partitions(t))]
        self._ends = {} if start.at != "latest" else {p: context.offsets(p.topic)[p][1] for p in self._sources}
        self._woken = threading.Event()
        self._closed = False
        self._owned: set[TopicPartition] = set()
        self._former: set[TopicPartition] = set()
        self._former_generation: tuple[int, bytes] | None = None
        self._at: dict[TopicPartition, int] = {}
        self._lost: dict[TopicPartition, str] = {}
        self._held: Message | None = None
        self._taken: list[ConsumedRecord] = []
        self._error: BaseException | None = None
        self._unavailable_since_s: float | None = None
        more: dict[str, Any] = {"error_cb": self._on_error}
        if member is not None and "client.id" not in context.cluster.config:
            more["client.id"] = f"tickerplant-{member}"  # names the member in the brokers' tools
        name = context.named(group) if group is not None else context.named(f"tickerplant-alone-{uuid.uuid4().hex}")
        self._consumer = checked(Consumer, context.cluster.consumer(name, **more))
        self._is_assigned = False
        if group is not None:
            with translate_errors("joining the group"):
                self._consumer.subscribe(
                    [context.named(topic) for topic in self._topics],
                    on_assign=self._on_assign,
                    on_revoke=self._on_revoke,
                    on_lost=self._on_lost,
                )

    def poll(
        self, *, timeout_s: float, max_records: int = 256, max_bytes: int = 8 * 1024 * 1024
    ) -> list[ConsumedRecord]:
        """Return committed records: the first after a wait, and others that are already fetched.

        Returns [] on a timeout, or after a `wake`.
        """
        if self._closed:
            raise LogError("the reader is closed")
        deadline = time.monotonic() + timeout_s
        self._assign_all()
        self._taken = []
        room = max_bytes
        with translate_errors("reading"):
            while len(self._taken) < max_records:
                message = self._next(deadline)
                if message is None:
                    break
                value = message.value() or b""
                if len(value) > room and self._taken:
                    self._held = message
                    break
                room -= len(value)
                self._taken.append(self._record(message, value))
        taken, self._taken = self._taken, []
        self._woken.clear()
        if not taken:
            self._raise_lost()
            self._check_brokers()
        return taken

    def _next(self, deadline: float) -> Message | None:
        """Return the next message; None if none has arrived at the deadline or at a `wake`.

        Waits only for the first message of a poll. Also returns None if the log does not contain a position.
        """
        if self._held is not None:
            held, self._held = self._held, None
            return held
        while True:
            left_s = 0.0 if self._taken or self._woken.is_set() else deadline - time.monotonic()
            message: Message | None = self._consumer.poll(min(max(left_s, 0.0), _SLICE_S))
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if message is not None:
                self._unavailable_since_s = None
                if message.error() is None:
                    self._context.cluster.errors.clear()
                    return message
                self._handle_error(message)
                if self._lost:
                    return None
            elif left_s <= _SLICE_S:
                return None

    def _record(self, message: Message, value: bytes) -> ConsumedRecord:
        source, offset = self._source(message), message.offset() or 0
        self._at[source] = offset + 1
        return ConsumedRecord(*source, offset, message.timestamp()[1] * 1000, value)

    def _source(self, part: Message | KafkaPartition) -> TopicPartition:
        if isinstance(part, KafkaPartition):
            return TopicPartition(self._context.unnamed(part.topic), part.partition)
        return TopicPartition(self._context.unnamed(part.topic() or ""), part.partition() or 0)

    def _handle_error(self, message: Message) -> None:
        """Handle an error that the consumer returned instead of a message. Temporary errors are ignored."""
        error = message.error()
        assert error is not None
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            source = self._source(message)
            self._lost[source] = error.str()
        elif error.fatal() or not isinstance(translate(error, ""), LogUnavailable | Fenced):
            raise translate(error, "reading")

    def _raise_lost(self) -> None:
        for source, text in self._lost.items():
            self._context.note_passed(source)
            raise LogError(
                f"the position in {source.topic}/{source.partition} is not in the log: retention dropped it, or "
                f"it belongs to another log ({text}). No record was skipped; `seek` to a retained position"
            )

    def _on_error(self, error: KafkaError) -> None:
        self._context.cluster.errors.note(error)
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._unavailable_since_s is None:
            self._unavailable_since_s = time.monotonic()

    def _check_brokers(self) -> None:
        """Raise LogUnavailable if the brokers have been unavailable for longer than `patience_s`."""
        if (
            self._unavailable_since_s is None
            or time.monotonic() - self._unavailable_since_s < self._context.cluster.patience_s
        ):
            return
        with translate_errors("the brokers are unavailable"):
            self._consumer.list_topics(self._context.named(self._topics[0]), timeout=1.0)
        self._unavailable_since_s = None

    # Rebalances. librdkafka calls these methods from inside its poll.

    def _assign_all(self) -> None:
        if self.group is None and not self._is_assigned:
            self._assign(self._sources)
            self._is_assigned = True

    def _on_assign(self, consumer: Any, partitions: list[KafkaPartition]) -> None:
        try:
            self._assign([self._source(partition) for partition in partitions])
        except BaseException as error:  # librdkafka would print and drop the error
            self._error = error
            consumer.assign([])

    def _assign(self, sources: list[TopicPartition]) -> None:
        kept = self._former & set(sources) if self._is_next_generation() else set()
        lost, self._former = self._former - kept, set()
        if self._listener is not None and lost:
            self._listener.on_revoked(sorted(lost))
        self._owned = set(sources)
        self._lost = {}
        gained = [source for source in sources if source not in kept]
        positions = {source: self._at[source] for source in kept}
        if self._listener is not None and gained:
            positions |= self._listener.on_assigned(sorted(gained))
        missing = [source for source in gained if source not in positions]
        if missing:
            with translate_errors("looking up the start positions"):
                positions |= self._committed(missing)
                positions |= self._start_positions([source for source in missing if source not in positions])
        self._at = {source: positions[source] for source in sources}
        self._restart_fetching()

    def _is_next_generation(self) -> bool:
        """Return whether the group's generation follows the former assignment's, and the member is the same."""
        former, now = self._former_generation, generation_of(self.group_metadata())
        return former is not None and now == (former[0] + 1, former[1])

    def _restart_fetching(self) -> None:
        """Assign all partitions at their current positions.

        librdkafka's seek rejects a partition that is not fetched yet. It also rejects a partition that is no longer
        fetched because its position was dropped.
        """
        with translate_errors("starting to read"):
            self._consumer.assign([KafkaPartition(self._context.named(t), p, at) for (t, p), at in self._at.items()])

    def _committed(self, sources: list[TopicPartition]) -> dict[TopicPartition, int]:
        if self.group is None:
            return {}
        parts = [KafkaPartition(self._context.named(t), p) for t, p in sources]
        found = self._consumer.committed(parts, timeout=self._context.cluster.patience_s)
        return {self._source(part): part.offset for part in found if part.offset not in (OFFSET_INVALID, None)}

    def _start_positions(self, sources: list[TopicPartition]) -> dict[TopicPartition, int]:
        start, patience_s = self._start, self._context.cluster.patience_s
        if start.at == "latest":
            return {source: self._ends[source] for source in sources}
        named = {source: start.positions[source] for source in sources if source in start.positions}
        unnamed = [source for source in sources if source not in named]
        if start.at == "time" and unnamed:
            at_ms = -(-start.time_us // 1000)
            wanted = [KafkaPartition(self._context.named(t), p, at_ms) for t, p in unnamed]
            for part in self._consumer.offsets_for_times(wanted, timeout=patience_s):
                if part.offset >= 0:
                    named[self._source(part)] = part.offset
        for source in unnamed:
            if source not in named:
                part = KafkaPartition(self._context.named(source.topic), source.partition)
                low, high = self._consumer.get_watermark_offsets(part, timeout=patience_s)
                named[source] = high if start.at == "time" else low
        return named

    def _on_revoke(self, consumer: Any, partitions: list[KafkaPartition]) -> None:
        """Stop reading until the next assignment, which shows the partitions that this reader keeps."""
        del partitions  # the brokers revoke all partitions
        if self._listener is not None and self._owned and not self._closed:
            try:
                self._listener.before_rebalance()
            except BaseException as error:  # librdkafka would print and drop the error
                self._error = error
        self._stop_reading(consumer)

    def _stop_reading(self, consumer: Any) -> None:
        for record in reversed(self._taken):
            self._at[record.source] = record.offset  # not delivered
        self._taken, self._held, self._lost = [], None, {}
        if self._owned:  # else the former assignment still waits for the next one
            self._former, self._owned = self._owned, set()
            self._former_generation = generation_of(self.group_metadata())
        consumer.unassign()

    def _on_lost(self, consumer: Any, partitions: list[KafkaPartition]) -> None:
        """Drop the assignment: the session has expired, and other members may own the partitions."""
        del partitions
        self._stop_reading(consumer)
        self._drop_former()

    def _drop_former(self) -> None:
        lost, self._former = self._former, set()
        try:
            if self._listener is not None and lost:
                self._listener.on_revoked(sorted(lost))
        except BaseException as error:
            self._error = error

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions that this reader owned at its last poll; none during a rebalance."""
        return frozenset(self._owned)

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Continue from these positions in assigned partitions."""
        self._assign_all()
        for source in positions:
            if source not in self._owned:
                raise LogError(f"{source.topic}/{source.partition} is not assigned to this reader")
            self._lost.pop(source, None)
        self._held = None  # this message is fetched again
        self._at |= positions
        self._restart_fetching()

    def check_owned(self, positions: Mapping[TopicPartition, int]) -> None:
        """Raise Fenced unless this reader owned all these partitions at its last poll."""
        for source in positions:
            if source not in self._owned:
                raise Fenced(f"{source.topic}/{source.partition} no longer belongs to this reader")

    def group_metadata(self) -> Any:
        """Return the member's group metadata. Its generation is sent with the positions of a transaction."""
        return self._consumer.consumer_group_metadata()

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Commit positions of the group, without a writer's transaction."""
        if self.group is None:
            raise LogError("a reader without a group cannot commit positions")
        if not positions:  # librdkafka would try to commit its own stored offsets, and fail, because there are none
            return
        self.check_owned(positions)
        parts = [KafkaPartition(self._context.named(t), p, at) for (t, p), at in positions.items()]
        try:
            for part in self._consumer.commit(offsets=parts, asynchronous=False):
                if part.error is not None:
                    raise KafkaException(part.error)
        except KafkaException as exception:
            raise translate(error_of(exception), f"committing positions of group {self.group}") from exception

    def wake(self) -> None:
        """Make the waiting poll return within 0.1 s. If no poll waits, make the next poll return at once."""
        self._woken.set()

    def close(self) -> None:
        """Leave the group. The other members get the partitions within about a second."""
        if self._closed:
            return
        self._closed = True
        self._consumer.close()
        self._drop_former()

    def __enter__(self) -> KafkaReader:
        """Return the reader."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the reader."""
        self.close()
