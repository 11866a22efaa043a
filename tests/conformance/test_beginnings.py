"""Creation of one log by several processes that start together."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.conformance.conftest import PARTITIONS, SPECS, Bench, line, read, values, write
from tests.support.waiting import PATIENCE
from tickerplant.core.errors import UnknownTopic
from tickerplant.core.schemas import OHLCV, RAW, STATE_AGGREGATION, TopicSpec
from tickerplant.log.kafka import log as kafka_log
from tickerplant.log.kafka.topic_settings import new_topic
from tickerplant.log.port import EventLog, Identity

MAKERS = 4


def forget(bench: Bench) -> None:
    """Make the bench's next `open` return a log that does not exist yet."""
    bench.prefix += "new."
    bench.path = bench.folder / "new" / "market.log"


def test_concurrent_creators_get_one_log(bench: Bench) -> None:
    forget(bench)
    logs = [bench.open() for _ in range(MAKERS)]
    with pytest.raises(UnknownTopic, match="tickerplant create-topics"):
        logs[0].identity()
    together = threading.Barrier(MAKERS)

    def make(number: int) -> tuple[list[str], Identity]:
        together.wait()
        made = logs[number].create_topics(SPECS, PARTITIONS, generation=1 + number)
        return made, logs[number].identity()

    with ThreadPoolExecutor(MAKERS) as pool:
        found = list(pool.map(make, range(MAKERS)))
    identities = {identity for _, identity in found}
    assert identities == {bench.open().identity()}
    assert sorted(name for made, _ in found for name in made) == sorted([RAW, OHLCV, STATE_AGGREGATION])
    # One creator reads a record of another creator, so they share the log and not only its identity.
    with logs[0].writer("maker") as writer:
        write(writer, b"a")
    with logs[-1].reader([RAW]) as reader:
        assert values(read(reader, 1)) == [b"a"]


@pytest.mark.kafka
def test_concurrent_creators_get_one_log_after_a_creator_died(kafka: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_log, "_IDENTITY_TIMEOUT_S", 0.5)
    forget(kafka)
    logs = [kafka.open() for _ in range(MAKERS)]
    assert kafka.broker is not None
    admin = AdminClient({"bootstrap.servers": kafka.broker.bootstrap})
    own = NewTopic(
        kafka.prefix + kafka_log.OWN_TOPIC, num_partitions=1, config=new_topic(TopicSpec(kafka_log.OWN_TOPIC, None), 1)
    )
    for future in admin.create_topics([own]).values():
        future.result(PATIENCE.seconds(30))

    def make(log: EventLog) -> Identity:
        log.create_topics(SPECS, PARTITIONS)
        return log.identity()

    with ThreadPoolExecutor(MAKERS) as pool:
        identities = set(pool.map(make, logs))
    assert identities == {kafka.open().identity()}


def test_processes_that_start_together_get_one_log(bench: Bench) -> None:
    forget(bench)
    children = [bench.child("maker") for _ in range(2)]
    identities = {line(child) for child in children}
    identity = bench.open().identity()
    assert identities == {f"{identity.log_id} {identity.generation}"}
