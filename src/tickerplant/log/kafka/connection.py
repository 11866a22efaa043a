"""Settings of librdkafka's clients, and the translation of its errors."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from confluent_kafka import KafkaError, KafkaException

from tickerplant.core.errors import ConfigError, Fenced, LogError, LogUnavailable, RecordTooLarge, UnknownTopic
from tickerplant.log.kafka.client_errors import ConnectionErrors
from tickerplant.log.port import MAX_RECORD_BYTES

MESSAGE_BYTES: Final = MAX_RECORD_BYTES + (1 << 20)
"""Maximum bytes of a message of topics and clients: the largest record with its key and framing."""

REPEAT_S: Final = 30.0
"""Minimum seconds between two log lines of the client library that differ only in their numbers."""
_KINDS: Final = 256
_NUMBERS: Final = re.compile(r"[0-9]+")
_CLOSED_WHILE_IDLE: Final = re.compile(r"Disconnected.*in state UP")

TRANSACTION_TIMEOUT_MS: Final = 10_000
"""Timeout of a transaction in milliseconds. A dead producer's open transaction blocks the readers of its partitions
until the brokers abort it. They look for transactions past their timeout every 10 s."""

_CLIENT: Final[Mapping[str, Any]] = {
    "client.id": "tickerplant",
    "socket.nagle.disable": True,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1_000,  # the default of 10 s would prolong each outage by up to 10 s
    "message.max.bytes": MESSAGE_BYTES,
    "receive.message.max.bytes": 256 << 20,
    "log.connection.close": True,  # passes disconnections to `error_cb`; `ClientLogFilter` drops the lines
}

_PRODUCER: Final[Mapping[str, Any]] = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",  # twenty records of 4,096 ticks: lz4 3.3 M ticks/s, none 3.0, zstd 2.4
    "linger.ms": 0,  # a commit flushes anyway; lingering would only add to its 5 ms
    "queue.buffering.max.kbytes": 64 << 10,  # when full, `append` blocks
    "queue.buffering.max.messages": 100_000,
}

_CONSUMER: Final[Mapping[str, Any]] = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # a dropped position raises an error instead of a silent jump
    "fetch.min.bytes": 1,
    "fetch.wait.max.ms": 500,  # applies to empty fetches only: with one byte the broker answers at once
    "fetch.message.max.bytes": 2 << 20,
    "fetch.max.bytes": 64 << 20,
    "queued.min.messages": 2_000,
    "queued.max.messages.kbytes": 8 << 10,  # maximum prefetch of a reader that does not poll.
    "fetch.queue.backoff.ms": 5,  # default: 1 s without fetching after each full queue.
    "partition.assignment.strategy": "range",  # assigns one partition number of all topics to one member
    "max.poll.interval.ms": 600_000,
    "heartbeat.interval.ms": 500,  # maximum delay until a member detects that another has left or joined
    "allow.auto.create.topics": False,
}


class ClientLogFilter:
    """The logger of librdkafka's clients. It never raises, and defines `log` in its own class: see `writer._flush`.

    Each client of an unavailable broker logs several lines a second. If lines differ only in their numbers,
    all clients of the process together log one of them per `REPEAT_S` seconds.
    """

    _logged_s: ClassVar[dict[str, float]] = {}

    def __init__(self, errors: ConnectionErrors | None = None) -> None:
        self._logger, self._errors = logging.getLogger("tickerplant.log.kafka"), errors or ConnectionErrors()

    def log(self, level: int, text: str, *arguments: Any) -> None:
        """Log a line unless a similar one was logged recently."""
        with contextlib.suppress(Exception):
            line = text % arguments if arguments else text
            self._errors.note_line(line)
            if _CLOSED_WHILE_IDLE.search(line):
                return
            kind, now_s = _NUMBERS.sub("#", line), time.monotonic()
            if now_s - self._logged_s.get(kind, -REPEAT_S) < REPEAT_S:
                return
            if len(self._logged_s) >= _KINDS:
                self._logged_s.clear()
            self._logged_s[kind] = now_s
            self._logger.log(level, "%s", line)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Addresses of the brokers, settings of their clients, and timeouts."""

    bootstrap: str
    config: Mapping[str, str] = field(default_factory=dict)
    patience_s: float = 30.0
    session_timeout_s: float = 6.0
    prefix: str = ""
    """Prefix of the group names of consumers that join no group, so that one access rule covers them."""
    errors: ConnectionErrors = field(default_factory=ConnectionErrors, compare=False)

    def client(self, kind: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Return the settings of one client.

        The user's settings override the settings of the client's kind, but not `more` and the fixed settings.
        """
        fixed = {"bootstrap.servers": self.bootstrap, "logger": ClientLogFilter(self.errors)}
        return {**_CLIENT, "error_cb": self.errors.note, **kind, **self.config, **more, **fixed}

    def producer(self, **more: Any) -> dict[str, Any]:
        """Return the settings of a producer."""
        return self.client(_PRODUCER, **{"enable.idempotence": True, "acks": "all"}, **more)

    def consumer(self, group: str, **more: Any) -> dict[str, Any]:
        """Return the settings of a consumer."""
        kept = {key: _CONSUMER[key] for key in ("isolation.level", "enable.auto.commit", "auto.offset.reset")}
        kind = {**_CONSUMER, "session.timeout.ms": int(self.session_timeout_s * 1000)}
        return self.client(kind, **{**kept, "group.id": group, **more})


STALE_LEADER: Final = {
    KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
}  # fmt: skip
"""Errors of a client whose metadata is older than the newest change of a partition's leader. A refresh removes them."""

_FENCED = {
    KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_INSTANCE_ID, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.FENCED_MEMBER_EPOCH, KafkaError.PRODUCER_FENCED,
}  # fmt: skip
_PERMANENT = {
    KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL,
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError._INVALID_ARG, KafkaError._STATE, KafkaError._FATAL, KafkaError.UNSUPPORTED_VERSION,
}  # fmt: skip
_UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART}
"""Codes of a broker's answer. librdkafka's own code for an unknown topic only means that its metadata is old."""
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}


def translate(error: KafkaError, doing: str) -> LogError:
    """Return the LogError for a Kafka error. Unknown kinds count as temporary: LogUnavailable."""
    code = error.code()
    text = f"{doing}: {error.str()}"
    if code in _FENCED:
        return Fenced(text)
    if code in _UNKNOWN:
        return UnknownTopic(text)
    if code in _TOO_LARGE:
        return RecordTooLarge(text)
    if code in _PERMANENT or (error.fatal() and not error.retriable()):
        return LogError(text)
    return LogUnavailable(text)


def error_of(exception: KafkaException) -> KafkaError:
    """Return the error in an exception."""
    error = exception.args[0]
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(error))


@contextlib.contextmanager
def translate_errors(doing: str) -> Iterator[None]:
    """Raise a LogError for each Kafka error in the block; its message starts with `doing`."""
    try:
        yield
    except KafkaException as exception:
        raise translate(error_of(exception), doing) from exception


def checked(make: Any, settings: dict[str, Any]) -> Any:
    """Return a Kafka client with these settings. Raises ConfigError for settings that librdkafka rejects."""
    try:
        return make(settings)
    except (KafkaException, TypeError, ValueError) as error:
        reason = _reason(error, settings)
        raise ConfigError(f"the Kafka client rejects its settings: {reason}; correct the setting kafka") from error


def _reason(error: Exception, settings: Mapping[str, Any]) -> str:
    """Return why librdkafka rejects settings, with the file or the password that is probably wrong."""
    for name, value in settings.items():
        if name.endswith(".location") and value != "probe" and not os.access(value, os.R_OK):
            return f"the file {value} of {name} cannot be read"
    text = error_of(error).str() if isinstance(error, KafkaException) else str(error)
    text = re.sub(r"^Failed to create \w+( client)?: ", "", text)
    return f"{text} (wrong file, or wrong ssl.key.password)" if text.startswith("ssl.key") else text
