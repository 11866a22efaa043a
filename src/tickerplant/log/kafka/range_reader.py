"""Reads a range of one partition: from one offset to another, or to the current end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from tickerplant.core.errors import LogUnavailable
from tickerplant.log.kafka.connection import STALE_LEADER, Cluster, error_of, translate, translate_errors
from tickerplant.log.kafka.consumer_pool import ConsumerPool

_EMPTY_FETCH_MS = 5
"""Milliseconds that a broker delays an empty answer. Only such an answer shows the end after a transaction's marker."""
_MARKER_POLL_S = 0.002
"""Poll interval in seconds for transaction markers, which mostly arrive within a few milliseconds."""


def messages(
    consumers: ConsumerPool, topic: str, partition: int, start: int, end: int | None, *, at_least: int = 0
) -> Iterator[Message]:
    """Yield the committed, retained messages of `[start, end)`. None as `end` is the current end.

    Brokers confirm a commit before they have written the markers to its partitions. This call therefore waits until all
    messages before `at_least` can be read. Raises LogUnavailable if this takes longer than the cluster's `patience_s`,
    or if the brokers do not answer for that time.
    """
    with translate_errors(f"reading {topic}/{partition}"):
        low, high = _bounds(consumers, TopicPartition(topic, partition), at_least)
        last = high if end is None else min(end, high)
        if max(start, low) < last:
            with _acquire(consumers) as consumer:
                consumer.assign([TopicPartition(topic, partition, max(start, low))])
                yield from _until(consumers.cluster, consumer, last, f"reading {topic}/{partition}")


def _acquire(consumers: ConsumerPool) -> AbstractContextManager[Any]:
    settings = {
        "enable.partition.eof": True,
        "fetch.wait.max.ms": _EMPTY_FETCH_MS,
        "auto.offset.reset": "earliest",  # retention or compaction may remove the beginning at any time
    }
    return consumers.acquire(consumers.cluster.prefix + "tickerplant-stretch", **settings)


_TEMPORARY: Final = STALE_LEADER | {KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
"""Errors of a client whose metadata is old, or of a restarted broker. librdkafka does not retry them."""


def _bounds(consumers: ConsumerPool, source: TopicPartition, at_least: int) -> tuple[int, int]:
    cluster = consumers.cluster
    deadline = time.monotonic() + cluster.patience_s
    while True:
        try:
            with _acquire(consumers) as consumer:
                low, high = consumer.get_watermark_offsets(source, timeout=cluster.patience_s)
            cluster.errors.clear()
            if high >= at_least:
                return low, high
        except KafkaException as exception:
            if error_of(exception).code() not in _TEMPORARY or time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise LogUnavailable(f"{source.topic}/{source.partition}: committed records cannot be read yet; try again")
        time.sleep(_MARKER_POLL_S)


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
