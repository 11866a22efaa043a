"""The clients of the benchmark `fanout` count each text frame once, however the bytes are divided."""

from __future__ import annotations

import asyncio
import struct

import pytest
from benchmarks.fanout import CLOSE, PING, PONG, TEXT, Counter, Totals, frame

HANDSHAKE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


class Transport(asyncio.Transport):
    """A transport that stores the bytes that a client writes."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 8000)})
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True


def sent(opcode: int, payload: bytes) -> bytes:
    """Return a frame of a server, without a mask."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x80 | opcode, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


@pytest.mark.parametrize("piece", [1, 7, 130, 1 << 20])
def test_text_frames_of_all_sizes_are_counted(piece: int) -> None:
    totals, transport = Totals(), Transport()
    client = Counter(totals)
    client.connection_made(transport)
    texts = [b"", b"a" * 125, b"b" * 126, b"c" * 65_535, b"d" * 65_536]
    data = HANDSHAKE + b"".join(sent(TEXT, text) for text in texts[:3]) + sent(PING, b"hello")
    data += b"".join(sent(TEXT, text) for text in texts[3:])
    for at in range(0, len(data), piece):
        client.data_received(data[at : at + piece])
    assert totals == Totals(messages=len(texts), live=1, ended=0)
    request, subscription, pong = transport.written
    assert request.startswith(b"GET /v1/stream HTTP/1.1\r\n")
    assert subscription.endswith(b'"symbols": ["*"]}')
    assert pong == frame(PONG, b"hello")
    client.data_received(sent(CLOSE, b""))
    assert transport.closed
    client.connection_lost(None)
    assert totals == Totals(messages=len(texts), live=0, ended=1)


def test_a_refused_client_is_not_live() -> None:
    totals, transport = Totals(), Transport()
    client = Counter(totals)
    client.connection_made(transport)
    client.data_received(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    client.connection_lost(None)
    assert transport.closed
    assert totals == Totals(messages=0, live=0, ended=1)
