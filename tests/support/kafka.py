"""A real Kafka broker for tests; see `tools/kafka/broker.py`, which the command `tools/kafka/kafka` shares.

The fixture `kafka_broker` is one broker for the session. A test that kills it starts it again; the next test finds it
running in any case. Topics of tests are told apart by a prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.kafka import broker
from tools.kafka.broker import KafkaError, get_jars

from tests.support.waiting import PATIENCE

__all__ = ["KafkaBroker", "KafkaError", "get_jars", "kafka_broker"]

START_S = 60.0
QUICK = ("-XX:TieredStopAtLevel=1",)
"""A broker of some minutes: without the optimising compiler it needs 5.5 s of CPU for 200 transactions, not 9.7 s."""


class KafkaBroker(broker.KafkaBroker):
    """A broker for minutes, that a busy machine has more time to start."""

    def __init__(self, data_dir: Path | str) -> None:
        super().__init__(data_dir, java_options=QUICK)

    def start(self, timeout_s: float | None = None) -> str:
        """Do as the broker of the tools does; `timeout_s` scales with the machine."""
        return super().start(PATIENCE.seconds(timeout_s or START_S))


@pytest.fixture(scope="session")
def _broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def kafka_broker(_broker: KafkaBroker) -> KafkaBroker:
    """Give the session's broker, running."""
    _broker.start()
    return _broker
