"""Transactions that the next owner of a partition ends, against clients that the test controls."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from tickerplant.core.errors import LogUnavailable
from tickerplant.core.schemas import OHLCV, RAW
from tickerplant.log.kafka import abandoned
from tickerplant.log.port import TopicPartition


class Brokers:
    """Brokers with the positions of the writer `former`.

    `slow`: isolation levels of requests that time out; `slow_requests`: number of first requests that time out.
    """

    def __init__(self, slow: set[str], slow_requests: int = 0) -> None:
        self._slow, self._slow_requests = slow, slow_requests
        self.aborted: list[str] = []

    def client(self, make: Any, settings: dict[str, Any]) -> Any:
        return SimpleNamespace(init_transactions=lambda _: self.aborted.append(settings["transactional.id"]))

    @contextlib.contextmanager
    def acquire(self, group: str, **more: Any) -> Iterator[Any]:
        level = more.get("isolation.level", "read_committed")
        yield SimpleNamespace(committed=lambda parts, timeout: self._committed(level, parts, timeout))

    def _committed(self, level: str, parts: list[KafkaPartition], timeout_s: float) -> list[KafkaPartition]:
        self._slow_requests -= 1
        if level in self._slow or self._slow_requests >= 0:
            time.sleep(timeout_s)
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return [KafkaPartition(part.topic, part.partition, 5, "former") for part in parts]


def abort(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(abandoned, "checked", brokers.client)
    monkeypatch.setattr(abandoned, "ABANDONED_S", 0.01)
    monkeypatch.setattr(abandoned, "_PAUSE_S", 0.001)
    cluster = SimpleNamespace(patience_s=0.01, producer=lambda **more: more)
    context: Any = SimpleNamespace(cluster=cluster, consumers=brokers, named=str, offsets=lambda *_, **__: {})
    return abandoned.abort_abandoned(context, "g", [TopicPartition(RAW, 0)], [OHLCV], "own")


def test_only_the_stable_positions_time_out_while_a_transaction_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    brokers = Brokers({"read_committed"})
    assert abort(brokers, monkeypatch) == brokers.aborted == ["former"]


@pytest.mark.parametrize("slow_requests", [1, 100])
def test_a_coordinator_that_is_slow_aborts_no_writer(monkeypatch: pytest.MonkeyPatch, slow_requests: int) -> None:
    brokers = Brokers(set(), slow_requests)
    with pytest.raises(LogUnavailable, match="positions of g"):
        abort(brokers, monkeypatch)
    assert brokers.aborted == []
