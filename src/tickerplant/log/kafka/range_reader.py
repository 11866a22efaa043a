"""Reading a stretch of one partition, from an offset to another or to the end as of now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tickerplant.core.errors import LogUnavailable
from tickerplant.log.kafka.connection import Cluster, checked, error_of, told, translate

_MARKERS_S = 0.002
"""How often to look whether the markers of a transaction are there: they mostly are within a few milliseconds."""


def messages(
    cluster: Cluster, topic: str, partition: int, start: int, end: int | None, *, at_least: int = 0
) -> Iterator[Message]:
    """Yield committed messages of [start, end) that are still there; `end` None is the end as of now.

    Brokers say that a transaction is committed before they have marked its partitions. `at_least` waits for that: until
    everything before it can be read. Raises LogUnavailable when the brokers say nothing for longer than the cluster is
    patient.
    """
    with told(f"reading {topic}/{partition}"):
        settings = cluster.consumer("tickerplant-stretch", **{"enable.partition.eof": True})
        settings |= {"auto.offset.reset": "earliest"}  # the beginning may go any time, by retention or compaction
        consumer = checked(Consumer, settings)
        try:
            low, high = _bounds(cluster, consumer, TopicPartition(topic, partition), at_least)
            last = high if end is None else min(end, high)
            if max(start, low) < last:
                consumer.assign([TopicPartition(topic, partition, max(start, low))])
                yield from _until(cluster, consumer, last, f"reading {topic}/{partition}")
        finally:
            consumer.close()


_NOT_YET: Final = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}
"""A broker that has just come back answers before it leads its partitions; librdkafka does not ask again."""


def _bounds(cluster: Cluster, consumer: Any, source: TopicPartition, at_least: int) -> tuple[int, int]:
    deadline = time.monotonic() + cluster.patience_s
    while True:
        try:
            low, high = consumer.get_watermark_offsets(source, timeout=cluster.patience_s)
            if high >= at_least:
                return low, high
        except KafkaException as exception:
            if error_of(exception).code() not in _NOT_YET or time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise LogUnavailable(f"{source.topic}/{source.partition}: what was committed cannot be read")
        time.sleep(_MARKERS_S)


def _until(cluster: Cluster, consumer: Any, last: int, doing: str) -> Iterator[Message]:
    deadline = time.monotonic() + cluster.patience_s
    while True:
        message = consumer.poll(0.2)
        if message is None:
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{doing}: no answer from the brokers")
            continue
        deadline = time.monotonic() + cluster.patience_s
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF and message.offset() >= last:
                return
            if error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                raise translate(error, doing)
            continue
        if message.offset() >= last:
            return
        yield message
        if message.offset() + 1 >= last:
            return
