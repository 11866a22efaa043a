"""Answers that are sent again while the store is at their log position.

An answer is kept for `MAX_AGE_S` from the start of its read, or for `OWN_AGE_S` if this process writes to the store. A
write of this process, or an answer with another position, ends this time earlier. The positions of consecutive answers
therefore never decrease. The cache does not detect writes of another process before `MAX_AGE_S` is over.

Bounds: `MAX_BYTES` in all, `MAX_ANSWER_BYTES` per answer. The cache is emptied when it is full.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from fastapi import Response

from tickerplant.api.http.asgi import Scope, Send
from tickerplant.api.positions import Position

MAX_AGE_S: Final = 0.1
"""Maximum seconds from the start of a read to the last repetition of its answer, if another process writes."""
OWN_AGE_S: Final = 1.0
"""Maximum seconds from the start of a read to the last repetition, if this process writes. Rows of a live feed are
written once a second."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""Maximum bytes of kept answers."""
MAX_ANSWER_BYTES: Final = MAX_BYTES // 8
"""Maximum bytes of one kept answer: 7,000 bars as JSON."""
OVERHEAD_BYTES: Final = 2_048
"""Bytes of the Python objects of one kept answer."""
CACHED: Final = (
    "/v1/historical/", "/v1/intraday/", "/v1/ticks/", "/v1/realtime/", "/v1/analytics/", "/v1/indicators/",
)  # fmt: skip
"""Prefixes of paths whose answers depend on the request, on the position of the store and, within a second, on nothing
else."""
ANSWER: Final = "tickerplant.answer"
"""Key of the scope. Its value is the answer of the request, if the cache contains it."""

Key: TypeAlias = tuple[str, bytes]
"""Path and query of a request."""


class Moment(NamedTuple):
    """The state of the cache when a read began."""

    epoch: int
    commits: int | None
    at_s: float


@dataclass(slots=True, eq=False)
class Answer:
    """A kept answer with status 200.

    `size_bytes` counts towards `MAX_BYTES`. `wire` contains the sent headers except the date. It is empty before the
    first answer.
    """

    route: Any
    headers: list[tuple[bytes, bytes]]
    body: bytes
    moment: Moment
    size_bytes: int
    wire: bytes = b""

    async def send(self, send: Send) -> None:
        """Send the answer as ASGI messages."""
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


class PositionedResponse(Response):
    """A response that was read from the store at `position`."""

    position: Position


def key_of(scope: Scope) -> Key:
    """Return the key of a GET request."""
    return scope["path"], scope["query_string"]


def size_of(key: Key, headers: list[tuple[bytes, bytes]], body: bytes) -> int:
    """Return the bytes that a kept answer needs. Its headers are stored twice, as a list and as the sent head."""
    path, query = key
    head = sum(len(name) + len(text) for name, text in headers)
    return OVERHEAD_BYTES + 4 * len(path) + len(query) + 2 * head + len(body)


class AnswerCache:
    """The kept answers of one API. Belongs to the server's event loop, except `begin`.

    `commits` returns a number that changes when this process has written to the store, or None if another process
    writes to it. If `commits` is None, no answer is kept.
    """

    def __init__(self, commits: Callable[[], int | None] | None = None) -> None:
        self.hits = 0
        """Count of answers that were sent again."""
        self.size_bytes = 0
        """Bytes of the kept answers."""
        self._commits: Callable[[], int | None] = commits or (lambda: None)
        self._disabled = commits is None
        self._answers: dict[Key, Answer] = {}
        self._position: Position | None = None
        self._epoch = 0

    def begin(self) -> Moment:
        """Return the current state. Call it before the answer is read."""
        return Moment(self._epoch, self._commits(), time.monotonic())

    def find(self, key: Key) -> Answer | None:
        """Return the kept answer if it may still be sent, otherwise None. The caller adds to `hits`."""
        answer = self._answers.get(key)
        return answer if answer is not None and self._is_current(answer.moment) else None

    def _is_current(self, moment: Moment) -> bool:
        return (
            moment.epoch == self._epoch
            and moment.commits == self._commits()
            and time.monotonic() - moment.at_s < (MAX_AGE_S if moment.commits is None else OWN_AGE_S)
        )

    def observe(self, position: Position) -> None:
        """Record the position of an answer. Answers of another position end."""
        if position is not self._position and position != self._position:
            self._position = position
            self._epoch += 1
            self._clear()

    def keep(self, scope: Scope, moment: Moment, response: Response) -> None:
        """Keep the response of a request whose read began at `moment`, if it may be sent again.

        The position of the response ends the answers of other positions.
        """
        if not isinstance(response, PositionedResponse):
            return
        is_newest = moment.epoch == self._epoch  # otherwise another answer has shown a position meanwhile
        self.observe(response.position)
        moment = moment._replace(epoch=self._epoch)
        body, headers, key = bytes(response.body), list(response.raw_headers), key_of(scope)
        size = size_of(key, headers, body)
        if (
            self._disabled or not is_newest or size > MAX_ANSWER_BYTES or response.status_code != 200
            or not scope["path"].startswith(CACHED) or not self._is_current(moment)
        ):  # fmt: skip
            return
        self._drop(key)
        if self.size_bytes + size > MAX_BYTES:
            self._clear()
        self._answers[key] = scope[ANSWER] = Answer(scope["route"], headers, body, moment, size)
        self.size_bytes += size

    def sweep(self) -> None:
        """Remove answers that may no longer be sent."""
        for key, answer in list(self._answers.items()):
            if not self._is_current(answer.moment):
                self._drop(key)

    def _drop(self, key: Key) -> None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self.size_bytes -= answer.size_bytes

    def _clear(self) -> None:
        self._answers.clear()
        self.size_bytes = 0
