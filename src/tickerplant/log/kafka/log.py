"""The event log on Apache Kafka: `KafkaLog`, the port's implementation."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import structlog
from confluent_kafka import KafkaError
from confluent_kafka import TopicPartition as KafkaPartition

from tickerplant.core.errors import ConfigError, LogUnavailable, UnknownTopic
from tickerplant.core.schemas import TopicSpec
from tickerplant.log.kafka import abandoned, range_reader, topic_settings
from tickerplant.log.kafka.connection import Cluster, translate_errors
from tickerplant.log.kafka.context import OWN_TOPIC, LogContext
from tickerplant.log.kafka.leadership import KafkaLeadership
from tickerplant.log.kafka.reader import KafkaReader
from tickerplant.log.kafka.writer import KafkaWriter
from tickerplant.log.port import EARLIEST, ConsumedRecord, Identity, RebalanceListener, Start, TopicPartition
from tickerplant.log.topic_policy import DEFAULT, TopicPolicy

_IDENTITY_TIMEOUT_S: Final = 10.0

_EXACT_LAG = 64
"""Maximum records per partition that `lag` counts by reading them. Above it, transaction markers count as records."""

_log = structlog.get_logger(__name__)


class _Identity(msgspec.Struct):
    seed: str
    generation: int
    topics: list[str]


class KafkaLog:
    """The event log in the brokers at `bootstrap` (`host:port,host:port`).

    `config` configures every client of librdkafka (TLS, SASL). All topics, groups and writers' names begin with
    `topic_prefix`. A call that waits for brokers longer than `patience_s` raises LogUnavailable. The brokers detect a
    dead member after `session_timeout_s`. `policy` contains the chosen settings of topics. Brokers of replicated topics
    must fetch messages of 33 MB from each other. They may exceed their setting `replica.fetch.max.bytes` for a single
    larger message.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        config: Mapping[str, str] | None = None,
        topic_prefix: str = "",
        policy: TopicPolicy = DEFAULT,
        patience_s: float = 30.0,
        session_timeout_s: float = 6.0,
    ) -> None:
        cluster = Cluster(bootstrap, dict(config or {}), patience_s, session_timeout_s, topic_prefix)
        self._context = LogContext(cluster, topic_prefix)
        self._policy = policy
        self._closed = False

    @property
    def cluster(self) -> Cluster:
        """Return the brokers and the settings of their clients."""
        return self._context.cluster

    @property
    def prefix(self) -> str:
        """Return the prefix of all topics, groups and writers' names."""
        return self._context.prefix

    @property
    def retention_passed(self) -> Counter[str]:
        """Return, by topic, the count of positions that retention had dropped although they were still needed."""
        return self._context.retention_passed

    def identity(self) -> Identity:
        """Return the identity of this log.

        The identity changes if a topic other than a state topic is deleted and created again.
        """
        stored = self._context.get_state(OWN_TOPIC, 0, "identity")
        if stored is None:
            raise UnknownTopic("the brokers have no identity of this log; `tickerplant create-topics` creates it")
        record = msgspec.json.decode(stored, type=_Identity)
        ids = self._context.admin.topic_ids([self._context.named(topic) for topic in record.topics])
        text = ",".join(f"{topic}={ids[self._context.named(topic)]}" for topic in record.topics)
        return Identity(str(uuid.uuid5(uuid.UUID(record.seed), text)), record.generation)

    def create_topics(self, specs: Iterable[TopicSpec], partitions: int, *, generation: int = 1) -> list[str]:
        """Create the missing topics and return their names. The settings of existing topics do not change.

        Raises ConfigError if the settings of an existing topic would lose records or stop the plant, and if new topics
        cannot have the chosen settings. Logs a warning if settings shorten what users can read. The texts about
        existing topics contain the command that corrects them.
        """
        specs, own_spec = list(specs), TopicSpec(OWN_TOPIC, None)
        admin, named = self._context.admin, self._context.named
        replicas = self._policy.replicas or min(topic_settings.MAX_REPLICAS, admin.brokers())
        config = {spec.name: topic_settings.new_topic(spec, replicas, self._policy) for spec in (*specs, own_spec)}
        created = [
            spec.name for spec in specs if admin.create(named(spec.name), partitions, replicas, config[spec.name])
        ]
        own = admin.create(named(OWN_TOPIC), 1, replicas, config[OWN_TOPIC])
        for name in (*(spec.name for spec in specs), OWN_TOPIC):
            admin.partitions_soon(named(name))
        existing = [spec for spec in specs if spec.name not in created]
        self._check_topics(existing if own else [*existing, own_spec])
        # If processes start together, the process that created the log's own topic writes the identity.
        if self._context.get_state(OWN_TOPIC, 0, "identity") is None and (own or not self._wait_for_identity()):
            topics = sorted(spec.name for spec in specs if not spec.keyed)
            # If that process died first, several may write the identity: all derive the same identity from the topic's
            # id.
            (own_id,) = self._context.admin.topic_ids([self._context.named(OWN_TOPIC)]).values()
            record = _Identity(str(uuid.uuid5(uuid.NAMESPACE_OID, own_id)), generation, topics)
            self._context.put_own("identity", msgspec.json.encode(record))
        return created

    def check_topics(self, specs: Iterable[TopicSpec]) -> tuple[list[str], list[str]]:
        """Return texts about settings that are refused, and texts about settings that shorten what users can read.

        Both texts contain the command that corrects the topic. All topics must exist.
        """
        by_topic = {self._context.named(spec.name): spec for spec in specs}
        found, bootstrap = self._context.admin.settings(by_topic), self.cluster.bootstrap
        checked = [topic_settings.check(topic, spec, *found[topic], self._policy) for topic, spec in by_topic.items()]
        refused = [one.text(one.refused, bootstrap) for one in checked if one.refused]
        return refused, [one.text(one.warned, bootstrap) for one in checked if one.warned]

    def _check_topics(self, specs: Sequence[TopicSpec]) -> None:
        refused, warned = self.check_topics(specs)
        for text in warned:
            _log.warning(text)
        if refused:
            raise ConfigError("settings of topics would lose records or stop the plant: " + "; ".join(refused))

    def _wait_for_identity(self) -> bool:
        """Wait until the process that created the own topic has written the identity; False if it apparently died."""
        deadline = time.monotonic() + _IDENTITY_TIMEOUT_S
        while self._context.get_state(OWN_TOPIC, 0, "identity") is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def partitions(self, topic: str) -> int:
        """Return the count of partitions; cached after the first request."""
        return self._context.partitions(topic)

    def reader(
        self,
        topics: Sequence[str],
        *,
        group: str | None = None,
        member: str | None = None,
        start: Start = EARLIEST,
        listener: RebalanceListener | None = None,
    ) -> KafkaReader:
        """Return a reader of these topics. A reader with a group joins it during its first polls.

        `member` is the client's id in the brokers' tools. It is not a static member id. A static member leaves only
        when its session expires. Its partitions would stay unassigned until then, even after a clean stop.
        """
        return KafkaReader(self._context, topics, group, member, start, listener)

    def read_range(self, source: TopicPartition, begin: int, end: int) -> Iterator[ConsumedRecord]:
        """Yield the records of one partition in `[begin, end)`, in order. A first consumer takes 100 ms to start."""
        self._context.check(source.topic, source.partition, keyed=False)
        found = range_reader.messages(
            self._context.consumers, self._context.named(source.topic), source.partition, begin, end
        )
        for message in found:
            at_us = message.timestamp()[1] * 1000
            yield ConsumedRecord(source.topic, source.partition, message.offset() or 0, at_us, message.value() or b"")

    def writer(self, name: str) -> KafkaWriter:
        """Return a new writer. `name` is its transactional id. The writer fences an earlier writer of the name."""
        return KafkaWriter(self._context, name)

    def get_state(self, topic: str, partition: int, key: str) -> bytes | None:
        """Return the newest committed value of a key, or None. Reads the partition's new messages first."""
        return self._context.get_state(topic, partition, key)

    def state_keys(self, topic: str, partition: int) -> list[str]:
        """Return the keys that have a value, sorted."""
        return self._context.state_of(topic, partition).names()

    def offsets(self, topic: str, *, read_uncommitted: bool = False) -> dict[TopicPartition, tuple[int, int]]:
        """Return (earliest, end) of each partition. The end includes transaction markers."""
        return self._context.offsets(topic, read_uncommitted=read_uncommitted)

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """Return the positions that a group has committed."""
        found = self._context.admin.committed(
            self._context.named(group), self._context.admin.topics(self._context.prefix)
        )
        return {TopicPartition(self._context.unnamed(topic), p): position for (topic, p), position in found.items()}

    def lag(self, group: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """Return for each partition the count of records after the group's committed position.

        Counts above `_EXACT_LAG` include transaction markers.
        """
        committed = self.committed(group)
        bounds = {p: b for topic in topics for p, b in self.offsets(topic).items()}
        starts = {p: max(first, committed.get(p, first)) for p, (first, _) in bounds.items()}
        behind = {p: at for p, at in starts.items() if at < bounds[p][1]}
        counted = self._count(behind, {p: bounds[p][1] for p in behind})
        return {p: counted.get(p, 0) for p in bounds}

    def _count(
        self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Return the count of records in [start, end) of each partition; read at most `_EXACT_LAG` of each."""
        if not starts:
            return {}
        small = {"enable.partition.eof": True, "fetch.message.max.bytes": 65_536, "auto.offset.reset": "earliest"}
        counts = dict.fromkeys(starts, 0)
        open_ = set(starts)
        deadline = time.monotonic() + self.cluster.patience_s
        acquired = self._context.consumers.acquire(self._context.named("tickerplant-lag"), **small)
        with translate_errors("counting unread records"), acquired as consumer:
            consumer.assign([KafkaPartition(self._context.named(t), p, at) for (t, p), at in starts.items()])
            while open_:
                message = consumer.poll(0.2)
                if message is None:
                    if time.monotonic() > deadline:
                        raise LogUnavailable("counting unread records: no answer from the brokers")
                    continue
                source = TopicPartition(self._context.unnamed(message.topic() or ""), message.partition() or 0)
                if message.error() is not None:
                    if message.error().code() == KafkaError._PARTITION_EOF:
                        open_.discard(source)
                elif source in open_:
                    offset, end = message.offset() or 0, ends[source]
                    counts[source] += offset < end
                    if counts[source] >= _EXACT_LAG and offset < end:
                        counts[source] += end - offset - 1
                        open_.discard(source)
                    elif offset >= end:
                        open_.discard(source)
        self.cluster.errors.clear()
        return counts

    def groups(self) -> list[str]:
        """Return the names of groups that have committed a position in this log's topics, sorted."""
        candidates = [group for group in self._context.admin.groups() if group.startswith(self._context.prefix)]
        return sorted(self._context.unnamed(group) for group in candidates if self._has_positions(group))

    def members(self, group: str) -> int:
        """Return 1 if a group has live members, else 0. A killed member counts until its session expires.

        The brokers' list of groups has their states, but no count. A count would need a request to the group's
        coordinator: see `admin`.
        """
        return int(self._context.admin.groups().get(self._context.named(group), False))

    def abort_abandoned(
        self, group: str, sources: Sequence[TopicPartition], outputs: Collection[str], own: str
    ) -> list[str]:
        """Abort the transactions that former owners of these inputs left open; return the names of their writers."""
        return abandoned.abort_abandoned(self._context, group, sources, outputs, own)

    def lead(self, name: str, member: str) -> KafkaLeadership:
        """Return a member's wait for the leadership `name`, which is the name of a separate group."""
        return KafkaLeadership(self._context, name, member)

    def outage(self) -> str:
        """Return the reason why the brokers cannot be reached or refuse the settings; "" if no reason is known."""
        return self._context.admin.outage()

    def _has_positions(self, group: str) -> bool:
        return bool(self._context.admin.committed(group, self._context.admin.topics(self._context.prefix)))

    def make_durable(self) -> None:
        """Return at once: all in-sync replicas have acknowledged every readable record.

        A record survives a power failure of all but one replica. Kafka does not sync each message to disk. Replicas
        that share one machine or power supply therefore survive the death of a broker's process, but not the death of
        the machine.
        """

    def trim(self, now_us: int) -> dict[str, int]:
        """Return {}: the brokers apply retention themselves and respect neither groups nor holds.

        This method detects positions that retention has dropped, logs an error and counts them in `retention_passed`.
        """
        del now_us
        needed: list[tuple[str, TopicPartition, int]] = []
        for group in self.groups():
            needed += [(group, source, at) for source, at in self.committed(group).items()]
        for key in self.state_keys(OWN_TOPIC, 0):
            if key.startswith("floors:"):
                holds: list[tuple[str, int, int]] = msgspec.json.decode(
                    self._context.get_state(OWN_TOPIC, 0, key) or b"[]"
                )
                needed += [(key.removeprefix("floors:"), TopicPartition(t, p), at) for t, p, at in holds]
        firsts = {
            p: b[0] for topic in {source.topic for _, source, _ in needed} for p, b in self.offsets(topic).items()
        }
        for holder, source, at in needed:
            first = firsts.get(source, 0)
            if at < first:
                self._context.retention_passed[source.topic] += 1
                _log.error(
                    "retention dropped a position that is still needed: set a longer retention for the topic",
                    holder=holder, topic=source.topic, partition=source.partition, position=at, earliest=first,
                )  # fmt: skip
        return {}

    def hold_retention(self, holder: str, positions: Mapping[TopicPartition, int] | None) -> None:
        """Store the holds, which `trim` monitors; Kafka's retention cannot be held back."""
        stored = None if positions is None else msgspec.json.encode([(t, p, at) for (t, p), at in positions.items()])
        self._context.put_own(f"floors:{holder}", stored)

    def close(self) -> None:
        """Close the log; close readers and writers first. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._context.close()

    def __enter__(self) -> KafkaLog:
        """Return the log."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the log."""
        self.close()
