"""Middleware that bounds the memory of answers which clients have not read yet."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from tickerplant.api.fair_places import client_name
from tickerplant.api.http.asgi import App, Message, Receive, Scope, Send
from tickerplant.api.http.errors import error_response
from tickerplant.api.load import LoadCounters

PIECE_BYTES: Final = 64 * 1024
"""Bytes that are given to a socket at a time. The next piece waits until the client has read most of them."""
MAX_UNREAD_BYTES: Final = 64 * 1024 * 1024
"""Maximum bytes of large answers in memory. One page of 50,000 ticks as JSON has 7 MB."""
MAX_UNREAD_OF_CLIENT: Final = MAX_UNREAD_BYTES // 2
"""Maximum bytes of one client's large answers in memory."""


class BoundAnswers:
    """Middleware that sends large answers in pieces, and refuses such an answer (503) if too many bytes are unread.

    A client that does not read is disconnected (`loop_turns.UNREAD_S`), which frees its bytes.
    """

    def __init__(self, app: App, load: LoadCounters) -> None:
        self._app = app
        self._load = load
        self._unread: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, and send its answer in pieces."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head: Message | None = None
        client = client_name((scope.get("client") or ("",))[0])

        async def bounded(message: Message) -> None:
            nonlocal head
            if message["type"] == "http.response.start":
                head = message
                return
            body = message.get("body", b"")
            begun, head = head, None
            if begun is None or message.get("more_body") or len(body) <= PIECE_BYTES:
                if begun is not None:
                    await send(begun)
                await send(message)
            elif self._unread.total() + len(body) > MAX_UNREAD_BYTES or (
                self._unread[client] + len(body) > MAX_UNREAD_OF_CLIENT and self._unread[client]
            ):
                self._load.refuse("answers_unread")
                refusal = error_response(
                    503, "answers_unread", "too many bytes of answers are not read yet",
                    "read the answers of earlier requests, or ask for fewer rows",
                )  # fmt: skip
                await refusal(scope, receive, send)
            else:
                await send(begun)
                await self._send_pieces(client, body, send)

        await self._app(scope, receive, bounded)

    async def _send_pieces(self, client: str, body: Any, send: Send) -> None:
        self._unread[client] += len(body)
        try:
            view = memoryview(body)
            for at in range(0, len(body), PIECE_BYTES):
                piece = view[at : at + PIECE_BYTES]
                more = at + PIECE_BYTES < len(body)
                await send({"type": "http.response.body", "body": piece, "more_body": more})
        finally:
            self._unread[client] -= len(body)
            if not self._unread[client]:
                del self._unread[client]
