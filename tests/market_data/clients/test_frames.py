"""The bulk frame reader on real sockets returns the same messages for every division by TCP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

from tests.support.waiting import PATIENCE
from tickerplant.market_data.clients import frames
from tickerplant.market_data.clients.frames import MAX_MESSAGE_BYTES, FrameConnection

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


def text(data: bytes, *, fin: bool = True, opcode: Opcode = Opcode.TEXT, mask: bool = False) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=mask)


CLOSE = Frame(Opcode.CLOSE, b"\x03\xe8bye").serialize(mask=False)
PING = Frame(Opcode.PING, b"are you there").serialize(mask=False)


@contextlib.asynccontextmanager
async def vendor(script: Script) -> AsyncIterator[str]:
    """Run a server that calls the script with the unsent handshake answer; yield its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        answer = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        try:
            with contextlib.suppress(ConnectionError):
                await script(reader, writer, answer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def received(url: str) -> tuple[list[bytes], int | None]:
    """Read until the connection ends; return the messages and the close code."""
    found: list[bytes] = []
    async with connect(
        url, create_connection=FrameConnection, compression=None, max_size=MAX_MESSAGE_BYTES, ping_interval=None,
        close_timeout=0.1, proxy=None,
    ) as connection:  # fmt: skip
        assert isinstance(connection, FrameConnection)
        await asyncio.sleep(0)
        connection.on_messages = found.extend
        async with asyncio.timeout(PATIENCE.seconds(10)):
            await connection.wait_closed()
        return found, connection.close_code


MESSAGES = [b"", b"a", b"x" * 125, b"y" * 126, b"z" * 65_535, b"w" * 65_536, b'{"event":"price"}']


@pytest.mark.parametrize("seed", range(4))
async def test_messages_do_not_depend_on_how_tcp_divides_the_bytes(seed: int) -> None:
    rng = random.Random(seed)
    sent, stream = [], b""
    for _ in range(60):
        message = rng.choice(MESSAGES)
        kind = rng.randrange(4)
        sent.append(message)
        if kind == 0:  # in three fragments, with a ping between
            cut, again = sorted((rng.randint(0, len(message)), rng.randint(0, len(message))))
            stream += text(message[:cut], fin=False) + PING
            stream += text(message[cut:again], fin=False, opcode=Opcode.CONT)
            stream += text(message[again:], opcode=Opcode.CONT)
        elif kind == 1:
            stream += text(message, opcode=Opcode.BINARY)
        else:
            stream += text(message)
    stream += CLOSE

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
        data = answer + stream
        at = 0
        while at < len(data):
            size = rng.choice([1, 2, 3, 7, 100, 5_000, 200_000])
            writer.write(data[at : at + size])
            at += size
            if rng.random() < 0.3:
                await asyncio.sleep(0.0005)
        await writer.drain()
        await reader.read()

    async with vendor(script) as url:
        assert await received(url) == (sent, 1000)


async def test_pings_and_the_close_are_answered() -> None:
    received_bytes = bytearray()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
        writer.write(answer + text(b"one") + PING + text(b"two") + CLOSE + text(b"after the close"))
        while data := await reader.read(1_000):
            received_bytes.extend(data)

    async with vendor(script) as url:
        assert await received(url) == ([b"one", b"two"], 1000)
    opcodes = []
    while received_bytes:
        size = received_bytes[1] & 0x7F
        opcodes.append(received_bytes[0] & 0x0F)
        assert received_bytes[1] & 0x80, "the client sent an unmasked frame"
        del received_bytes[: 6 + size]
    assert opcodes == [Opcode.PONG, Opcode.CLOSE]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (text(b"masked", mask=True), 1002),
        (b"\xc1\x01x", 1002),  # a reserved bit
        (b"\x83\x01x", 1002),  # an unknown opcode
        (b"\x81\x7f" + (MAX_MESSAGE_BYTES + 1).to_bytes(8, "big"), 1009),
        (text(b"x", opcode=Opcode.CONT), 1002),  # a continuation without a first fragment
    ],
    ids=["masked", "reserved bit", "unknown opcode", "too large", "continuation without a first fragment"],
)
async def test_a_protocol_error_ends_the_connection(frame: bytes, code: int) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
        writer.write(answer + text(b"good") + frame + text(b"never read"))
        sent = await reader.read()
        assert int.from_bytes(bytes(a ^ b for a, b in zip(sent[6:8], sent[2:4], strict=True)), "big") == code

    async with vendor(script) as url:
        found, _ = await received(url)
        assert found == [b"good"]


async def test_a_dropped_connection_has_the_close_code_1006() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
        writer.write(answer + text(b"one") + PING + text(b"half a message")[:5])
        await reader.readexactly(6)  # the answer to the ping: the client has read the message before it
        writer.transport.abort()

    async with vendor(script) as url:
        assert await received(url) == ([b"one"], 1006)


async def test_a_refused_handshake_has_its_status() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
        writer.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\nRetry-")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(b"After: 7\r\n\r\nwait")
        await writer.drain()

    async with vendor(script) as url:
        with pytest.raises(InvalidStatus) as caught:
            await received(url)
        assert caught.value.response.status_code == 429
        assert caught.value.response.headers["Retry-After"] == "7"


@pytest.mark.parametrize("flood", [PING, text(b"", fin=False, opcode=Opcode.CONT)], ids=["pings", "fragments"])
async def test_a_flood_of_frames_without_messages_ends_the_connection(
    flood: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "MAX_OVERHEAD_FRAMES", 100)
    reasons: list[str] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
        writer.write(answer)
        await reader.read(1)
        writer.write(text(b"first") + text(b"whole", opcode=Opcode.BINARY) * 200 + text(b"", fin=False))
        writer.write(flood * 10_000)
        await writer.drain()
        await reader.read()

    found: list[bytes] = []
    async with (
        vendor(script) as url,
        connect(url, create_connection=FrameConnection, compression=None, close_timeout=0.1) as connection,
    ):
        assert isinstance(connection, FrameConnection)
        connection.on_flood, connection.on_messages = reasons.append, found.extend
        await connection.send("go")
        async with asyncio.timeout(PATIENCE.seconds(10)):
            await connection.wait_closed()
    assert len(found) == 201, "whole messages do not count"
    assert reasons == ["flood: more than 100 control frames and fragments within a minute"]
