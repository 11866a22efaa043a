"""A server with the REST protocol of Binance, over real sockets. A test supplies its trades."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

GOLDEN = Path(__file__).parents[1] / "golden" / "binance"


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes()


class BinanceVendor:
    """A server that answers `exchangeInfo` and `klines` from golden files, and `aggTrades` from `trades` by market.

    `failing` replaces the answer of a path by (status, headers, body). None closes the connection.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.trades: dict[str, list[dict[str, Any]]] = {"BTCUSDT": [], "ETHUSDT": []}
        self.bodies: dict[str, bytes] = {name: golden(name) for name in ("exchangeInfo", "klines")}
        self.failing: dict[str, tuple[int, dict[str, str], bytes] | None] = {}
        self.page = 1_000
        self._came = asyncio.Event()

    def trade(self, market: str, name: int, time_ms: int, price: float = 42_000.0, size: float = 1.0) -> None:
        self.trades[market].append({
            "a": name, "p": f"{price:.8f}", "q": f"{size:.8f}", "f": name, "l": name, "T": time_ms, "m": False,
            "M": True,
        })  # fmt: skip

    async def until_asked(self, name: str, count: int = 1) -> None:
        """Wait until the path `name` has been requested `count` times."""
        while sum(asked == name for asked, _ in self.asked) < count:
            self._came.clear()
            await self._came.wait()

    def _trades(self, query: dict[str, str]) -> bytes:
        rows = self.trades[query["symbol"]]
        limit = min(self.page, int(query.get("limit", 500)))
        if "fromId" in query:
            rows = [row for row in rows if row["a"] >= int(query["fromId"])][:limit]
        elif "startTime" in query:
            rows = [row for row in rows if row["T"] >= int(query["startTime"])][:limit]
        else:
            rows = rows[-limit:]
        return json.dumps(rows).encode()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
            parts = urlsplit(target)
            name, query = parts.path.removeprefix("/api/v3/"), dict(parse_qsl(parts.query))
            self.asked.append((name, query))
            self._came.set()
            status, headers, body = 200, {"Content-Type": "application/json"}, b""
            if name in self.failing:
                failure = self.failing[name]
                if failure is None:
                    return
                status, headers, body = failure
            elif name == "aggTrades":
                body = self._trades(query)
            else:
                body = self.bodies[name]
            lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
            lines += [f"{key}: {value}" for key, value in headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[BinanceVendor]:
        """Accept connections within the block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self
