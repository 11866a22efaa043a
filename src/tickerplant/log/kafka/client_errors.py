"""The errors that a log's Kafka clients report about their connections.

librdkafka finds the reason of a failed connection within a second. It passes the reason to a callback, not to the call
that waits. `ConnectionErrors` stores the newest reason of all clients of a log. Calls that wait, and `health`, read
this reason.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaError

GRACE_S: Final = 1.0
"""Seconds without a success after which a refusal is reported. A broker that stops may break a handshake once."""

_REFUSED: Final = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL}
_WRONG_PROTOCOL: Final = re.compile(r"security\.protocol|PLAINTEXT broker listener")
_CLIENT_CERTIFICATE: Final = re.compile(r"SSL routines:.*alert.*(certificate|unknown ca)")
"""The alert with which a broker refuses a missing, expired or unknown certificate of the client."""
_CLOSED: Final = re.compile(r"Disconnected.*in state (APIVERSION_QUERY|AUTH_)")
"""A log line of the client: a broker closes the connection instead of answering the client's first request."""
_NOISE: Final = re.compile(
    r"^(?:[\w+]+://)?\S+: |\s*\(after [0-9]+ms in state \w+.*\)$|\s*\([0-9]+ identical error.*\)$"
)


class ConnectionErrors:
    """The newest connection error of a log's clients. Thread-safe: each method assigns or reads single references."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._away: tuple[float, str] | None = None
        self._refused: tuple[float, str] | None = None
        self._last = ""
        self._has_connected = False

    def note_line(self, line: str) -> None:
        """Store the reason that a log line of a client contains, if no callback receives this reason."""
        if self._refused is None and not self._has_connected and _CLOSED.search(line):
            text = (
                "a broker closes the connection before the first answer; check security.protocol for this port, and "
                "whether the broker requires a certificate of the client"
            )
            self._refused = (self._clock(), text)

    def note(self, error: KafkaError) -> None:
        """Store an error that a client's callback received."""
        text = _NOISE.sub("", _NOISE.sub("", error.str()))
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            if self._away is None:
                self._away = (self._clock(), text)
        elif _CLIENT_CERTIFICATE.search(error.str()):
            since_s = self._clock() if self._refused is None else self._refused[0]
            text = f"a broker refuses the certificate of the client; check ssl.certificate.location ({text})"
            self._refused = (since_s, text)
        elif error.code() in _REFUSED or _WRONG_PROTOCOL.search(error.str()):
            since_s = self._clock() if self._refused is None else self._refused[0]
            self._refused = (since_s, text)
        elif error.code() in (KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT):
            self._last = text

    def clear(self) -> None:
        """Clear all errors after a request has succeeded."""
        self._has_connected = True
        self._away, self._refused, self._last = None, None, ""

    def refusal(self) -> str:
        """Return the reason why the brokers refuse TLS or SASL settings; "" if no refusal has lasted for `GRACE_S`."""
        refused = self._refused
        return refused[1] if refused is not None and self._clock() - refused[0] >= GRACE_S else ""

    def outage(self) -> str:
        """Return the reason and the duration of an outage of all brokers, or of a refusal.

        Returns "" if no such error has followed the last successful request.
        """
        refused, away = self._refused, self._away
        if refused is None and away is None:
            return ""
        since_s, text = refused or (away[0] if away else 0.0, self._last or (away[1] if away else ""))
        return f"{text} (for {self._clock() - since_s:.0f} s)"
