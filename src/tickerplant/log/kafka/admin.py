"""Administrative requests to the brokers: topics, offsets, groups."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from tickerplant.core.errors import LogError, LogUnavailable, UnknownTopic
from tickerplant.core.schemas import TopicSpec
from tickerplant.log.kafka.connection import (
    MESSAGE_BYTES,
    Cluster,
    checked,
    error_of,
    result,
    translate,
    translate_errors,
)

_EARLIEST: Any = OffsetSpec._earliest
_LATEST: Any = OffsetSpec._latest

_NO_GROUP = (KafkaError.GROUP_ID_NOT_FOUND, KafkaError.INVALID_GROUP_ID)

_KEYED: Mapping[str, str] = {
    "cleanup.policy": "compact",
    "segment.bytes": str(128 << 20),  # only closed segments are compacted
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.3",
    "delete.retention.ms": str(86_400_000),
}


class Admin:
    """Administrative requests. Names include the log's prefix. Thread-safe."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._client = checked(AdminClient, cluster.client({}))
        self._guard = threading.Lock()
        self._partitions: dict[str, int] = {}
        self._keyed: dict[str, bool] = {}

    def partitions(self, topic: str) -> int:
        """Return the count of partitions; cached after the first request. Raises UnknownTopic."""
        with self._guard:
            if topic not in self._partitions:
                with translate_errors(f"describing {topic}"):
                    found = self._client.list_topics(topic, timeout=self._cluster.patience_s).topics[topic]
                if found.error is not None:
                    if found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise UnknownTopic(f"the brokers have no topic {topic}; `tickerplant create-topics` creates it")
                    raise translate(found.error, f"describing {topic}")
                self._partitions[topic] = len(found.partitions)
            return self._partitions[topic]

    def partitions_soon(self, topic: str) -> int:
        """Return the count of partitions of a topic that was just created; wait until the brokers return it."""
        deadline = time.monotonic() + self._cluster.patience_s
        while True:
            try:
                return self.partitions(topic)
            except UnknownTopic:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def keyed(self, topic: str) -> bool:
        """Return whether the topic is a state topic; cached after the first request."""
        with self._guard:
            if topic not in self._keyed:
                resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
                (future,) = self._client.describe_configs([resource]).values()
                config: Any = result(future, f"describing {topic}", self._cluster.patience_s)
                self._keyed[topic] = "compact" in config["cleanup.policy"].value
            return self._keyed[topic]

    def create(self, topic: str, partitions: int, spec: TopicSpec, replication_factor: int) -> bool:
        """Create a topic; return False if it exists. Raises LogError if it has another count of partitions."""
        config = {
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(MESSAGE_BYTES),
            "min.insync.replicas": "2" if replication_factor > 2 else "1",
        }
        if spec.retention_us is None:
            config |= _KEYED
        else:
            # Segments are deleted whole. They are much shorter than the retention, but at least ten minutes long.
            retention_ms = max(1, spec.retention_us // 1000)
            config |= {"cleanup.policy": "delete", "retention.ms": str(retention_ms)}
            config |= {"segment.ms": str(max(retention_ms // 10, 600_000))}
        new = NewTopic(topic, num_partitions=partitions, replication_factor=replication_factor, config=config)
        (future,) = self._client.create_topics([new]).values()
        try:
            future.result(self._cluster.patience_s)
        except KafkaException as exception:
            if error_of(exception).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise translate(error_of(exception), f"creating {topic}") from exception
            existing = self.partitions_soon(topic)
            if existing != partitions:
                raise LogError(
                    f"topic {topic} has {existing} partitions, not {partitions}; "
                    f"the number is fixed when a topic is created: use {existing}"
                ) from None
            return False
        except TimeoutError as error:
            raise LogUnavailable(f"creating {topic}: no answer from the brokers") from error
        return True

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Return the brokers' ids of topics. A deleted and recreated topic has a new id. Raises UnknownTopic."""
        futures = self._client.describe_topics(TopicCollection(list(topics)))
        return {
            topic: str(result(future, f"describing {topic}", self._cluster.patience_s).topic_id)
            for topic, future in futures.items()
        }

    def offsets(
        self, topics: Iterable[str], *, read_uncommitted: bool = False
    ) -> dict[tuple[str, int], tuple[int, int]]:
        """Return (earliest, end) of all partitions. `read_uncommitted`: the end includes open transactions."""
        parts = [KafkaPartition(topic, i) for topic in topics for i in range(self.partitions(topic))]
        first = self._list(parts, _EARLIEST)
        isolation = IsolationLevel.READ_UNCOMMITTED if read_uncommitted else IsolationLevel.READ_COMMITTED
        end = self._list(parts, _LATEST, isolation)
        return {key: (first[key], end[key]) for key in first}

    def _list(
        self, parts: list[KafkaPartition], spec: Any, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> dict[tuple[str, int], int]:
        futures = self._client.list_offsets(
            dict.fromkeys(parts, spec),
            isolation_level=isolation,
            request_timeout=self._cluster.patience_s,
        )
        return {
            (part.topic, part.partition): result(future, "fetching offsets", self._cluster.patience_s).offset
            for part, future in futures.items()
        }

    def committed(self, group: str, topics: Iterable[str]) -> dict[tuple[str, int], int]:
        """Return a group's committed positions in these topics. Waits until no open transaction can change them.

        A consumer that joins no group makes the request. The equivalent administrative request
        (ListConsumerGroupOffsets with require_stable) crashes librdkafka 2.16 if the broker dies before it answers.
        """
        parts = [KafkaPartition(topic, i) for topic in topics for i in range(self.partitions(topic))]
        consumer = checked(Consumer, self._cluster.consumer(group))
        try:
            with translate_errors(f"fetching the positions of {group}"):
                found = consumer.committed(parts, timeout=self._cluster.patience_s)
        finally:
            consumer.close()
        for part in found:
            if part.error is not None:
                raise translate(part.error, f"fetching the positions of {group}")
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def topics(self, prefix: str) -> list[str]:
        """Return the names of all topics with this prefix, sorted, without the brokers' internal topics."""
        with translate_errors("listing the topics"):
            found = self._client.list_topics(timeout=self._cluster.patience_s).topics
        return sorted(name for name in found if name.startswith(prefix) and not name.startswith("__"))

    def groups(self) -> list[str]:
        """Return the names of all groups. Each broker lists its own groups; raises LogUnavailable unless all answer."""
        doing = "listing the groups"
        listing = self._client.list_consumer_groups(request_timeout=self._cluster.patience_s)
        found: Any = result(listing, doing, self._cluster.patience_s)
        for error in found.errors:
            raise translate(error, doing)
        return [group.group_id for group in found.valid]

    def members(self, group: str) -> int:
        """Return the count of members of a group; 0 for an unknown group."""
        doing, patience_s = f"describing the group {group}", self._cluster.patience_s
        (future,) = self._client.describe_consumer_groups([group], request_timeout=patience_s).values()
        try:
            found: Any = result(future, doing, patience_s)
        except LogError as error:
            if isinstance(error.__cause__, KafkaException) and error_of(error.__cause__).code() in _NO_GROUP:
                return 0
            raise
        return len(found.members)
