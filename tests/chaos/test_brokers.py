"""A cluster of several brokers: replicas of new topics, and a log that works after one broker was killed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource

from tests.support.kafka import KafkaBroker
from tests.support.waiting import PATIENCE, until
from tickerplant.core.errors import LogUnavailable
from tickerplant.core.schemas import RAW, STATE_AGGREGATION, TOPICS
from tickerplant.log.kafka import KafkaLog
from tickerplant.log.topic_policy import TopicPolicy

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.kafka, pytest.mark.timeout(300)]

BROKERS = 3
PARTITIONS = 2
INTERNAL = {
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
}
"""Settings of a cluster of three: positions and transactions have three replicas, which is Kafka's default."""


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[KafkaBroker]]:
    """Yield three running brokers. The first is also the controller."""
    folder = tmp_path_factory.mktemp("brokers")
    found = [KafkaBroker(folder / "1", settings=INTERNAL)]
    found += [KafkaBroker(folder / f"{n}", settings=INTERNAL, joins=found[0], node=n) for n in range(2, BROKERS + 1)]
    try:
        for broker in found:
            broker.start()
        until(lambda: len(metadata(found[0]).brokers) == BROKERS, "three brokers")
        yield found
    finally:
        for broker in reversed(found):
            broker.kill()


def metadata(broker: KafkaBroker) -> Any:
    return AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=PATIENCE.seconds(10))


def replicas(broker: KafkaBroker, prefix: str) -> Mapping[str, set[int]]:
    """Return the counts of replicas of the partitions of each topic with the prefix."""
    topics = metadata(broker).topics.items()
    return {
        name.removeprefix(prefix): {len(partition.replicas) for partition in topic.partitions.values()}
        for name, topic in topics
        if name.startswith(prefix)
    }


def in_sync(broker: KafkaBroker, topic: str) -> str:
    """Return a topic's `min.insync.replicas`."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    (future,) = admin.describe_configs([resource]).values()
    return str(future.result(PATIENCE.seconds(10))["min.insync.replicas"].value)


def test_new_topics_have_a_replica_on_each_of_three_brokers(brokers: list[KafkaBroker]) -> None:
    with KafkaLog(brokers[1].bootstrap, topic_prefix="three.") as log:
        log.create_topics(TOPICS, PARTITIONS)
    found = replicas(brokers[0], "three.")
    assert found.keys() > {spec.name for spec in TOPICS}
    assert set(map(frozenset, found.values())) == {frozenset({3})}
    assert [in_sync(brokers[0], f"three.{topic}") for topic in (RAW, STATE_AGGREGATION)] == ["2", "2"]


def test_an_option_of_the_address_sets_the_count_of_replicas(brokers: list[KafkaBroker]) -> None:
    with KafkaLog(brokers[0].bootstrap, topic_prefix="two.", policy=TopicPolicy(2)) as log:
        log.create_topics(TOPICS, PARTITIONS)
    assert set(map(frozenset, replicas(brokers[0], "two.").values())) == {frozenset({2})}


def test_the_log_works_after_a_broker_was_killed(brokers: list[KafkaBroker]) -> None:
    addresses = ",".join(broker.bootstrap for broker in brokers)
    with KafkaLog(addresses, topic_prefix="killed.", patience_s=PATIENCE.seconds(30)) as log:
        log.create_topics(TOPICS, PARTITIONS)
        found: dict[int, list[bytes]] = {partition: [] for partition in range(PARTITIONS)}
        with log.writer("w") as writer, log.reader([RAW], group="g") as reader:

            def append(value: bytes) -> bool:
                with suppress(LogUnavailable), writer.transaction() as transaction:
                    for partition in found:
                        transaction.append(RAW, partition, value)
                    return True
                return False

            def arrives(value: bytes) -> bool:
                for record in reader.poll(timeout_s=0.2):
                    found[record.partition].append(record.value)
                return all(value in values for values in found.values())

            for value in (b"before", b"after", b"again"):
                if value == b"after":
                    brokers[2].kill()
                elif value == b"again":
                    brokers[2].start()
                until(lambda value=value: append(value), f"a commit of {value!r}")
                until(lambda value=value: arrives(value), f"records {value!r}")
        # A commit whose outcome was unknown may have been repeated.
        assert [list(dict.fromkeys(values)) for values in found.values()] == [[b"before", b"after", b"again"]] * 2
