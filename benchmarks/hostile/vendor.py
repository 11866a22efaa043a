"""A vendor that attacks: Twelve Data's REST and stream on loopback, with answers that no vendor should send.

The plant uses it as the vendor `hostile`, through a plug-in in a folder of `PYTHONPATH` (`write_plugin`). It serves the
symbols `EVIL…` only, so that the sandbox serves all other symbols. Every attack is bounded in bytes and time.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import random
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from websockets.utils import accept_key

SYMBOLS: Final = ("EVIL1", "EVIL2")
FLOOD_BYTES_PER_S: Final = 2_000_000
FLOOD_S: Final = 20.0
DRIP_S: Final = 20.0
BOMB: Final = gzip.compress(bytes(64 << 20), 9)
"""64 MiB of zeros in 64 KiB."""
PLUGIN: Final = """
from dataclasses import replace

from tickerplant.market_data.clients.twelvedata.client import TwelveDataProvider


class Hostile(TwelveDataProvider):
    offer = replace(TwelveDataProvider.offer, markets=("EVIL*",), quotas=())
"""

Writer = asyncio.StreamWriter


def write_plugin(folder: Path) -> None:
    """Write the plug-in that connects the vendor `hostile` to the client of Twelve Data."""
    (folder / "hostile_plugin.py").write_text(PLUGIN)
    about = folder / "hostile_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile-plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[tickerplant.providers]\nhostile = hostile_plugin:Hostile\n")


def frame(text: bytes, opcode: int = 1) -> bytes:
    """Return a WebSocket frame of a server."""
    size = len(text)
    if size < 126:
        return bytes([0x80 | opcode, size]) + text
    if size < 1 << 16:
        return bytes([0x80 | opcode, 126]) + struct.pack("!H", size) + text
    return bytes([0x80 | opcode, 127]) + struct.pack("!Q", size) + text


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """Return an HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def bars(symbol: str, value: object, when: str = "2026-01-05 15:00:00") -> bytes:
    """Return a time series with one bar."""
    row = dict.fromkeys(("open", "high", "low", "close", "volume"), value) | {"datetime": when}
    return json.dumps({"meta": {"symbol": symbol}, "status": "ok", "values": [row]}).encode()


NESTED: Final = b'{"status":"ok","values":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
REST_ATTACKS: Final[dict[str, bytes]] = {
    "gzip bomb": answer(BOMB, "200 OK", "Content-Encoding: gzip"),
    "nested gzip": answer(gzip.compress(BOMB), "200 OK", "Content-Encoding: gzip, gzip"),
    "giant header": answer(b"{}", "200 OK", "X-Giant: " + "x" * 90_000),
    "many headers": answer(b"{}", "200 OK", *[f"X-{at}: {at}" for at in range(5_000)]),
    "Retry-After of 400 digits": answer(b'{"code":429}', "429 Too Many", "Retry-After: " + "9" * 400),
    "credits of 5,000 digits": answer(bars("EVIL1", "1.5"), "200 OK", "api-credits-left: " + "9" * 5_000),
    "another symbol": answer(bars("AAPL", "1.5")),
    "price 1e308": answer(bars("EVIL1", "1e308")),
    "price NaN": answer(bars("EVIL1", "NaN")),
    "year 9999": answer(bars("EVIL1", "1.5", "9999-12-31 23:59:59")),
    "digits of another script": answer(bars("EVIL1", "\u0663")),
    "nested JSON": answer(NESTED),
    "no JSON": answer(b"\x1b[2J<html>" * 10_000),
    "server error": answer(b"\x1b]0;pwned\x07" * 1_000, "500 No"),
    "wrong length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}",
    "no HTTP": b"\x00\xff" * 50_000,
}


class HostileVendor:
    """The two servers. `counts` contains the number of served attacks by name."""

    def __init__(self, seed: int = 1) -> None:
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._rest = itertools.cycle([*REST_ATTACKS.items(), ("drip", b""), ("endless body", b"")])
        streams: tuple[tuple[str, Callable[[Writer], Awaitable[None]]], ...] = (
            ("unwanted symbols", self._unwanted), ("unreadable prints", self._unreadable),
            ("impossible prints", self._impossible), ("frame of 5 MB", self._large), ("no frames", self._garbage),
            ("pings", self._pings), ("fragments", self._fragments), ("silence", self._silence),
        )  # fmt: skip
        self._streams = itertools.cycle(streams)
        self._connections = 0

    async def serve(self) -> tuple[str, str]:
        """Start both servers; return the addresses of REST and of the stream."""
        rest = await asyncio.start_server(self._on_rest, "127.0.0.1", 0)
        stream = await asyncio.start_server(self._on_stream, "127.0.0.1", 0)
        ports = [server.sockets[0].getsockname()[1] for server in (rest, stream)]
        return f"http://127.0.0.1:{ports[0]}", f"ws://127.0.0.1:{ports[1]}/v1/quotes/price"

    async def _on_rest(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            name, body = next(self._rest)
            self.counts[f"REST: {name}"] += 1
            if name == "drip":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                await self._repeat(writer, b" ", 1, DRIP_S)
            elif name == "endless body":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await self._repeat(writer, b" " * 100_000, FLOOD_BYTES_PER_S, FLOOD_S)
            else:
                writer.write(body)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _on_stream(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self._connections += 1
            if self._connections % 5 == 3:
                self.counts["stream: handshake refused"] += 1
                writer.write(answer(b"", "429 Too Many", "Retry-After: " + "9" * 25))
                return
            if self._connections % 5 == 4:
                self.counts["stream: giant handshake"] += 1
                writer.write(b"HTTP/1.1 101 Switching\r\nX-Giant: " + b"x" * 1_000_000)
                await writer.drain()
                return
            lines = (line.partition(b":") for line in head.split(b"\r\n"))
            [key] = [value.strip().decode() for name, _, value in lines if name.lower() == b"sec-websocket-key"]
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n"
            )
            reading = asyncio.create_task(reader.read(-1))
            name, attack = next(self._streams)
            self.counts[f"stream: {name}"] += 1
            try:
                await attack(writer)
            finally:
                reading.cancel()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _repeat(self, writer: Writer, data: bytes, bytes_per_s: float, seconds: float) -> None:
        """Write `data` again and again at this rate, for at most `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(len(data) / bytes_per_s)

    async def _unwanted(self, writer: Writer) -> None:
        prints = (
            {"event": "price", "symbol": f"X{self._random.random()}", "price": 1.5, "timestamp": time.time()}
            for _ in range(500)
        )
        await self._repeat(writer, b"".join(frame(json.dumps(one).encode()) for one in prints), 500_000, FLOOD_S)

    async def _unreadable(self, writer: Writer) -> None:
        text = b'{"event":"price","symbol":"EVIL1","price":"' + b"x" * 60_000 + b'"}'
        await self._repeat(writer, frame(text), FLOOD_BYTES_PER_S, FLOOD_S)

    async def _impossible(self, writer: Writer) -> None:
        for price in (1e308, -1e308, 1e-300, "1e999", None, [], "\u0663"):
            for when in (0, -1, 5_000_000_000, 1e300, "now", time.time()):
                one = {"event": "price", "symbol": "EVIL1", "price": price, "timestamp": when, "day_volume": 1e308}
                writer.write(frame(json.dumps(one).encode()))
        await writer.drain()
        await asyncio.sleep(5)

    async def _large(self, writer: Writer) -> None:
        writer.write(frame(b'{"event":"price","symbol":"' + b"x" * 5_000_000 + b'"}'))
        await writer.drain()
        await asyncio.sleep(5)

    async def _garbage(self, writer: Writer) -> None:
        writer.write(self._random.randbytes(100_000))
        await writer.drain()
        await asyncio.sleep(5)

    async def _pings(self, writer: Writer) -> None:
        await self._repeat(writer, frame(b"x" * 100, 9) * 500, 200_000, FLOOD_S)

    async def _fragments(self, writer: Writer) -> None:
        writer.write(b"\x01\x01x")
        await self._repeat(writer, b"\x00\x00" * 20_000, 200_000, FLOOD_S)

    async def _silence(self, writer: Writer) -> None:
        await asyncio.sleep(FLOOD_S)
