"""Consumers that join no group, kept between requests.

A new consumer connects to a broker, and with TLS and SASL a connection costs some milliseconds of CPU at both ends. A
health check makes about ten requests for positions and records.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException

from tickerplant.log.kafka.connection import Cluster, checked

_KEPT: Final = 2
"""Maximum number of idle consumers with equal settings."""
_IDLE_S: Final = 60.0
"""Seconds after which an idle consumer is closed, at the next request to the pool."""

_Settings = tuple[str, tuple[tuple[str, Any], ...]]


class ConsumerPool:
    """The consumers of one log that are not in use. Thread-safe.

    It has no lock, because the garbage collector may end a block of `acquire` while this thread is in another method.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._idle: dict[_Settings, deque[tuple[float, Any]]] = {}
        self._is_closed = False

    @contextlib.contextmanager
    def acquire(self, group: str, **more: Any) -> Iterator[Any]:
        """Provide a consumer with these settings, which is free of assignments, to the block.

        The pool keeps the consumer after the block. If the block raises, the consumer is closed: its metadata may be
        old, or an answer may still be due.
        """
        settings = (group, tuple(sorted(more.items())))
        consumer = self._take(settings)
        try:
            yield consumer
        except GeneratorExit:  # the caller of a generator needs no more records
            self._put(settings, consumer)
            raise
        except BaseException:
            consumer.close()
            raise
        else:
            self._put(settings, consumer)

    def _take(self, settings: _Settings) -> Any:
        self._close_before(time.monotonic() - _IDLE_S)
        try:
            _, consumer = self._idle[settings].pop()
        except (KeyError, IndexError):
            group, more = settings
            return checked(Consumer, self.cluster.consumer(group, **dict(more)))
        consumer.poll(0)  # calls back the errors of its idle time; a request that succeeds clears them
        return consumer

    def _put(self, settings: _Settings, consumer: Any) -> None:
        try:
            consumer.unassign()
        except KafkaException:
            consumer.close()
            return
        idle = self._idle.setdefault(settings, deque())
        idle.append((time.monotonic(), consumer))
        if len(idle) > _KEPT:
            _close_first(idle)
        if self._is_closed:
            self.close()

    def _close_before(self, before_s: float) -> None:
        for idle in list(self._idle.values()):
            with contextlib.suppress(IndexError):  # another thread took the last one
                while idle[0][0] < before_s:
                    _close_first(idle)

    def close(self) -> None:
        """Close the idle consumers, and from now on each consumer after its block."""
        self._is_closed = True
        for idle in list(self._idle.values()):
            while idle:
                _close_first(idle)


def _close_first(idle: deque[tuple[float, Any]]) -> None:
    with contextlib.suppress(IndexError):  # another thread took the last one
        idle.popleft()[1].close()
