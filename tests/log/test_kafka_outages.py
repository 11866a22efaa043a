"""Outages, changes of leaders, members that leave, topics with wrong settings, and lost records, on a real broker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from tests.support.kafka import KafkaBroker
from tests.support.waiting import PATIENCE, until
from tickerplant.app import health, retention_loss
from tickerplant.app.component import FAILED, OK
from tickerplant.app.doctor import log as doctor
from tickerplant.app.doctor.finding import FAIL, WARN
from tickerplant.core.errors import ConfigError, LogError, LogUnavailable
from tickerplant.core.schemas import OHLCV, RAW, STATE_AGGREGATION, TOPICS
from tickerplant.core.times import DAY_US
from tickerplant.log.kafka import KafkaLog, connection
from tickerplant.log.port import TopicPartition
from tickerplant.log.snapshots import SNAPSHOT_KEY
from tickerplant.log.topic_policy import TopicPolicy

pytestmark = pytest.mark.kafka

PARTITIONS = 2


class Cluster:
    """The broker, one log on it, and a client that alters its topics."""

    def __init__(self, broker: KafkaBroker) -> None:
        self.broker, self.prefix = broker, f"outages{os.getpid()}-{time.monotonic_ns()}."
        self.log = self.open()
        self.log.create_topics(TOPICS, PARTITIONS)
        self.admin = AdminClient({"bootstrap.servers": broker.bootstrap})

    def open(self) -> KafkaLog:
        return KafkaLog(self.broker.bootstrap, topic_prefix=self.prefix, session_timeout_s=3.0)

    def alter(self, topic: str, **config: str) -> None:
        entries = [
            ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
            for name, value in config.items()
        ]
        resource = ConfigResource(
            ConfigResource.Type.TOPIC,
            self.prefix + topic,
            incremental_configs=entries,  # type: ignore[arg-type]
        )
        for future in self.admin.incremental_alter_configs([resource]).values():
            future.result(PATIENCE.seconds(30))

    def drop_records(self, topic: str, partition: int, before: int) -> None:
        for future in self.admin.delete_records([KafkaPartition(self.prefix + topic, partition, before)]).values():
            future.result(PATIENCE.seconds(30))


@pytest.fixture
def cluster(kafka_broker: KafkaBroker) -> Iterator[Cluster]:
    cluster = Cluster(kafka_broker)
    yield cluster
    cluster.log.close()


def append(log: KafkaLog, *values: bytes) -> None:
    with log.writer("w") as writer, writer.transaction() as transaction:
        for value in values:
            transaction.append(RAW, 0, value)


def test_offsets_are_read_after_a_change_of_the_leader_epoch(cluster: Cluster) -> None:
    append(cluster.log, b"a", b"b")
    source = TopicPartition(RAW, 0)
    until(lambda: cluster.log.offsets(RAW)[source][1] > 2, "the end of the transaction")
    before = cluster.log.offsets(RAW)
    leader_epoch = epoch(cluster)
    cluster.broker.kill()
    cluster.broker.start()
    until(lambda: epoch(cluster) != leader_epoch, "a new leader epoch")
    assert cluster.log.offsets(RAW) == before


def epoch(cluster: Cluster) -> int:
    """Return the leader epoch of a partition, as the broker's checkpoint file contains it."""
    path = cluster.broker.data_dir / "topics" / f"{cluster.prefix}{RAW}-0" / "leader-epoch-checkpoint"
    meta = cluster.broker.data_dir / "topics" / f"{cluster.prefix}{RAW}-0" / "partition.metadata"
    assert meta.exists()
    return int(path.read_text().split()[-2])


def test_an_outage_has_a_reason_at_once_and_ends_with_the_first_answer(cluster: Cluster) -> None:
    log = cluster.log
    assert (log.members("g"), log.outage()) == (0, "")
    cluster.broker.kill()
    object.__setattr__(log.cluster, "patience_s", 1.0)
    with pytest.raises(LogUnavailable, match="refused"):
        log.members("g")
    assert "Connection refused" in log.outage()
    cluster.broker.start()
    object.__setattr__(log.cluster, "patience_s", 30.0)
    assert (log.members("g"), log.outage()) == (0, "")


def test_a_member_that_leaves_hands_over_its_partitions_before_its_session_ends(cluster: Cluster) -> None:
    first = cluster.log.reader([RAW], group="g", member="g-0")
    until(lambda: not first.poll(timeout_s=0.1) and len(first.assignment()) == PARTITIONS, "all partitions")
    second = cluster.log.reader([RAW], group="g", member="g-1")

    def shared() -> bool:
        first.poll(timeout_s=0.05)
        second.poll(timeout_s=0.05)
        return len(first.assignment()) == len(second.assignment()) == 1

    until(shared, "shared partitions")
    began, session_s = time.monotonic(), cluster.log.cluster.session_timeout_s
    first.close()
    until(lambda: not second.poll(timeout_s=0.05) and len(second.assignment()) == PARTITIONS, "all partitions")
    took_s = time.monotonic() - began
    assert cluster.log.members("g") == 1
    second.close()
    assert cluster.log.members("g") == 0
    assert took_s < PATIENCE.seconds(session_s)


@pytest.mark.parametrize(
    ("topic", "config"),
    [
        (RAW, {"retention_ms": "60000"}),
        (OHLCV, {"max_message_bytes": "1000000"}),
        (RAW, {"message_timestamp_type": "CreateTime"}),
        (STATE_AGGREGATION, {"cleanup_policy": "delete"}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_an_existing_topic_with_wrong_settings_is_refused_with_the_command_that_corrects_it(
    cluster: Cluster, topic: str, config: dict[str, str]
) -> None:
    cluster.log.create_topics(TOPICS, PARTITIONS)
    cluster.alter(topic, **config)
    (name,) = (key.replace("_", ".") for key in config)
    with pytest.raises(ConfigError, match=f"topic {cluster.prefix}{topic} has {name}=.*--add-config {name}="):
        cluster.open().create_topics(TOPICS, PARTITIONS)
    [found] = doctor.topics(cluster.log)
    assert found.state == FAIL
    assert f"topic {cluster.prefix}{topic} has {name}=" in found.sentence


def test_new_topics_have_as_many_replicas_as_the_cluster_can_give(cluster: Cluster) -> None:
    topic = cluster.admin.list_topics(cluster.prefix + RAW, timeout=PATIENCE.seconds(30)).topics[cluster.prefix + RAW]
    assert [len(partition.replicas) for partition in topic.partitions.values()] == [1] * PARTITIONS
    three = KafkaLog(cluster.broker.bootstrap, topic_prefix=cluster.prefix + "three.", policy=TopicPolicy(3))
    with pytest.raises(LogError, match="replication factor"):
        three.create_topics(TOPICS, 1)


def test_chosen_settings_of_topics_are_set_on_the_broker_and_compared_at_each_start(
    cluster: Cluster,
) -> None:
    prefix, bootstrap = f"{cluster.prefix}chosen.", cluster.broker.bootstrap
    with KafkaLog(bootstrap, topic_prefix=prefix, policy=TopicPolicy(1, 1, {RAW: 30 * DAY_US})) as log:
        log.create_topics(TOPICS, 1)
        log.create_topics(TOPICS, 1)
        assert log.check_topics(TOPICS) == ([], [])
    with KafkaLog(bootstrap, topic_prefix=prefix, policy=TopicPolicy(1, 1, {RAW: 60 * DAY_US})) as log:
        log.create_topics(TOPICS, 1)
        [text] = log.check_topics(TOPICS)[1]
        assert text.startswith(f"topic {prefix}{RAW} has retention.ms=2592000000; correct it with")
        assert "retention.ms=5184000000" in text
        [finding] = doctor.topics(log)
        assert (finding.state, text in finding.sentence) == (WARN, True)


def test_the_groups_of_all_consumers_have_the_prefix(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    names, real = [], connection.Cluster.consumer

    def consumer(self: connection.Cluster, group: str, **more: Any) -> dict[str, Any]:
        names.append(group)
        return real(self, group, **more)

    monkeypatch.setattr(connection.Cluster, "consumer", consumer)
    append(cluster.log, b"a")
    with cluster.open() as log:  # it has no consumers yet
        log.lag("g", [RAW])
        log.reader([RAW]).close()
        log.reader([RAW], group="g").close()
        assert next(log.read_range(TopicPartition(RAW, 0), 0, 1)).value == b"a"
    assert len({name.rstrip("0123456789abcdef") for name in names}) == 4
    assert [name for name in names if not name.startswith(cluster.prefix)] == []


def test_health_names_lost_records_and_a_service_continues_after_them(cluster: Cluster) -> None:
    log = cluster.log
    append(log, *[b"%d" % number for number in range(10)])
    with log.reader([RAW], group="aggregation") as reader:
        until(lambda: len(reader.poll(timeout_s=0.5)) > 0, "records")
        with log.writer("state") as writer, writer.transaction() as transaction:
            transaction.put_state(STATE_AGGREGATION, 0, SNAPSHOT_KEY, b"a state without the lost records")
            transaction.send_positions(reader, {TopicPartition(RAW, 0): 2})
    assert lag(log).state == OK
    cluster.drop_records(RAW, 0, 5)
    found = lag(log)
    assert found.state == FAILED
    assert f"{RAW}/0: 3 offsets are lost (the position is 2, the log begins at 5)" in found.sentence
    assert "tickerplant skip-lost aggregation --yes" in found.sentence
    losses = retention_loss.find(log, log.committed("aggregation"), [RAW])
    assert losses == [retention_loss.Loss(RAW, 0, 2, 5)]
    retention_loss.require_stopped(log, "aggregation")
    retention_loss.skip_lost(log, "aggregation", [RAW], losses)
    assert log.committed("aggregation")[TopicPartition(RAW, 0)] == 5
    assert log.get_state(STATE_AGGREGATION, 0, SNAPSHOT_KEY) is None
    found = lag(log)
    assert (found.state, found.details["skipped"][0]["losses"][0]["first"]) == (OK, 5)
    assert "3 lost offsets were skipped" in found.sentence
    with log.reader([RAW], group="aggregation") as reader:
        with pytest.raises(LogError, match="is running"):
            until(lambda: reader.poll(timeout_s=0.1) and retention_loss.require_stopped(log, "aggregation"))
        assert reader.assignment()


def lag(log: KafkaLog) -> Any:
    parts: Sequence[Any] = list(health.log_health(log))
    return next(part for part in parts if part.name == "lag aggregation")
