"""Administrative requests to the brokers: topics, offsets, groups.

This module makes no request that librdkafka sends to a group's coordinator. Such requests describe a group, or list or
delete its offsets. In librdkafka 2.16 they abort the process if they were pending when the brokers became unavailable
(https://github.com/confluentinc/librdkafka/issues/4605).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from confluent_kafka import (
    ConsumerGroupState,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
)
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from tickerplant.core.errors import LogError, LogUnavailable, UnknownTopic
from tickerplant.log.kafka.connection import (
    STALE_LEADER,
    Cluster,
    checked,
    error_of,
    translate,
    translate_errors,
)
from tickerplant.log.kafka.consumer_pool import ConsumerPool

T = TypeVar("T")

_EARLIEST: Any = OffsetSpec._earliest
_LATEST: Any = OffsetSpec._latest

_WITHOUT_MEMBERS: Final = (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD, ConsumerGroupState.UNKNOWN)

_WITHOUT_LEADER: Final = STALE_LEADER | {KafkaError._NOENT}
"""Errors of a request to partition leaders that new metadata removes. `_NOENT`: there is no leader yet."""

_SLICE_S: Final = 0.1
"""Interval in seconds at which a waiting request checks the connection's errors."""
_FIRST_METADATA_S: Final = 1.0
"""Timeout in seconds of a metadata request's first attempt. Each further attempt doubles the timeout."""
_MOVED_COORDINATOR: Final = {
    KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}  # fmt: skip
"""Answers of a broker that is not yet, or no longer, the coordinator of a group. A new broker returns them at first."""
_STALE_LEADER_PAUSE_S: Final = 0.05
_NEW_TOPIC_S: Final = 5.0
"""Maximum seconds until a broker has the metadata of a topic that another broker of the cluster has created."""


class Admin:
    """Administrative requests. Names include the log's prefix. Thread-safe."""

    def __init__(self, cluster: Cluster, consumers: ConsumerPool) -> None:
        self._cluster, self._consumers = cluster, consumers
        self._client = checked(AdminClient, cluster.client({}))
        self._guard = threading.Lock()
        self._partitions: dict[str, int] = {}
        self._keyed: dict[str, bool] = {}

    def partitions(self, topic: str) -> int:
        """Return the count of partitions; cached after the first request. Raises UnknownTopic."""
        with self._guard:
            if topic not in self._partitions:
                found = self._metadata(f"describing {topic}", topic).topics[topic]
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
                config: Any = self._soon(lambda: self._configs([resource], f"describing {topic}"))[topic]
                self._keyed[topic] = "compact" in config["cleanup.policy"].value
            return self._keyed[topic]

    def brokers(self) -> int:
        """Return the count of brokers of the cluster."""
        return len(self._metadata("listing the brokers").brokers)

    def settings(self, topics: Iterable[str]) -> dict[str, tuple[dict[str, str], int]]:
        """Return the settings of existing topics, the brokers' defaults included, and the count of their replicas."""
        doing = "describing the topics"
        resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
        if not resources:
            return {}
        configs = self._soon(lambda: self._configs(resources, doing))
        known = self._metadata(doing).topics
        found: dict[str, tuple[dict[str, str], int]] = {}
        for topic, config in configs.items():
            partitions = known[topic].partitions.values() if topic in known else ()
            replicas = min((len(partition.replicas) for partition in partitions), default=1)
            found[topic] = ({name: entry.value or "" for name, entry in config.items()}, replicas)
        return found

    def _configs(self, resources: list[ConfigResource], doing: str) -> dict[str, Any]:
        """Return the settings of topics by name."""
        futures = self._client.describe_configs(resources)
        return {resource.name: self._result(future, doing) for resource, future in futures.items()}

    def _soon(self, ask: Callable[[], T]) -> T:
        """Return the answer about existing topics.

        Repeat the request while a broker of the cluster lacks their metadata.
        """
        deadline = time.monotonic() + _NEW_TOPIC_S
        while True:
            try:
                return ask()
            except UnknownTopic:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_STALE_LEADER_PAUSE_S)

    def create(self, topic: str, partitions: int, replicas: int, config: Mapping[str, str]) -> bool:
        """Create a topic; return False if it exists. Raises LogError if it has another count of partitions."""
        new = NewTopic(topic, num_partitions=partitions, replication_factor=replicas, config=dict(config))
        (future,) = self._client.create_topics([new]).values()
        try:
            self._result(future, f"creating {topic}")
        except LogError as error:
            if _code_of(error) != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            existing = self.partitions_soon(topic)
            if existing != partitions:
                raise LogError(
                    f"topic {topic} has {existing} partitions, not {partitions}; "
                    f"the number is fixed when a topic is created: use {existing}"
                ) from None
            return False
        return True

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Return the brokers' ids of topics. A deleted and recreated topic has a new id. Raises UnknownTopic."""

        def ask() -> dict[str, str]:
            futures = self._client.describe_topics(TopicCollection(list(topics)))
            answers = {topic: self._result(future, f"describing {topic}") for topic, future in futures.items()}
            return {topic: str(answer.topic_id) for topic, answer in answers.items()}

        return self._soon(ask)

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
        """Return the offset that `spec` selects in each partition.

        Refreshes the client's metadata if a partition's leader has changed.

        librdkafka sends the leader epoch of its cached metadata, which it refreshes by itself only every five minutes.
        """
        deadline = time.monotonic() + self._cluster.patience_s
        while True:
            futures = self._client.list_offsets(
                dict.fromkeys(parts, spec), isolation_level=isolation, request_timeout=self._cluster.patience_s
            )
            try:
                return {
                    (part.topic, part.partition): self._result(future, "fetching offsets").offset
                    for part, future in futures.items()
                }
            except LogError as error:
                if _code_of(error) not in _WITHOUT_LEADER or time.monotonic() > deadline:
                    raise
            time.sleep(_STALE_LEADER_PAUSE_S)
            for topic in {part.topic for part in parts}:
                self._metadata("refreshing the leaders", topic)

    def committed(self, group: str, topics: Iterable[str]) -> dict[tuple[str, int], int]:
        """Return a group's committed positions in these topics. Waits until no open transaction can change them.

        A consumer that joins no group makes the request. The equivalent administrative request
        (ListConsumerGroupOffsets with require_stable) crashes librdkafka 2.16 if the broker dies before it answers.
        """
        parts = [KafkaPartition(topic, i) for topic in topics for i in range(self.partitions(topic))]
        with translate_errors(f"fetching the positions of {group}"), self._consumers.acquire(group) as consumer:
            found = self._committed(consumer, parts)
        self._clear_errors()
        for part in found:
            if part.error is not None:
                raise translate(part.error, f"fetching the positions of {group}")
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def _committed(self, consumer: Any, parts: list[KafkaPartition]) -> list[KafkaPartition]:
        """Return the committed positions.

        Repeats the request within `patience_s` while the group changes its coordinator.
        """
        deadline_s = time.monotonic() + self._cluster.patience_s
        while True:
            try:
                return list(consumer.committed(parts, timeout=max(0.1, deadline_s - time.monotonic())))
            except KafkaException as exception:
                if exception.args[0].code() not in _MOVED_COORDINATOR or time.monotonic() >= deadline_s:
                    raise
            time.sleep(_STALE_LEADER_PAUSE_S)

    def topics(self, prefix: str) -> list[str]:
        """Return the names of all topics with this prefix, sorted, without the brokers' internal topics."""
        found = self._metadata("listing the topics").topics
        return sorted(name for name in found if name.startswith(prefix) and not name.startswith("__"))

    def groups(self) -> dict[str, bool]:
        """Return for each group whether it has members.

        Each broker lists its own groups. Raises LogUnavailable unless all brokers answer. A dead member counts until
        its session expires.
        """
        doing = "listing the groups"
        listing = self._client.list_consumer_groups(request_timeout=self._cluster.patience_s)
        found: Any = self._result(listing, doing, is_answer=False)
        for error in found.errors:  # errors of single brokers
            raise self._explained(translate(error, doing))
        self._clear_errors()
        return {group.group_id: group.state not in _WITHOUT_MEMBERS for group in found.valid}

    def _clear_errors(self) -> None:
        """Clear the connection errors, also those that this client has not passed to its callback yet."""
        self._client.poll(0)
        self._cluster.errors.clear()

    def outage(self) -> str:
        """Return the reason why the brokers cannot be reached, without a request; "" if no reason is known."""
        self._client.poll(0)
        return self._cluster.errors.outage()

    def _result(self, future: Future[T], doing: str, *, is_answer: bool = True) -> T:
        """Return the result of an administrative request. `is_answer`: a result proves that the brokers answer.

        Raises the LogError of the request. Raises LogError at once if the brokers refuse the client's TLS or SASL
        settings. Raises LogUnavailable if there is no answer within `patience_s` and a margin for the request's own
        timeout.
        """
        patience_s = self._cluster.patience_s
        deadline = time.monotonic() + patience_s + min(5.0, patience_s / 4)
        while True:
            try:
                with translate_errors(doing):
                    found = future.result(_SLICE_S)
            except TimeoutError:
                self.check_refusal(doing)
                if time.monotonic() > deadline:
                    raise self._explained(LogUnavailable(f"{doing}: no answer")) from None
            except LogUnavailable as error:
                raise self._explained(error) from error.__cause__
            else:
                if is_answer:
                    self._clear_errors()
                return found

    def _metadata(self, doing: str, topic: str | None = None) -> Any:
        """Return the brokers' metadata of a topic, or of all topics. Raises the errors of `_result`."""
        deadline, timeout_s = time.monotonic() + self._cluster.patience_s, _FIRST_METADATA_S
        ask: Callable[..., Any] = self._client.list_topics
        while True:
            left_s = max(0.1, deadline - time.monotonic())
            try:
                with translate_errors(doing):
                    found = ask(topic, timeout=min(timeout_s, left_s)) if topic else ask(timeout=min(timeout_s, left_s))
            except LogUnavailable as error:
                self.check_refusal(doing)
                if time.monotonic() > deadline:
                    raise self._explained(error) from error.__cause__
                time.sleep(_SLICE_S / 2)
                timeout_s *= 2
            else:
                self._clear_errors()
                return found

    def check_refusal(self, doing: str) -> None:
        """Raise LogError if the brokers refuse the clients' TLS or SASL settings."""
        self._client.poll(0)
        refusal = self._cluster.errors.refusal()
        if refusal:
            raise LogError(f"{doing}: the brokers at {self._cluster.bootstrap} refuse the connection: {refusal}")

    def _explained(self, error: LogError) -> LogError:
        """Return the error with the reason of the clients' connection errors, if there is one."""
        reason = self.outage()
        return type(error)(f"{error}: {reason}") if reason else error


def _code_of(error: LogError) -> int | None:
    """Return the code of the Kafka error that caused a LogError; None if another error caused it."""
    return error_of(error.__cause__).code() if isinstance(error.__cause__, KafkaException) else None
