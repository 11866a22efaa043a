"""The consumers that a log keeps between requests, without a broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from tickerplant.log.kafka import consumer_pool
from tickerplant.log.kafka.connection import Cluster
from tickerplant.log.kafka.consumer_pool import ConsumerPool


class FakeConsumer:
    """A consumer that records whether it is open and assigned."""

    made: list[FakeConsumer]
    refuses = False

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.is_open, self.is_assigned, self.polls = settings, True, False, 0
        self.made.append(self)

    def poll(self, timeout_s: float) -> None:
        assert not timeout_s
        assert self.is_open
        self.polls += 1

    def unassign(self) -> None:
        if self.refuses:
            raise KafkaException(KafkaError(KafkaError._STATE))
        self.is_assigned = False

    def close(self) -> None:
        assert self.is_open
        self.is_open = False


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeConsumer]:
    FakeConsumer.made = []
    monkeypatch.setattr(consumer_pool, "Consumer", FakeConsumer)
    return FakeConsumer.made


@pytest.fixture
def pool() -> ConsumerPool:
    return ConsumerPool(Cluster("nowhere:1"))


def test_equal_settings_get_the_kept_consumer_without_its_assignment(
    made: list[FakeConsumer], pool: ConsumerPool
) -> None:
    with pool.acquire("g", **{"fetch.wait.max.ms": 5}) as first:
        first.is_assigned = True
    with pool.acquire("g", **{"fetch.wait.max.ms": 5}) as again:
        assert again is first
        assert not again.is_assigned
        assert again.polls == 1
    assert first.settings["group.id"] == "g"
    assert first.settings["fetch.wait.max.ms"] == 5
    with pool.acquire("g") as other, pool.acquire("h") as third:
        assert made == [first, other, third]


def test_nested_blocks_have_different_consumers_and_two_are_kept(made: list[FakeConsumer], pool: ConsumerPool) -> None:
    with pool.acquire("g"), pool.acquire("g"), pool.acquire("g"):
        assert len(made) == 3
    assert sum(consumer.is_open for consumer in made) == 2
    with pool.acquire("g"), pool.acquire("g"):
        assert len(made) == 3


def test_a_block_that_raises_closes_its_consumer(made: list[FakeConsumer], pool: ConsumerPool) -> None:
    with pytest.raises(ZeroDivisionError), pool.acquire("g"):
        _ = 1 / 0
    assert not made[0].is_open
    with pool.acquire("g") as consumer:
        assert consumer is made[1]


def test_a_generator_that_is_not_read_to_its_end_returns_its_consumer(
    made: list[FakeConsumer], pool: ConsumerPool
) -> None:
    def numbers() -> Iterator[int]:
        with pool.acquire("g"):
            yield from range(10)

    assert next(numbers()) == 0
    assert made[0].is_open
    with pool.acquire("g") as consumer:
        assert consumer is made[0]


def test_a_consumer_that_cannot_be_unassigned_is_closed(
    made: list[FakeConsumer], pool: ConsumerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeConsumer, "refuses", True)
    with pool.acquire("g"):
        pass
    assert not made[0].is_open


def test_a_consumer_is_closed_after_its_idle_time(
    made: list[FakeConsumer], pool: ConsumerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(consumer_pool.time, "monotonic", lambda: now_s)
    with pool.acquire("g"):
        pass
    now_s += 59
    with pool.acquire("h"):
        assert made[0].is_open
    now_s += 2
    with pool.acquire("h") as kept:
        assert not made[0].is_open
        assert kept is made[1]


def test_after_close_no_consumer_is_kept(made: list[FakeConsumer], pool: ConsumerPool) -> None:
    with pool.acquire("g"):
        pass
    with pool.acquire("h"):
        pool.close()
        assert [consumer.is_open for consumer in made] == [False, True]
    assert not made[1].is_open
