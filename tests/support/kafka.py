"""A real Kafka broker for tests. `tools/kafka/broker.py` implements it.

The fixture `kafka_broker` is one broker for the session. It starts the broker if a test has killed it. Each test
has its own topic prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tools.kafka import broker
from tools.kafka.broker import KafkaError, get_archive, get_jars

from tests.support.waiting import PATIENCE

__all__ = ["KafkaBroker", "KafkaError", "get_archive", "get_jars", "kafka_broker"]

START_S = 60.0
QUICK = ("-XX:TieredStopAtLevel=1",)
"""JVM options for short runs: without the optimising compiler 200 transactions cost 5.5 s of CPU, not 9.7 s."""


class KafkaBroker(broker.KafkaBroker):
    """A broker for short runs, with a start timeout that scales with the machine."""

    def __init__(
        self,
        data_dir: Path | str,
        *,
        settings: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        joins: KafkaBroker | None = None,
        node: int = 1,
    ) -> None:
        super().__init__(data_dir, java_options=QUICK, settings=settings, listeners=listeners, joins=joins, node=node)

    def start(self, timeout_s: float | None = None) -> str:
        """Start the broker; `timeout_s` scales with the machine."""
        return super().start(PATIENCE.seconds(timeout_s or START_S))


def unread_connections(port: int) -> int:
    """Return the number of connections to a port of this machine whose server has not read all received bytes."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    # Fields: local address:port (hexadecimal), remote address, state (01 is established), tx_queue:rx_queue.
    return sum(
        int(local.rpartition(":")[2], 16) == port and state == "01" and int(queues.rpartition(":")[2], 16) > 0
        for _, local, _, state, queues, *_ in lines
    )


@pytest.fixture(scope="session")
def _broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def kafka_broker(_broker: KafkaBroker) -> KafkaBroker:
    """Start the session's broker if it is not running, and return it."""
    _broker.start()
    return _broker
