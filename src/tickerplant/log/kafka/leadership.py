"""Leadership: the member of a group that owns the only partition of the log's own topic leads. It reads no records.

The brokers detect a dead member as in the groups of readers. The assignor does not move the partition when another
member joins.
"""

from __future__ import annotations

from typing import Any, Final

from confluent_kafka import OFFSET_END, Consumer
from confluent_kafka import TopicPartition as KafkaPartition

from tickerplant.log.kafka.connection import checked, translate_errors
from tickerplant.log.kafka.context import OWN_TOPIC, LogContext

_ASSIGNOR: Final = "cooperative-sticky"


class KafkaLeadership:
    """The wait of one member for the leadership. Belongs to one thread at a time."""

    def __init__(self, context: LogContext, name: str, member: str) -> None:
        self._topic, self._is_held, self._closed = context.named(OWN_TOPIC), False, False
        context.partitions(OWN_TOPIC)
        settings = {"partition.assignment.strategy": _ASSIGNOR, "client.id": f"tickerplant-{member}"}
        self._consumer = checked(Consumer, context.cluster.consumer(context.named(name), **settings))
        with translate_errors(f"joining the group {name}"):
            self._consumer.subscribe(
                [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )

    def poll(self, *, timeout_s: float) -> bool:
        """Return whether this member leads; wait at most `timeout_s` for a change."""
        with translate_errors("waiting for the leadership"):  # also of the callbacks
            self._consumer.poll(timeout_s)
        return self._is_held

    def _on_assign(self, consumer: Any, partitions: list[KafkaPartition]) -> None:
        if partitions:
            consumer.incremental_assign([KafkaPartition(p.topic, p.partition, OFFSET_END) for p in partitions])
            consumer.pause(partitions)
            self._is_held = True

    def _on_revoke(self, consumer: Any, partitions: list[KafkaPartition]) -> None:
        if partitions:
            self._is_held = False
            consumer.incremental_unassign(partitions)

    def close(self) -> None:
        """Leave the group. Another member leads within about a second."""
        if not self._closed:
            self._closed = True
            self._consumer.close()

    def __enter__(self) -> KafkaLeadership:
        """Return the leadership."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave the group."""
        self.close()
