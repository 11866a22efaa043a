"""State shared by the readers and writers of one open log: brokers, names, state, and claims of writers' names."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, Message, Producer

from tickerplant.core.errors import LogError, LogUnavailable, UnknownTopic
from tickerplant.log.kafka import state
from tickerplant.log.kafka.admin import Admin
from tickerplant.log.kafka.connection import Cluster, checked, translate, translate_errors
from tickerplant.log.kafka.consumer_pool import ConsumerPool
from tickerplant.log.port import TopicPartition

OWN_TOPIC: Final = "market.state.log"
"""The log's own state topic: its identity, the claims of writers' names, and retention holds."""

_SLICE_S: Final = 0.5
"""Interval in seconds at which a waiting write checks the connection's errors."""

_log = structlog.get_logger(__name__)


class LogContext:
    """One open log, as its readers and writers use it. Thread-safe; `KafkaLog` owns and closes it."""

    def __init__(self, cluster: Cluster, prefix: str) -> None:
        self.cluster, self.prefix = cluster, prefix
        self.consumers = ConsumerPool(cluster)
        self.admin = Admin(cluster, self.consumers)
        self._guard = threading.Lock()
        self._states: dict[tuple[str, int], state.Partition] = {}
        self._chunks: dict[tuple[TopicPartition, str], int] = {}
        self._producer: Any = None
        self.retention_passed: Counter[str] = Counter()
        """Count, by topic, of positions that retention had dropped although they were still needed."""

    def named(self, name: str) -> str:
        """Return the brokers' name of a topic, group or writer."""
        return self.prefix + name

    def unnamed(self, name: str) -> str:
        """Return the name without the prefix."""
        return name.removeprefix(self.prefix)

    def partitions(self, topic: str) -> int:
        """Return the count of partitions; cached after the first request. Raises UnknownTopic."""
        return self.admin.partitions(self.named(topic))

    def offsets(self, topic: str, *, read_uncommitted: bool = False) -> dict[TopicPartition, tuple[int, int]]:
        """Return (earliest, end) of each partition, as `EventLog.offsets`."""
        found = self.admin.offsets([self.named(topic)], read_uncommitted=read_uncommitted)
        return {TopicPartition(topic, p): bounds for (_, p), bounds in found.items()}

    def check(self, topic: str, partition: int, *, keyed: bool) -> None:
        """Raise UnknownTopic for a missing partition, and LogError if `keyed` does not fit the topic."""
        partitions = self.partitions(topic)
        if not 0 <= partition < partitions:
            raise UnknownTopic(f"topic {topic} has {partitions} partitions, no partition {partition}")
        if self.admin.keyed(self.named(topic)) != keyed:
            raise LogError(
                f"{topic} " + ("is not a state topic: use append" if keyed else "is a state topic: use put_state")
            )

    def claim(self, name: str) -> str:
        """Claim a writer's name; the newest claim is valid. Returns the id of the claim, for `is_claimed_by`."""
        claim = uuid.uuid4().hex
        self.put_own(f"writer:{name}", claim.encode())
        return claim

    def is_claimed_by(self, name: str, claim: str) -> bool:
        """Return whether this claim is still the newest of the name."""
        return self.get_state(OWN_TOPIC, 0, f"writer:{name}") == claim.encode()

    def chunk_count(self, source: TopicPartition, key: str) -> int:
        """Return the count of chunks that earlier values of a key left. May read the partition once."""
        known = self._chunks.get((source, key))
        if known is None:
            self.get_state(*source, key)
            known = self.state_of(*source).chunk_count(key)
            self._chunks[source, key] = known
        return known

    def note_chunks(self, chunks: Mapping[tuple[TopicPartition, str], int]) -> None:
        """Store the counts of chunks of committed values."""
        self._chunks.update(chunks)

    def forget_chunks(self, keys: Iterable[tuple[TopicPartition, str]]) -> None:
        """Drop the counts of chunks of values whose transaction has an unknown outcome."""
        for key in keys:
            self._chunks.pop(key, None)

    def note_written(self, ends: Mapping[TopicPartition, int]) -> None:
        """Store the end offsets of this process's commits in state partitions, so that later reads include them."""
        for source, end in ends.items():
            self.state_of(*source).note_written(end)

    def note_passed(self, source: TopicPartition) -> None:
        """Count and log a position whose record retention has dropped."""
        self.retention_passed[source.topic] += 1
        _log.error(
            "retention dropped the next record of a reader, which stops: set a longer retention for the topic, and see "
            "`tickerplant health`",
            topic=source.topic, partition=source.partition,
        )  # fmt: skip

    def put_own(self, key: str, value: bytes | None) -> None:
        """Write a key of the log's own topic, outside any transaction. Later reads of this process include it.

        Raises LogUnavailable, and LogError at once if the brokers refuse the client's TLS or SASL settings.
        """
        self.partitions(OWN_TOPIC)
        failed: list[KafkaError] = []
        ends: list[int] = []
        doing = f"writing to {OWN_TOPIC}"

        def note(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error)
            else:
                ends.append((message.offset() or 0) + 1)

        with self._guard, translate_errors(doing):
            if self._producer is None:
                self._producer = checked(Producer, self.cluster.producer())
            for message_key, part in state.messages(key, value, 0):
                self._producer.produce(self.named(OWN_TOPIC), part, message_key, partition=0, on_delivery=note)
            try:
                self._flush(doing)
            except LogError:
                # A later call must not deliver this value, which may be older than another process's.
                self._producer.purge()
                self._producer = None
                raise
        if failed:
            raise translate(failed[0], doing)
        self.state_of(OWN_TOPIC, 0).note_written(max(ends, default=0))

    def _flush(self, doing: str) -> None:
        deadline = time.monotonic() + self.cluster.patience_s
        while self._producer.flush(_SLICE_S):
            self.admin.check_refusal(doing)
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{doing}: no answer from the brokers")

    def get_state(self, topic: str, partition: int, key: str) -> bytes | None:
        """Return the newest committed value of a key, or None. Reads the partition's new messages first."""
        return self.state_of(topic, partition).get(key)

    def state_of(self, topic: str, partition: int) -> state.Partition:
        """Return the reader of a state partition. Raises UnknownTopic, and LogError for another topic."""
        self.check(topic, partition, keyed=True)
        with self._guard:
            found = self._states.get((topic, partition))
            if found is None:
                found = state.Partition(self.consumers, self.named(topic), partition)
                self._states[topic, partition] = found
            return found

    def close(self) -> None:
        """Send the buffered records, and close the idle consumers."""
        self.consumers.close()
        if self._producer is not None:
            self._producer.flush(self.cluster.patience_s)
