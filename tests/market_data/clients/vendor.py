"""A vendor that a test controls: real sockets, scripted answers."""

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
    """A stream that answers subscriptions and heartbeats, and sends the messages of a test."""

    def __init__(self) -> None:
        self.url = ""
        self.heard: list[dict[str, Any]] = []
        """Messages of the client, of all connections."""
        self.connections: list[ServerConnection] = []
        """Those that are open."""
        self.accepted = 0
        self.keys: list[str] = []
        self.unknown: set[str] = set()
        self.answer: Callable[[dict[str, Any]], object] = self.as_ever
        """Function that returns the answer to a message of the client, or None."""
        self.status: tuple[int, dict[str, str]] | None = None
        """Status and headers with which connections are refused."""

    def as_ever(self, message: dict[str, Any]) -> object:
        """Answer as the vendor does."""
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
        """Return the symbols of every subscription received, in order."""
        asked = [message for message in self.heard if message["action"] == "subscribe"]
        return [name for message in asked for name in message["params"]["symbols"].split(",")]

    async def say(self, *messages: object) -> None:
        """Send messages on every connection; texts unchanged."""
        for connection in list(self.connections):
            for message in messages:
                await connection.send(message if isinstance(message, str) else json.dumps(message))

    async def _serve(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        self.accepted += 1
        try:
            async for text in connection:
                message = json.loads(text)
                self.heard.append(message)
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
        return Response(code, http.HTTPStatus(code).phrase, Headers({**headers, "Content-Length": "0"}), b"")

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[StreamVendor]:
        """Listen for the block."""
        async with serve(
            self._serve, "127.0.0.1", 0, process_request=self._request, compression=None, ping_interval=None,
            close_timeout=0.2,
        ) as server:  # fmt: skip
            self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/quotes/price"
            yield self


def price(symbol: str, value: float = 1.5, volume: float | None = None, second: int = 1_767_700_000) -> dict[str, Any]:
    """Return a message of the stream."""
    message = {"event": "price", "symbol": symbol, "timestamp": second, "price": value}
    return message if volume is None else {**message, "day_volume": volume}


class RestVendor:
    """A REST server with one answer per path, which records its requests."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, dict[str, str]]] = []
        """Request lines, and their headers in lower case."""
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
        """Listen for the block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self
