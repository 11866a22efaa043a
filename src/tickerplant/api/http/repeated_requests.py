"""Requests with the same bytes as an earlier request. They are answered from the cache without parsing.

A client usually repeats a request with the same bytes. Parsing and checking them costs ten times as much as sending a
kept answer of some kilobytes. The result of all checks depends only on these bytes and on the local address of the
connection: host, origin, API key, route and parameters. A request head that was answered from the store once is
therefore known. If its answer is in the cache (`answer_cache`), the connection sends it at once.

If the cache has no valid answer, one connection of each client passes its request to the application. The client's
other connections with the same request wait for the answer, so 64 connections read the store once. If the answer cannot
be kept, or if the server stops, each connection passes its own request to the application.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tickerplant.api.http.answer_cache import ANSWER, Answer, AnswerCache, Key, key_of
from tickerplant.api.http.asgi import App, Message, Receive, Scope, Send
from tickerplant.api.http.outgoing import PIECE_BYTES

MAX_KNOWN: Final = 1_000
"""Maximum number of known requests, each of at most 2 KiB. One more request removes all of them."""
ASKED: Final = "tickerplant.asked"
"""Key of the scope. Its value is the `Asked` of a request that may become known."""
_OK: Final = b"HTTP/1.1 200 OK\r\n"
_END: Final = b"\r\n\r\n"
_KEEP_ALIVE: Final = b"keep-alive"
_CHANGING: Final = frozenset((b"expect", b"upgrade", b"transfer-encoding", b"content-length"))
"""Headers of requests that have a body, or that need an answer of another kind."""

Head: TypeAlias = tuple[str, bytes]
"""Local address of a connection, and the bytes of a request on it."""
Waiting: TypeAlias = dict["RepeatingProtocol", Callable[[], None]]
"""The connections of one client that wait for an answer, and the functions that resume them."""


class KnownRequest:
    """A request whose answers are kept under `key`.

    `waiting` contains, by client, the connections that wait, each with the function that resumes it.
    """

    __slots__ = ("key", "waiting")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.waiting: dict[str, Waiting] = {}


class Asked:
    """A request that the application answers now. The connections of `client` that repeat it wait for its answer."""

    __slots__ = ("client", "head", "known")

    def __init__(self, head: Head, client: str, known: KnownRequest | None) -> None:
        self.head, self.client, self.known = head, client, known


class RepeatedRequests:
    """The known requests of one server. Belongs to its event loop. `count` receives sent answers and their seconds."""

    def __init__(self, cache: AnswerCache) -> None:
        self.cache = cache
        self.count: Callable[[Answer, float], None] = lambda answer, seconds: None
        self._known: dict[Head, KnownRequest] = {}

    def find(self, head: Head) -> KnownRequest | None:
        """Return the known request with this head; None if there is none."""
        return self._known.get(head)

    def answer(self, known: KnownRequest) -> Answer | None:
        """Return the kept answer if it may still be sent, otherwise None."""
        answer = self.cache.find(known.key)
        return answer if answer is not None and answer.wire else None

    def finish(self, asked: Asked, scope: Scope, headers: list[tuple[bytes, bytes]]) -> None:
        """End an asked request, and resume the connections that wait for it. A kept answer makes the request known."""
        answer: Answer | None = scope.get(ANSWER)
        if answer is not None and len(answer.body) <= PIECE_BYTES:
            if not answer.wire:
                answer.wire = b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n"
            if asked.head not in self._known:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                self._known[asked.head] = KnownRequest(key_of(scope))
        else:
            self._known.pop(asked.head, None)
        if asked.known is not None:
            for resume in asked.known.waiting.pop(asked.client, {}).values():
                resume()


class RememberRequests:
    """The outermost middleware, which makes requests known. It therefore receives all headers of an answer."""

    def __init__(self, app: App, repeated: RepeatedRequests) -> None:
        self._app = app
        self._repeated = repeated

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application."""
        asked: Asked | None = scope.pop(ASKED, None)
        if asked is None:
            await self._app(scope, receive, send)
            return

        async def observe(message: Message) -> None:
            nonlocal asked
            if asked is not None and message["type"] == "http.response.start":
                self._repeated.finish(asked, scope, message["headers"])
                asked = None
            await send(message)

        try:
            await self._app(scope, receive, observe)
        finally:
            if asked is not None:
                self._repeated.finish(asked, {}, [])


class RepeatingProtocol(H11Protocol):
    """uvicorn's protocol of one HTTP connection, which answers known requests itself."""

    repeated: RepeatedRequests | None = None
    client_name: str
    awaits_answer = False
    """True while another connection of the client asks for the answer."""
    _awaited: Head = ("", b"")
    """The request that waits while `awaits_answer` is true."""
    _waits_among: Waiting | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """End the wait for another connection's answer."""
        if self._waits_among is not None:
            self._waits_among.pop(self, None)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close the connection after the answer to its request, or at once if there is no request.

        A waiting request is passed to the application now. uvicorn waits only for requests of the application, and
        cancels them after a time limit.
        """
        if self.awaits_answer and not self.transport.is_closing():
            self._end_wait()
            self._ask(self._awaited, None)
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Answer a known request, or parse the bytes."""
        if self.repeated is not None and self._may_be_known(data):
            self._answer((self.server[0] if self.server else "", data), time.perf_counter())
        else:
            super().data_received(data)

    def _may_be_known(self, data: bytes) -> bool:
        """Return whether the bytes are one complete GET request on a connection without other work."""
        return (
            data.startswith(b"GET ") and data.find(_END) == len(data) - len(_END)
            and self.conn.our_state is h11.IDLE and self.conn.their_state is h11.IDLE
            and not self.conn.trailing_data[0] and not self.transport.get_write_buffer_size()
        )  # fmt: skip

    def _answer(self, head: Head, began_s: float) -> None:
        assert self.repeated is not None
        known = self.repeated.find(head)
        answer = None if known is None else self.repeated.answer(known)
        if answer is not None:
            self._send(answer, began_s)
        elif known is None:
            self._ask(head, None)
        elif (waiting := known.waiting.get(self.client_name)) is None:
            known.waiting[self.client_name] = {}
            self._ask(head, known)
        else:
            self._unset_keepalive_if_required()  # the client has sent its request
            self.awaits_answer, self._awaited, self._waits_among = True, head, waiting
            waiting[self] = lambda: self.in_turn(lambda: self._resume(head, began_s))
            self.await_answer()

    def _ask(self, head: Head, known: KnownRequest | None) -> None:
        """Parse the request, and mark it so that its answer makes it known."""
        assert self.repeated is not None
        asked, is_plain = Asked(head, self.client_name, known), False
        try:
            super().data_received(head[1])
            is_plain = self._is_plain()
        finally:
            if is_plain:
                self.scope[ASKED] = asked  # type: ignore[typeddict-unknown-key]
            else:
                self.repeated.finish(asked, {}, [])

    def _is_plain(self) -> bool:
        """Return whether the parsed request is complete, and a repetition may get the same answer."""
        if self.conn.their_state is not h11.DONE or self.conn.trailing_data[0] or self.scope["http_version"] != "1.1":
            return False
        return not any(
            name in _CHANGING or (name == b"connection" and value.lower() != _KEEP_ALIVE)
            for name, value in self.headers
        )

    def _resume(self, head: Head, began_s: float) -> None:
        """Answer a waiting request, or pass it to the application. No effect if `shutdown` has passed it already."""
        if not self.awaits_answer or self.transport.is_closing():
            return
        self._end_wait()
        assert self.repeated is not None
        known = self.repeated.find(head)
        answer = None if known is None else self.repeated.answer(known)
        if answer is not None:
            self._send(answer, began_s)
        else:
            self._ask(head, None)
        self.go_on()

    def _end_wait(self) -> None:
        if self._waits_among is not None:
            self._waits_among.pop(self, None)
        self.awaits_answer, self._waits_among = False, None

    def _send(self, answer: Answer, began_s: float) -> None:
        assert self.repeated is not None
        self._unset_keepalive_if_required()
        date = b"".join(b"%s: %s\r\n" % header for header in self.server_state.default_headers)
        self.transport.write(b"".join((_OK, date, answer.wire, answer.body)))
        self.server_state.total_requests += 1
        self.repeated.cache.hits += 1
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self.repeated.count(answer, time.perf_counter() - began_s)
        self.answered()

    def answered(self) -> None:
        """Handle the end of an answer to a known request."""

    def await_answer(self) -> None:
        """Handle the start of the wait for the answer that another connection asks for."""

    def in_turn(self, work: Callable[[], None]) -> None:
        """Run `work` when it is the client's turn."""
        work()

    def go_on(self) -> None:
        """Handle the end of the wait: parse the next request."""


def count_into(count: Callable[[str, int, float], Any]) -> Callable[[Answer, float], None]:
    """Return a function that counts answers by the path of their route."""
    return lambda answer, seconds: count(answer.route.path, 200, seconds)
