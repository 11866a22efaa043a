"""Kept state on Kafka: what a writer notes never waits for somebody who reads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tickerplant.log.kafka import stretch
from tickerplant.log.kafka.connection import Cluster
from tickerplant.log.kafka.state import Partition


def test_a_commit_is_noted_while_the_partition_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, told = threading.Event(), threading.Event(), []

    def slow(*_: Any, at_least: int, **__: Any) -> Iterator[Any]:
        told.append(at_least)
        begun.set()
        assert go_on.wait(60)
        return iter(())

    monkeypatch.setattr(stretch, "messages", slow)
    partition = Partition(Cluster("nowhere:1"), "market.state.feeds", 0)
    reading = threading.Thread(target=partition.names)
    reading.start()
    assert begun.wait(60)
    noting = threading.Thread(target=partition.note_written, args=(7,), daemon=True)
    noting.start()
    noting.join(60)
    assert not noting.is_alive()
    go_on.set()
    reading.join(60)
    partition.names()
    assert told == [0, 7]
