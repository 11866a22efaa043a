"""Addresses of logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tickerplant.core.errors import ConfigError
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.log.kafka import KafkaLog
from tickerplant.log.open import open_log
from tickerplant.log.topic_policy import TopicPolicy


def test_embedded_is_a_file_in_the_data_folder(tmp_path: Path) -> None:
    open_log("embedded:", data=tmp_path).close()
    assert (tmp_path / "market.log").exists()


def test_a_sqlite_address_contains_the_path_of_the_file(tmp_path: Path) -> None:
    log = open_log(f"sqlite://{tmp_path}/here.log")
    assert isinstance(log, EmbeddedLog)
    assert log.path == tmp_path / "here.log"
    log.close()


def test_a_kafka_address_contains_brokers_and_a_prefix() -> None:
    log = open_log("kafka://one:9092,two:9093?prefix=mine.&replication=3", config={"security.protocol": "SSL"})
    assert isinstance(log, KafkaLog)
    assert log.cluster.bootstrap == "one:9092,two:9093"
    assert log.prefix == "mine."
    log.close()


@pytest.mark.parametrize(
    "url",
    [
        "", "kafka", "kafka://", "kafka://host", "kafka://host:x", "kafka://a:1,b", "kafka://a:1/topic", "kafka://a:1?x=1",
        "kafka://a:1?replication=0", "kafka://a:1?prefix", "embedded:/path", "sqlite:///", "sqlite://host/path", "redis://a",
    ],
)  # fmt: skip
def test_any_other_address_is_rejected(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        open_log(url, data=tmp_path)


def test_the_count_of_replicas_has_two_names_that_must_agree() -> None:
    for url, policy in (("?replication=3", TopicPolicy(3)), ("", TopicPolicy(3)), ("?replication=3", TopicPolicy())):
        open_log(f"kafka://one:9092{url}", policy=policy).close()
    with pytest.raises(ConfigError, match=r"replication=2 .* differs from topics\.replicas, 3; remove one"):
        open_log("kafka://one:9092?replication=2", policy=TopicPolicy(3))


def test_embedded_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="folder"):
        open_log("embedded:")


def test_unknown_client_settings_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"no\.such"):
        open_log("kafka://127.0.0.1:1", config={"no.such": "1"})
