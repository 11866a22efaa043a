"""Servers with the stream and REST protocols of Twelve Data, over real sockets, with answers set by a test."""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response


class StreamVendor:
    """A WebSocket server that answers subscriptions and heartbeats, and sends the messages of a test."""

    def __init__(self) -> None:
        self.url = ""
        self.received: list[dict[str, Any]] = []
        """Messages received on all connections, in order."""
        self.connections: list[ServerConnection] = []
        """Open connections."""
        self.accepted = 0
        self.keys: list[str] = []
        self.unknown: set[str] = set()
        self.answer: Callable[[dict[str, Any]], object] = self.default_answer
        """Function that returns the answer to a received message, or None to send no answer."""
        self.status: tuple[int, dict[str, str] | list[tuple[str, str]]] | None = None
        """Status and headers (as pairs, if a name repeats) of a refused handshake, or None to accept connections."""

    def default_answer(self, message: dict[str, Any]) -> object:
        """Return the answer of Twelve Data to a message."""
        if message["action"] == "heartbeat":
            return {"event": "heartbeat", "status": "ok"}
        if "params" not in message:
            return {"event": f"{message['action']}-status", "status": "ok"}
        names = message["params"]["symbols"].split(",")
        fails = [{"symbol": name, "message": "symbol not found"} for name in names if name in self.unknown]
        success = [{"symbol": name.partition(":")[0]} for name in names if name not in self.unknown]
        status = "error" if not success else "warning" if fails else "ok"
        return {"event": f"{message['action']}-status", "status": status, "success": success, "fails": fails}

    def subscribed(self) -> list[str]:
        """Return the symbols of all received subscriptions, in order."""
        asked = [message for message in self.received if message["action"] == "subscribe"]
        return [name for message in asked for name in message["params"]["symbols"].split(",")]

    async def send(self, *messages: object) -> None:
        """Send the messages on every connection. Texts are sent unchanged, other objects as JSON."""
        for connection in list(self.connections):
            for message in messages:
                await connection.send(message if isinstance(message, str) else json.dumps(message))

    async def _serve(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        self.accepted += 1
        try:
            async for text in connection:
                message = json.loads(text)
                self.received.append(message)
                answer = self.answer(message)
                if answer is not None:
                    await connection.send(json.dumps(answer))
        except ConnectionClosed:
            pass
        finally:
            self.connections.remove(connection)

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        self.keys.append(request.headers.get("X-TD-APIKEY", ""))
        if self.status is None:
            return None
        code, headers = self.status
        self.accepted += 1
        pairs = headers.items() if isinstance(headers, dict) else headers
        return Response(code, http.HTTPStatus(code).phrase, Headers([*pairs, ("Content-Length", "0")]), b"")

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[StreamVendor]:
        """Accept connections within the block."""
        async with serve(
            self._serve, "127.0.0.1", 0, process_request=self._request, compression=None, ping_interval=None,
            close_timeout=0.2,
        ) as server:  # fmt: skip
            self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/quotes/price"
            yield self


def price(symbol: str, value: float = 1.5, volume: float | None = None, second: int = 1_767_700_000) -> dict[str, Any]:
    """Return a price message of the stream. `second`: its time in seconds since 1970."""
    message = {"event": "price", "symbol": symbol, "timestamp": second, "price": value}
    return message if volume is None else {**message, "day_volume": volume}


class RestVendor:
    """A REST server with one answer per path, which records its requests."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, dict[str, str]]] = []
        """Target and headers of each request. Header names are in lower case."""
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        target = head[0].split(" ")[1]
        self.asked.append((target, {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:])}))
        status, headers, body = self.answers[target.partition("?")[0]]
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        writer.close()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[RestVendor]:
        """Accept connections within the block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self
