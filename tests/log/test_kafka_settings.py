"""Settings of topics that break a guarantee of the log, and texts of librdkafka about refused connections."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError

from tickerplant.core.errors import ConfigError
from tickerplant.core.schemas import OHLCV, RAW, STATE_AGGREGATION, TopicSpec
from tickerplant.core.times import DAY_US
from tickerplant.log.kafka.client_errors import ConnectionErrors
from tickerplant.log.kafka.connection import ClientLogFilter
from tickerplant.log.kafka.reader import generation_of
from tickerplant.log.kafka.topic_settings import check, new_topic
from tickerplant.log.topic_policy import TopicPolicy

TICKS = TopicSpec(RAW, 5 * DAY_US)
STATE = TopicSpec(STATE_AGGREGATION, None)
BROKER = {"retention.bytes": "-1", "unclean.leader.election.enable": "false"}
"""Settings that a topic has by default and `new_topic` does not set."""


@pytest.mark.parametrize("spec", [TICKS, STATE])
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_a_new_topic_passes_the_check(spec: TopicSpec, replicas: int) -> None:
    findings = check("t", spec, BROKER | new_topic(spec, replicas), replicas)
    assert (findings.refused, findings.warned) == ({}, {})


@pytest.mark.parametrize(
    ("spec", "name", "value", "right"),
    [
        (TICKS, "retention.ms", "60000", "432000000"),
        (TICKS, "retention.ms", "86399999", "432000000"),
        (TICKS, "max.message.bytes", "1048588", "34603008"),
        (TICKS, "message.timestamp.type", "CreateTime", "LogAppendTime"),
        (TICKS, "cleanup.policy", "compact", "delete"),
        (TICKS, "min.insync.replicas", "2", "1"),
        (STATE, "cleanup.policy", "delete", "compact"),
        (STATE, "cleanup.policy", "compact,delete", "compact"),
        (STATE, "max.message.bytes", "1000", "34603008"),
    ],
)
def test_a_setting_that_would_lose_records_or_stop_the_plant_is_refused(
    spec: TopicSpec, name: str, value: str, right: str
) -> None:
    findings = check("t", spec, BROKER | new_topic(spec, 1) | {name: value}, 1)
    assert findings.refused == {name: (value, right)}
    assert findings.text(findings.refused, "broker:9092") == (
        f"topic t has {name}={value}; correct it with `kafka-configs.sh --bootstrap-server broker:9092 --alter "
        f"--entity-type topics --entity-name t --add-config {name}={right}`"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention.ms", "86400000"),
        ("retention.bytes", "1000000"),
        ("unclean.leader.election.enable", "true"),
        ("min.insync.replicas", "1"),
    ],
)
def test_a_setting_that_shortens_what_users_read_or_risks_it_is_a_warning(name: str, value: str) -> None:
    findings = check("t", TICKS, BROKER | new_topic(TICKS, 3) | {name: value}, 3)
    assert (findings.refused, list(findings.warned)) == ({}, [name])


def test_a_longer_retention_and_a_state_topic_with_any_times_are_accepted() -> None:
    for value in ("-1", "864000000"):
        assert not check("t", TICKS, new_topic(TICKS, 1) | {"retention.ms": value}, 1).warned
    assert not check("t", STATE, new_topic(STATE, 1) | {"message.timestamp.type": "CreateTime"}, 1).refused


def test_chosen_settings_are_those_of_new_topics_and_existing_ones_are_compared_with_them() -> None:
    policy = TopicPolicy(3, 3, {RAW: 30 * DAY_US})
    new = new_topic(TICKS, 3, policy)
    assert (new["min.insync.replicas"], new["retention.ms"], new["segment.ms"]) == ("3", "2592000000", "259200000")
    assert new_topic(STATE, 3, policy)["min.insync.replicas"] == "3"
    assert new_topic(TopicSpec(OHLCV, 5 * DAY_US), 3, policy)["retention.ms"] == "432000000"
    assert not check("t", TICKS, BROKER | new, 3, policy).warned
    found = check("p.t", TICKS, BROKER | new_topic(TICKS, 2), 2, policy)
    assert found.refused == {}
    assert found.warned == {
        "min.insync.replicas": ("1", "2"), "replicas": ("2", "3"), "retention.ms": ("432000000", "2592000000"),
    }  # fmt: skip
    assert found.text(found.warned, "broker:9092") == (
        "topic p.t has 2 replicas, and topics.replicas is 3; add replicas with `kafka-reassign-partitions.sh`; topic "
        "p.t has min.insync.replicas=1, retention.ms=432000000; correct it with `kafka-configs.sh --bootstrap-server "
        "broker:9092 --alter --entity-type topics --entity-name p.t --add-config "
        "min.insync.replicas=2,retention.ms=2592000000`"
    )
    short = check("t", TICKS, BROKER | new | {"retention.ms": "60000"}, 3, policy)
    assert short.refused == {"retention.ms": ("60000", "2592000000")}


def test_more_in_sync_replicas_than_replicas_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"topics.min_insync_replicas is 2, and a topic has 1 replicas"):
        new_topic(TICKS, 1, TopicPolicy(min_insync_replicas=2))


def test_a_refusal_counts_when_it_has_lasted_and_a_success_ends_it() -> None:
    now = [100.0]
    errors = ConnectionErrors(lambda: now[0])
    assert (errors.refusal(), errors.outage()) == ("", "")
    text = "sasl_ssl://127.0.0.1:9092/1: SASL authentication error: wrong password (after 12ms in state AUTH_REQ)"
    errors.note(KafkaError(KafkaError._AUTHENTICATION, text))
    assert errors.refusal() == ""
    assert errors.outage() == "SASL authentication error: wrong password (for 0 s)"
    now[0] += 2
    errors.note(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert errors.refusal() == "SASL authentication error: wrong password"
    assert errors.outage() == "SASL authentication error: wrong password (for 2 s)"
    errors.clear()
    assert (errors.refusal(), errors.outage()) == ("", "")


def test_an_outage_states_the_newest_error_of_a_connection() -> None:
    now = [100.0]
    errors = ConnectionErrors(lambda: now[0])
    errors.note(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert errors.outage() == "1/1 brokers are down (for 0 s)"
    now[0] += 40
    text = "127.0.0.1:9092/1: Connect to ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)"
    errors.note(KafkaError(KafkaError._TRANSPORT, text))
    assert errors.outage() == "Connect to ipv4#127.0.0.1:9092 failed: Connection refused (for 40 s)"
    assert errors.refusal() == ""


@pytest.mark.parametrize("alert", ["bad certificate", "certificate required", "unknown ca", "certificate expired"])
def test_an_alert_about_the_clients_certificate_is_a_refusal(alert: str) -> None:
    now = [100.0]
    errors = ConnectionErrors(lambda: now[0])
    line = f"Receive failed: error:0A000412:SSL routines::ssl/tls alert {alert}: SSL alert number 42"
    for _ in range(2):
        text = f"sasl_ssl://127.0.0.1:9093/bootstrap: {line} (after 90ms in state APIVERSION_QUERY)"
        errors.note(KafkaError(KafkaError._TRANSPORT, text))
        now[0] += 1
    assert errors.refusal() == (
        f"a broker refuses the certificate of the client; check ssl.certificate.location ({line})"
    )


def test_a_closed_connection_is_a_refusal_only_before_the_first_answer() -> None:
    now = [100.0]
    line = "FAIL [producer-1]: 127.0.0.1:9093/1: Disconnected: connection reset (after 5ms in state APIVERSION_QUERY)"
    for connects_first in (False, True):
        errors = ConnectionErrors(lambda: now[0])
        if connects_first:
            errors.clear()
        ClientLogFilter(errors).log(20, "%s", line)
        now[0] += 2
        assert ("security.protocol" in errors.refusal()) == (not connects_first)


def test_no_request_goes_to_the_coordinator_of_a_group() -> None:
    """Check that `src` has no AdminClient request that aborts the process after an outage (librdkafka issue 4605)."""
    forbidden = (
        "describe_consumer_groups", "list_consumer_group_offsets", "alter_consumer_group_offsets",
        "delete_consumer_groups",
    )  # fmt: skip
    sources = [path.read_text() for path in sorted((Path(__file__).parents[2] / "src").rglob("*.py"))]
    assert any("list_consumer_groups" in source for source in sources)
    assert [name for name in forbidden if any(name in source for source in sources)] == []


def test_the_generation_in_group_metadata_is_that_of_librdkafka() -> None:
    consumer = Consumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "g", "log_level": 0})
    assert generation_of(consumer.consumer_group_metadata()) == (-1, b"g\0\0\x01")  # no member yet
    consumer.close()
    seven = b"CGMDv2:" + (7).to_bytes(4, sys.byteorder) + b"g\0member\0\x01"
    assert generation_of(seven) == (7, b"g\0member\0\x01")
    for unknown in (None, b"", b"CGMDv2:\0\0", b"CGMDv3:" + seven[7:]):
        assert generation_of(unknown) is None
