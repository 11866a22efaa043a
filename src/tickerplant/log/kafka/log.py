"""The log on Apache Kafka: `KafkaLog`."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from tickerplant.core.errors import LogError, LogUnavailable, UnknownTopic
from tickerplant.core.schemas import TopicSpec
from tickerplant.log.kafka import range_reader, state
from tickerplant.log.kafka.admin import Admin
from tickerplant.log.kafka.connection import Cluster, checked, told, translate
from tickerplant.log.kafka.reader import KafkaReader
from tickerplant.log.kafka.writer import KafkaWriter
from tickerplant.log.port import EARLIEST, ConsumedRecord, Identity, RebalanceListener, Start, TopicPartition

_IDENTITY_S: Final = 10.0
OWN_TOPIC: Final = "market.state.log"
"""Where the log keeps its identity, who has claimed which writer's name, and what retention is to be held back for."""

_PEEK = 64
"""Up to so many offsets behind the end, `lag` reads whether they are records or transaction markers."""

_log = structlog.get_logger(__name__)


class _Identity(msgspec.Struct):
    seed: str
    generation: int
    topics: list[str]


class KafkaLog:
    """The event log in the brokers at `bootstrap` (`host:port,host:port`).

    `config` goes to every client of librdkafka (TLS, SASL). All topics, groups and writers' names begin with
    `topic_prefix`. `patience_s` is how long a call waits for brokers before LogUnavailable. A dead member is noticed
    after `session_timeout_s`. Brokers must take fetches and messages of 33 MB between themselves when topics are
    replicated (`replica.fetch.max.bytes`, which they exceed for a single larger record anyway).
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        config: Mapping[str, str] | None = None,
        topic_prefix: str = "",
        replication_factor: int = 1,
        patience_s: float = 30.0,
        session_timeout_s: float = 10.0,
    ) -> None:
        self.cluster = Cluster(bootstrap, dict(config or {}), patience_s, session_timeout_s)
        self._prefix, self._replication_factor = topic_prefix, replication_factor
        self._admin = Admin(self.cluster)
        self._guard = threading.Lock()
        self._states: dict[tuple[str, int], state.Partition] = {}
        self._chunks: dict[tuple[TopicPartition, str], int] = {}
        self._producer: Any = None
        self._closed = False
        self.retention_passed: Counter[str] = Counter()
        """How often retention was seen to have passed a position that somebody still needed, by topic."""

    # What readers and writers use.

    def named(self, name: str) -> str:
        """Return the brokers' name of a topic, group or writer."""
        return self._prefix + name

    def unnamed(self, name: str) -> str:
        """Return our name of the brokers' name."""
        return name.removeprefix(self._prefix)

    def check(self, topic: str, partition: int, *, keyed: bool) -> None:
        """Raise UnknownTopic for a partition that is not there, LogError for a topic of the other kind."""
        partitions = self.partitions(topic)
        if not 0 <= partition < partitions:
            raise UnknownTopic(f"topic {topic} has {partitions} partitions, no partition {partition}")
        if self._admin.keyed(self.named(topic)) != keyed:
            raise LogError(
                f"{topic} keeps " + ("a stretch of time: use append" if keyed else "values by key: use put_state")
            )

    def claim(self, name: str) -> str:
        """Claim a writer's name; the newest claim counts. Returns what `claim_stands` takes."""
        claim = uuid.uuid4().hex
        self._keep(f"writer:{name}", claim.encode())
        return claim

    def claim_stands(self, name: str, claim: str) -> bool:
        """Return whether nobody has claimed the name since."""
        return self._get(OWN_TOPIC, 0, f"writer:{name}") == claim.encode()

    def chunk_count(self, source: TopicPartition, key: str) -> int:
        """Return how many chunks the former value of a key has left; reads the partition if we have not written it."""
        known = self._chunks.get((source, key))
        if known is None:
            self._get(*source, key)
            known = self._state(*source).chunk_count(key)
            self._chunks[source, key] = known
        return known

    def note_chunks(self, chunks: Mapping[tuple[TopicPartition, str], int]) -> None:
        """Remember how many chunks committed values have."""
        self._chunks.update(chunks)

    def note_written(self, ends: Mapping[TopicPartition, int]) -> None:
        """Remember how far this process has committed in partitions of kept state: it reads its own writes."""
        for source, end in ends.items():
            self._state(*source).note_written(end)

    def note_passed(self, source: TopicPartition) -> None:
        """Count a position that retention has passed, and say so."""
        self.retention_passed[source.topic] += 1
        _log.error("retention passed a position", topic=source.topic, partition=source.partition)

    def _keep(self, key: str, value: bytes | None) -> None:
        """Write into our own topic, outside any transaction."""
        self.partitions(OWN_TOPIC)
        failed: list[KafkaError] = []
        with self._guard, told(f"writing to {OWN_TOPIC}"):
            if self._producer is None:
                self._producer = checked(Producer, self.cluster.producer())
            for message_key, part in state.messages(key, value, 0):
                self._producer.produce(
                    self.named(OWN_TOPIC),
                    part,
                    message_key,
                    partition=0,
                    on_delivery=lambda error, _: failed.append(error) if error else None,
                )
            if self._producer.flush(self.cluster.patience_s):
                raise LogUnavailable(f"writing to {OWN_TOPIC}: no answer from the brokers")
        if failed:
            raise translate(failed[0], f"writing to {OWN_TOPIC}")

    def _get(self, topic: str, partition: int, key: str) -> bytes | None:
        return self._state(topic, partition).get(key)

    def _state(self, topic: str, partition: int) -> state.Partition:
        self.check(topic, partition, keyed=True)
        with self._guard:
            found = self._states.get((topic, partition))
            if found is None:
                found = state.Partition(self.cluster, self.named(topic), partition)
                self._states[topic, partition] = found
            return found

    # The port.

    def identity(self) -> Identity:
        """Return which log this is. A topic deleted and made again makes it another log."""
        kept = self._get(OWN_TOPIC, 0, "identity")
        if kept is None:
            raise UnknownTopic("the brokers have no identity for this log; `tickerplant create-topics` gives it one")
        record = msgspec.json.decode(kept, type=_Identity)
        ids = self._admin.topic_ids([self.named(topic) for topic in record.topics])
        text = ",".join(f"{topic}={ids[self.named(topic)]}" for topic in record.topics)
        return Identity(str(uuid.uuid5(uuid.UUID(record.seed), text)), record.generation)

    def create_topics(self, specs: Iterable[TopicSpec], partitions: int, *, generation: int = 1) -> list[str]:
        """Make what is missing and return its names. The retention of topics that are there is the brokers' affair."""
        specs = list(specs)
        made = [
            spec.name
            for spec in specs
            if self._admin.create(self.named(spec.name), partitions, spec, self._replication_factor)
        ]
        own = self._admin.create(self.named(OWN_TOPIC), 1, TopicSpec(OWN_TOPIC, None), self._replication_factor)
        for name in (*(spec.name for spec in specs), OWN_TOPIC):
            self._admin.partitions_soon(self.named(name))
        # Of processes that begin together one makes the topic: it alone says which log this is.
        if self._get(OWN_TOPIC, 0, "identity") is None and (own or not self._identity_comes()):
            topics = sorted(spec.name for spec in specs if not spec.keyed)
            # If he died before, several may follow him: from the topic's own id they all say the same.
            (own_id,) = self._admin.topic_ids([self.named(OWN_TOPIC)]).values()
            record = _Identity(str(uuid.uuid5(uuid.NAMESPACE_OID, own_id)), generation, topics)
            self._keep("identity", msgspec.json.encode(record))
        return made

    def _identity_comes(self) -> bool:
        """Wait for whoever made our own topic to write the identity; False if he must have died before."""
        deadline = time.monotonic() + _IDENTITY_S
        while self._get(OWN_TOPIC, 0, "identity") is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def partitions(self, topic: str) -> int:
        """Return the number of partitions; asked of the brokers once."""
        return self._admin.partitions(self.named(topic))

    def reader(
        self,
        topics: Sequence[str],
        *,
        group: str | None = None,
        member: str | None = None,
        start: Start = EARLIEST,
        listener: RebalanceListener | None = None,
    ) -> KafkaReader:
        """Return a reader; with a group it becomes a member in its first polls.

        `member` becomes the group's static member id: a member that is killed and started again within the session
        timeout has its partitions back at once, but one that leaves is waited for as long.
        """
        return KafkaReader(self, topics, group, member, start, listener)

    def read_range(self, source: TopicPartition, begin: int, end: int) -> Iterator[ConsumedRecord]:
        """Yield what one partition has in `[begin, end)`, in order; its own consumer takes some 100 ms to begin."""
        self.check(source.topic, source.partition, keyed=False)
        found = range_reader.messages(self.cluster, self.named(source.topic), source.partition, begin, end)
        for message in found:
            at_us = message.timestamp()[1] * 1000
            yield ConsumedRecord(source.topic, source.partition, message.offset() or 0, at_us, message.value() or b"")

    def writer(self, name: str) -> KafkaWriter:
        """Return the writer of that name; it is the transactional id, so any earlier one's transaction is aborted."""
        return KafkaWriter(self, name)

    def get_state(self, topic: str, partition: int, key: str) -> bytes | None:
        """Return the newest committed value of a key, or None. Reads what came to the partition since the last call."""
        return self._get(topic, partition, key)

    def state_keys(self, topic: str, partition: int) -> list[str]:
        """Return the keys that have a value, sorted."""
        return self._state(topic, partition).names()

    def offsets(self, topic: str, *, read_uncommitted: bool = False) -> dict[TopicPartition, tuple[int, int]]:
        """Return (earliest, end) of each partition; the end of what is committed, transaction markers included."""
        found = self._admin.offsets([self.named(topic)], read_uncommitted=read_uncommitted)
        return {TopicPartition(topic, p): bounds for (_, p), bounds in found.items()}

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """Return the positions that a group has committed."""
        found = self._admin.committed(self.named(group), self._admin.topics(self._prefix))
        return {TopicPartition(self.unnamed(topic), p): position for (topic, p), position in found.items()}

    def lag(self, group: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """Return how many records the group has still to read: exact up to 64, above with markers."""
        committed = self.committed(group)
        bounds = {p: b for topic in topics for p, b in self.offsets(topic).items()}
        starts = {p: max(first, committed.get(p, first)) for p, (first, _) in bounds.items()}
        behind = {p: at for p, at in starts.items() if at < bounds[p][1]}
        counted = self._count(behind, {p: bounds[p][1] for p in behind})
        return {p: counted.get(p, 0) for p in bounds}

    def _count(
        self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Return how many records stand in [start, end), reading at most `_PEEK` of each."""
        if not starts:
            return {}
        small = {"enable.partition.eof": True, "fetch.message.max.bytes": 65_536, "auto.offset.reset": "earliest"}
        counts = dict.fromkeys(starts, 0)
        open_ = set(starts)
        deadline = time.monotonic() + self.cluster.patience_s
        consumer = checked(Consumer, self.cluster.consumer("tickerplant-lag", **small))
        try:
            with told("counting what is left to read"):
                consumer.assign([KafkaPartition(self.named(t), p, at) for (t, p), at in starts.items()])
                while open_:
                    message = consumer.poll(0.2)
                    if message is None:
                        if time.monotonic() > deadline:
                            raise LogUnavailable("counting what is left to read: no answer from the brokers")
                        continue
                    source = TopicPartition(self.unnamed(message.topic() or ""), message.partition() or 0)
                    if message.error() is not None:
                        if message.error().code() == KafkaError._PARTITION_EOF:
                            open_.discard(source)
                    elif source in open_:
                        offset, end = message.offset() or 0, ends[source]
                        counts[source] += offset < end
                        if counts[source] >= _PEEK and offset < end:
                            counts[source] += end - offset - 1
                            open_.discard(source)
                        elif offset >= end:
                            open_.discard(source)
        finally:
            consumer.close()
        return counts

    def groups(self) -> list[str]:
        """Return the names of groups that have committed a position in our topics, sorted."""
        ours = [group for group in self._admin.groups() if group.startswith(self._prefix)]
        return sorted(self.unnamed(group) for group in ours if self._positions_in_ours(group))

    def members(self, group: str) -> int:
        """Return how many members of a group live; one that was killed counts until its session has run out."""
        return self._admin.members(self.named(group))

    def _positions_in_ours(self, group: str) -> dict[tuple[str, int], int]:
        return self._admin.committed(group, self._admin.topics(self._prefix))

    def make_durable(self) -> None:
        """Return at once: what can be read has been acknowledged by all in-sync replicas.

        That survives a power cut of all but one of them. Kafka does not sync each message to disk, so with one replica
        (or all of them on one power supply) it survives the death of the process, not of the machine.
        """

    def trim(self, now_us: int) -> dict[str, int]:
        """Return {}: the brokers apply retention by themselves, heeding neither groups nor floors.

        So this looks whether they have passed any, says so in the log, and counts in `retention_passed`.
        """
        del now_us
        needed: list[tuple[str, TopicPartition, int]] = []
        for group in self.groups():
            needed += [(group, source, at) for source, at in self.committed(group).items()]
        for key in self.state_keys(OWN_TOPIC, 0):
            if key.startswith("floors:"):
                floors: list[tuple[str, int, int]] = msgspec.json.decode(self._get(OWN_TOPIC, 0, key) or b"[]")
                needed += [(key.removeprefix("floors:"), TopicPartition(t, p), at) for t, p, at in floors]
        firsts = {
            p: b[0] for topic in {source.topic for _, source, _ in needed} for p, b in self.offsets(topic).items()
        }
        for holder, source, at in needed:
            first = firsts.get(source, 0)
            if at < first:
                self.retention_passed[source.topic] += 1
                _log.error(
                    "retention passed a position that is still needed: make the topic's retention longer",
                    holder=holder, topic=source.topic, partition=source.partition, position=at, earliest=first,
                )  # fmt: skip
        return {}

    def hold_retention(self, holder: str, floors: Mapping[TopicPartition, int] | None) -> None:
        """Keep the floors for `trim` to watch; Kafka's retention cannot be held back."""
        kept = None if floors is None else msgspec.json.encode([(t, p, at) for (t, p), at in floors.items()])
        self._keep(f"floors:{holder}", kept)

    def close(self) -> None:
        """Close what the log holds."""
        if not self._closed:
            self._closed = True
            if self._producer is not None:
                self._producer.flush(self.cluster.patience_s)

    def __enter__(self) -> KafkaLog:
        """Return the log."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()
