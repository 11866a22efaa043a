"""Copies another log into new topics, so that each record keeps its offset.

Offsets are in snapshots, cursors, versions and the store's positions. Equal offsets therefore let all services continue
as if the log had always been on the brokers. A producer without transactions writes no markers, so the offsets of its
records are consecutive. Offsets below the other log's first record are filled with empty records, which the brokers
then delete. A copy after an interruption compares the records that are present, and continues after them. The records
differ if the brokers have accepted a late request of a killed process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message, Producer
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient

from tickerplant.core.errors import LogError, LogUnavailable
from tickerplant.log.kafka.connection import checked, translate, translate_errors
from tickerplant.log.kafka.log import KafkaLog
from tickerplant.log.port import ConsumedRecord, TopicPartition

FILLER: Final = b""
_LINGER_MS: Final = 20
_REPORT_RECORDS: Final = 1_000


class RecordCopier:
    """Appends records to partitions of a log at given offsets. Belongs to one thread."""

    def __init__(self, log: KafkaLog) -> None:
        self._log, self._cluster = log, log.cluster
        self._producer = checked(Producer, self._cluster.producer(**{"linger.ms": _LINGER_MS}))
        self._failed: KafkaError | None = None
        self._wrong: str = ""

    def copy(
        self,
        target: TopicPartition,
        bounds: tuple[int, int],
        read: Callable[[int], Iterable[ConsumedRecord]],
        progress: Callable[[int], None],
    ) -> None:
        """Append the other log's records of the offsets `bounds` that a partition lacks, and wait for the brokers.

        `read(offset)` yields the other log's records from an offset on, with consecutive offsets. `progress` receives
        the next offset. Raises LogError if the partition has other offsets afterwards.
        """
        first, end = bounds
        low, present = self._log.offsets(target.topic, read_uncommitted=True)[target]
        if present > end:
            raise LogError(
                f"{target.topic}/{target.partition} has {present - end} records that the other log lacks; use other "
                "topics with kafka://…?prefix=NAME, or delete the plant's topics"
            )
        if present < first:
            self._fill(target, first - present)
            self._flush(target)
        if low < first:
            self._delete_before(target, first)
        offset = max(first, present)
        if first < offset:
            self._compare(target, (max(low, first), offset), read)
        for record in read(offset) if offset < end else ():
            if record.offset != offset:
                raise LogError(f"the other log has no record {offset} of {target.topic}/{target.partition}")
            self._produce(target, record.value, self._checked(target, offset))
            offset += 1
            if offset % _REPORT_RECORDS == 0:
                progress(offset)
        self._flush(target)
        found = self._log.offsets(target.topic, read_uncommitted=True)[target]
        if found != bounds:
            raise LogError(
                f"{target.topic}/{target.partition} has the offsets {list(found)} after the copy, not {list(bounds)}; "
                "another program writes to it"
            )

    def _compare(
        self, target: TopicPartition, bounds: tuple[int, int], read: Callable[[int], Iterable[ConsumedRecord]]
    ) -> None:
        """Raise LogError unless the partition has the other log's records in `[begin, end)`."""
        begin, end = bounds
        for record, other in zip(self._log.read_range(target, begin, end), read(begin), strict=False):
            if (record.offset, record.value) != (other.offset, other.value):
                raise LogError(
                    f"record {other.offset} of {target.topic}/{target.partition} differs from the other log's; delete "
                    "the plant's topics, and run the command again"
                )

    def _fill(self, target: TopicPartition, count: int) -> None:
        for _ in range(count):
            self._produce(target, FILLER, self._noted)

    def _delete_before(self, target: TopicPartition, first: int) -> None:
        part = KafkaPartition(self._name(target), target.partition, first)
        with translate_errors(f"deleting the beginning of {target.topic}/{target.partition}"):
            client: Any = checked(AdminClient, self._cluster.client({}))
            for future in client.delete_records([part]).values():
                future.result(self._cluster.patience_s)

    def _produce(self, target: TopicPartition, value: bytes, delivered: Callable[..., None]) -> None:
        deadline = time.monotonic() + self._cluster.patience_s
        with translate_errors(f"appending to {target.topic}/{target.partition}"):
            while True:
                self._raise_failure(target)
                try:
                    self._producer.produce(self._name(target), value, partition=target.partition, on_delivery=delivered)
                    return
                except BufferError:
                    if time.monotonic() > deadline:
                        raise LogUnavailable(
                            f"appending to {target.topic}: the brokers are too slow; try again"
                        ) from None
                    self._producer.poll(0.05)

    def _flush(self, target: TopicPartition) -> None:
        deadline = time.monotonic() + self._cluster.patience_s
        left = len(self._producer)
        while left:
            remaining = self._producer.flush(1.0)
            self._raise_failure(target)
            if remaining < left:
                deadline = time.monotonic() + self._cluster.patience_s
            elif time.monotonic() > deadline:
                raise LogUnavailable(f"appending to {target.topic}: no answer from the brokers")
            left = remaining

    def _checked(self, target: TopicPartition, offset: int) -> Callable[[KafkaError | None, Message], None]:
        def note(error: KafkaError | None, message: Message) -> None:
            self._noted(error, message)
            if error is None and message.offset() != offset:
                self._wrong = self._wrong or f"record {offset} of {target.topic} got the offset {message.offset()}"

        return note

    def _noted(self, error: KafkaError | None, message: Message) -> None:
        del message
        self._failed = self._failed or error

    def _raise_failure(self, target: TopicPartition) -> None:
        if self._failed is not None:
            raise translate(self._failed, f"appending to {target.topic}/{target.partition}")
        if self._wrong:
            raise LogError(f"{self._wrong}; another program writes to the topic: end it, and run the command again")

    def _name(self, target: TopicPartition) -> str:
        return f"{self._log.prefix}{target.topic}"


def commit_positions(log: KafkaLog, group: str, positions: Mapping[TopicPartition, int]) -> None:
    """Commit the positions of a group without members. Raises LogError if the group has members."""
    parts = [KafkaPartition(log.prefix + source.topic, source.partition, at) for source, at in positions.items()]
    if not parts:
        return
    consumer = checked(Consumer, log.cluster.consumer(log.prefix + group))
    try:
        with translate_errors(f"committing the positions of {group}"):
            for part in consumer.commit(offsets=parts, asynchronous=False):
                if part.error is not None:
                    raise translate(part.error, f"committing the positions of {group}")
    finally:
        consumer.close()
