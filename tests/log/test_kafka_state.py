"""State values on Kafka: a writer never waits for a reader. Also the log lines of the client library."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.waiting import PATIENCE
from tickerplant.log.kafka import connection, range_reader
from tickerplant.log.kafka.connection import Cluster
from tickerplant.log.kafka.consumer_pool import ConsumerPool
from tickerplant.log.kafka.state import Partition


def test_a_commit_is_noted_while_the_partition_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, resume, bounds = threading.Event(), threading.Event(), []

    def slow(*_: Any, at_least: int, **__: Any) -> Iterator[Any]:
        bounds.append(at_least)
        begun.set()
        assert resume.wait(PATIENCE.seconds(60))
        return iter(())

    monkeypatch.setattr(range_reader, "messages", slow)
    partition = Partition(ConsumerPool(Cluster("nowhere:1")), "market.state.feeds", 0)
    reading = threading.Thread(target=partition.names)
    reading.start()
    assert begun.wait(PATIENCE.seconds(60))
    noting = threading.Thread(target=partition.note_written, args=(7,), daemon=True)
    noting.start()
    noting.join(PATIENCE.seconds(60))
    assert not noting.is_alive()
    resume.set()
    reading.join(PATIENCE.seconds(60))
    partition.names()
    assert bounds == [0, 7]


def test_similar_log_lines_of_clients_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    loggers = [connection.ClientLogFilter(), connection.ClientLogFilter()]
    connection.ClientLogFilter._logged_s.clear()
    for number in range(50):
        loggers[number % 2].log(40, "%s [%s] refused (after %dms)", "FAIL", f"consumer-{number}", number)
    loggers[0].log(40, "something else")
    assert [record.getMessage() for record in caplog.records] == [
        "FAIL [consumer-0] refused (after 0ms)",
        "something else",
    ]
