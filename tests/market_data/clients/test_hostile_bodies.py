"""The body of a hostile answer raises a VendorError in bounded memory: a bomb, several encodings or an endless body."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import yfinance as yf

from tests.market_data.clients.canned import Answer, golden, serving
from tests.market_data.clients.vendor import RestVendor
from tickerplant.core.times import DAY_US, MINUTE_US
from tickerplant.market_data.clients.alphavantage import client as alphavantage
from tickerplant.market_data.clients.ccxt import client as ccxt
from tickerplant.market_data.clients.ccxt import exchange as ccxt_exchange
from tickerplant.market_data.clients.twelvedata import client as twelvedata
from tickerplant.market_data.clients.yahoo import client as yahoo
from tickerplant.market_data.vendors.errors import Malformed, VendorDown, VendorError
from tickerplant.market_data.vendors.http_body import decoded
from tickerplant.market_data.vendors.port import BarsRequest, Provider, ProviderContext
from tickerplant.system_clock import starting_at

NOW_US = 1_789_344_000_000_000  # 2026-09-14
REQUEST = BarsRequest(("IBM",), "1m", NOW_US - 3 * MINUTE_US, NOW_US)
ZEROS = bytes(64 << 20)
BOMB = gzip.compress(ZEROS, 9)
GOOD = json.dumps(
    {
        "status": "ok",
        "values": [dict.fromkeys(("open", "high", "low", "close"), "1.5") | {"datetime": "2026-09-13 23:58:00"}],
    }
).encode()


def deflated(data: bytes, bits: int) -> bytes:
    encoder = zlib.compressobj(9, zlib.DEFLATED, bits)
    return encoder.compress(data) + encoder.flush()


def asking(url: str, make: Callable[[ProviderContext], Provider] = twelvedata.provider, **options: str) -> Provider:
    return make(ProviderContext("v", "key", options, url=url, clock=starting_at(NOW_US, 1.0)))


async def error_of(provider: Provider, request: BarsRequest = REQUEST) -> VendorError:
    """Return the error of the request, which is raised or is the result of its symbol."""
    try:
        result = (await provider.bars(request)).found[request.symbols[0]]
    except VendorError as error:
        result = error
    finally:
        await provider.close()
    assert isinstance(result, VendorError)
    return result


@pytest.mark.parametrize(
    ("encoding", "body", "words"),
    [
        ("gzip", BOMB, "more than 2,097,152 bytes after decoding"),
        ("gzip, gzip", gzip.compress(BOMB), "'gzip, gzip', not gzip or deflate"),
        ("deflate", deflated(ZEROS, zlib.MAX_WBITS), "more than 2,097,152 bytes after decoding"),
        ("deflate", deflated(ZEROS, -zlib.MAX_WBITS), "more than 2,097,152 bytes after decoding"),
        ("br", b"\x00" * 100, "'br', not"),
        ("zstd", b"(\xb5/\xfd" + b"\x00" * 100, "'zstd', not"),
        ("identity", bytes(3 << 20), "more than 2,097,152 bytes"),
        ("gzip", BOMB[:100], "ends too early"),
        ("gzip", b"no gzip", "cannot be decoded"),
        ("x" * 5_000, b"", ", not gzip or deflate"),
    ],
    ids=range(10),
)
async def test_a_body_is_bounded_for_each_encoding(encoding: str, body: bytes, words: str) -> None:
    async with RestVendor().serving() as rest:
        rest.answers["/time_series"] = (200, {"Content-Encoding": encoding}, body)
        error = await error_of(asking(rest.url))
    assert isinstance(error, Malformed)
    assert words in str(error)
    assert len(str(error)) < 200


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress), ("identity", bytes),
        ("deflate", lambda data: deflated(data, -zlib.MAX_WBITS)),
    ],
)  # fmt: skip
async def test_a_normal_body_is_read_in_each_encoding(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    async with RestVendor().serving() as rest:
        rest.answers["/time_series"] = (200, {"Content-Encoding": encoding}, encode(GOOD))
        provider = asking(rest.url)
        found = (await provider.bars(REQUEST)).found["IBM"]
        await provider.close()
    assert not isinstance(found, VendorError), found
    assert found["close"].to_pylist() == [1.5]


def test_decoding_a_bomb_needs_no_more_memory_than_the_bound() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            decoded(BOMB, "gzip", 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert decoded(BOMB, "gzip", 1_000, cut=True) == bytes(1_000)
    assert decoded(b"no gzip", "gzip", 1_000, cut=True) == b""


@contextlib.asynccontextmanager
async def endless(status: bytes) -> AsyncIterator[tuple[str, list[int]]]:
    """Serve a body without an end; yield the address and the numbers of bytes sent."""
    sent: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 " + status + b" X\r\nTransfer-Encoding: chunked\r\n\r\n")
            while sum(sent) < 1 << 30:
                writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                sent.append(65_536)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", sent


@pytest.mark.parametrize(("status", "kind"), [(b"200", Malformed), (b"503", VendorDown)])
@pytest.mark.parametrize("make", [twelvedata.provider, alphavantage.provider])
async def test_a_body_without_an_end_is_not_read_further(
    make: Callable[[ProviderContext], Provider], status: bytes, kind: type[VendorError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alphavantage, "MAX_ANSWER_BYTES", 2 << 20)
    async with endless(status) as (url, sent):
        error = await error_of(asking(url, make))
    assert isinstance(error, kind)
    assert len(str(error)) < 600
    assert sum(sent) < 64 << 20, "socket buffers hold some megabytes"


async def test_the_text_of_an_error_is_cut() -> None:
    async with RestVendor().serving() as rest:
        for body in (b"x" * 5_000_000, json.dumps({"code": 500, "message": "y" * 200_000, "status": "error"}).encode()):
            rest.answers["/time_series"] = (500, {}, body)
            error = await error_of(asking(rest.url))
            assert isinstance(error, VendorDown)
            assert len(str(error)) < 600


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "identity"])
async def test_yahoo_is_bounded(encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(yahoo, "MAX_ANSWER_BYTES", 1 << 20)
    monkeypatch.setattr(yf, yahoo._MARK, False, raising=False)
    chart = b" " * (2 << 20) + golden("yahoo", "chart_1d")
    body = {"gzip": gzip.compress(chart), "gzip, gzip": gzip.compress(gzip.compress(golden("yahoo", "chart_1d")))}
    with serving() as canned:
        canned.put("/v1/test/getcrumb", b"crumb")
        canned.put("/consent", Answer(b"<html>", 404))
        canned.put("/v8", Answer(body.get(encoding, chart), 200, {"Content-Encoding": encoding}))
        provider = asking(canned.url, yahoo.provider, cache=str(tmp_path))
        error = await error_of(provider, BarsRequest(("AAPL",), "1d", NOW_US - 90 * DAY_US, NOW_US))
    assert isinstance(error, Malformed)
    assert "more than 1,048,576 bytes" in str(error) or "one encoding is allowed" in str(error)


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "identity"])
async def test_ccxt_is_bounded(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccxt_exchange, "MAX_BYTES", 1 << 20)
    markets = b" " * (2 << 20) + b"{}"
    body = {"gzip": gzip.compress(markets), "gzip, gzip": gzip.compress(gzip.compress(markets))}.get(encoding, markets)
    with serving() as canned:
        canned.put("/", Answer(body, 200, {"Content-Encoding": encoding, "Content-Type": "application/json"}))
        error = await error_of(
            asking(canned.url, ccxt.provider), BarsRequest(("BTC/USDT",), "1m", NOW_US - DAY_US, NOW_US)
        )
    assert isinstance(error, Malformed)
    assert len(str(error)) < 600
    assert encoding == "gzip, gzip" or "more than 1,048,576 bytes" in str(error)
