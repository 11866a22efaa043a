"""How clients of librdkafka are set up, and what its errors mean in ours."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException

from tickerplant.core.errors import ConfigError, Fenced, LogError, LogUnavailable, RecordTooLarge, UnknownTopic
from tickerplant.log.port import MAX_RECORD_BYTES

T = TypeVar("T")

MESSAGE_BYTES: Final = MAX_RECORD_BYTES + (1 << 20)
"""`max.message.bytes` of topics and clients: the largest record, its key and framing."""

QUIET_S: Final = 30.0
"""How long the client library says nothing more of a kind that it has just said."""
_KINDS: Final = 256
_NUMBERS: Final = re.compile(r"\d+")

TRANSACTION_TIMEOUT_MS: Final = 10_000
"""A dead producer's open transaction holds back the readers of its partitions for this long at most."""

_CLIENT: Final[Mapping[str, Any]] = {
    "client.id": "tickerplant",
    "socket.nagle.disable": True,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1_000,  # by default 10 s: that much longer away than the broker was
    "message.max.bytes": MESSAGE_BYTES,
    "receive.message.max.bytes": 256 << 20,
    "log.connection.close": False,
}

_PRODUCER: Final[Mapping[str, Any]] = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",  # twenty records of 4,096 ticks: lz4 3.3 M ticks/s, none 3.0, zstd 2.4
    "linger.ms": 0,  # a commit flushes anyway; waiting would only add to its 5 ms
    "queue.buffering.max.kbytes": 64 << 10,  # then `append` waits for the broker
    "queue.buffering.max.messages": 100_000,
}

_CONSUMER: Final[Mapping[str, Any]] = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # a position that is gone is an error to be told, never a silent jump
    "fetch.min.bytes": 1,
    "fetch.wait.max.ms": 500,  # of an empty fetch alone: with one byte there the broker answers at once
    "fetch.message.max.bytes": 2 << 20,
    "fetch.max.bytes": 64 << 20,
    "queued.min.messages": 2_000,
    "queued.max.messages.kbytes": 8 << 10,  # what a reader that does not poll keeps in memory
    "fetch.queue.backoff.ms": 5,  # by default 1 s without fetching each time the queue was full
    "partition.assignment.strategy": "range",  # a partition number of all topics goes to one member
    "max.poll.interval.ms": 600_000,
    "heartbeat.interval.ms": 2_000,
    "allow.auto.create.topics": False,
}


class _Words:
    """What librdkafka logs to. Never raises, and finds `log` in its own class: see `writer._flush`.

    Each client of a broker that is away says so several times a second. Of lines that differ in their numbers alone all
    clients say one in `QUIET_S`.
    """

    _said_s: ClassVar[dict[str, float]] = {}

    def __init__(self) -> None:
        self._logger = logging.getLogger("tickerplant.log.kafka")

    def log(self, level: int, text: str, *arguments: Any) -> None:
        """Log a line."""
        with contextlib.suppress(Exception):
            line = text % arguments if arguments else text
            kind, now_s = _NUMBERS.sub("#", line), time.monotonic()
            if now_s - self._said_s.get(kind, -QUIET_S) < QUIET_S:
                return
            if len(self._said_s) >= _KINDS:
                self._said_s.clear()
            self._said_s[kind] = now_s
            self._logger.log(level, "%s", line)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the brokers are, how to speak to them, and how patient to be."""

    bootstrap: str
    config: Mapping[str, str] = field(default_factory=dict)
    patience_s: float = 30.0
    session_timeout_s: float = 10.0

    def client(self, kind: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Return the settings of one client; the user's (TLS, SASL) beat those of its kind, never our own promises."""
        promised = {"bootstrap.servers": self.bootstrap, "logger": _Words()}
        return {**_CLIENT, **kind, **self.config, **more, **promised}

    def producer(self, **more: Any) -> dict[str, Any]:
        """Return the settings of a producer."""
        return self.client(_PRODUCER, **{"enable.idempotence": True, "acks": "all"}, **more)

    def consumer(self, group: str, **more: Any) -> dict[str, Any]:
        """Return the settings of a consumer."""
        kept = {key: _CONSUMER[key] for key in ("isolation.level", "enable.auto.commit", "auto.offset.reset")}
        kind = {**_CONSUMER, "session.timeout.ms": int(self.session_timeout_s * 1000)}
        return self.client(kind, **{**kept, "group.id": group, **more})


_FENCED = {
    KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_INSTANCE_ID, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.FENCED_MEMBER_EPOCH, KafkaError.PRODUCER_FENCED,
}  # fmt: skip
_REFUSED = {
    KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL,
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError._INVALID_ARG, KafkaError._STATE, KafkaError._FATAL, KafkaError.UNSUPPORTED_VERSION,
}  # fmt: skip
_UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}


def translate(error: KafkaError, doing: str) -> LogError:
    """Return our error for one of Kafka's. What is none of the known kinds counts as passing: LogUnavailable."""
    code = error.code()
    text = f"{doing}: {error.str()}"
    if code in _FENCED:
        return Fenced(text)
    if code in _UNKNOWN:
        return UnknownTopic(text)
    if code in _TOO_LARGE:
        return RecordTooLarge(text)
    if code in _REFUSED or (error.fatal() and not error.retriable()):
        return LogError(text)
    return LogUnavailable(text)


def error_of(exception: KafkaException) -> KafkaError:
    """Return the error that an exception carries."""
    error = exception.args[0]
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(error))


@contextlib.contextmanager
def told(doing: str) -> Iterator[None]:
    """Turn Kafka's errors in the block into ours."""
    try:
        yield
    except KafkaException as exception:
        raise translate(error_of(exception), doing) from exception


def result(future: Future[T], doing: str, patience_s: float) -> T:
    """Return what an administrative request gives."""
    try:
        with told(doing):
            return future.result(patience_s + min(5.0, patience_s / 4))
    except TimeoutError as error:
        raise LogUnavailable(f"{doing}: no answer") from error


def checked(make: Any, settings: dict[str, Any]) -> Any:
    """Return a client. Raises ConfigError for settings that librdkafka does not take."""
    try:
        return make(settings)
    except (KafkaException, TypeError, ValueError) as error:
        raise ConfigError(f"the Kafka client refuses its settings: {error}") from error
