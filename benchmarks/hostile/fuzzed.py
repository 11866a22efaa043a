"""Fuzzed HTTP requests and WebSocket frames. Equal seeds produce equal sequences."""

from __future__ import annotations

import json
import random
import struct
from typing import Final
from urllib.parse import quote

SYMBOLS: Final = (
    "AAPL", "EUR/USD", "BTC/USD", "aapl", "NOSUCH", "%00", "..", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "*", "A" * 5_000,
    "%F0%9F%92%A3", "%ff%fe", "'%3BDROP TABLE--".replace(" ", "%20"), "%D9%A3", "=1+1", "AAPL%0d%0aX-A:b", "<script>",
)  # fmt: skip
PATHS: Final = (
    "/v1/intraday/{}", "/v1/historical/{}", "/v1/ticks/{}", "/v1/analytics/{}", "/v1/realtime/{}", "/v1/coverage",
    "/v1/coverage/{}", "/v1/indicators", "/v1/indicators/RSI", "/v1/indicators/RSI/{}", "/v1/indicators/{}/AAPL",
    "/v1/alerts", "/v1/alerts/{}", "/v1/alerts/firings", "/v1/alerts/{}/firings", "/v1/symbols", "/v1/status",
    "/health", "/metrics", "/openapi.json", "/docs", "/", "/{}", "/v1/stream", "//v1//intraday//{}", "/v1/snapshot",
)  # fmt: skip
PARAMETERS: Final = (
    "start", "end", "from", "to", "limit", "skip", "interval", "tz", "format", "times", "adjust", "symbol", "symbols",
    "prefix", "apikey", "columns", "period", "source", "order", "state", "as_of", "nonsense", "start[]",
)  # fmt: skip
VALUES: Final = (
    "", "0", "-1", "1", "5", "100", "1000", "50000", "50001", "9" * 30, "1e308", "NaN", "0x10", "\u0663", "true",
    "null", "1m", "5m", "15m", "1h", "1d", "1w", "100t", "0t", "9" * 20 + "v", "1m,5m", "csv", "json", "arrow",
    "UTC", "America/New_York", "../../etc/localtime", "Mars/Phobos", "2026-01-05", "2026-01-05T15:00:00Z",
    "9999-12-31T23:59:59", "0001-01-01", "10000-01-01", "-262144-01-01", "2026-02-30", "1767625200", "9" * 18,
    "2026-01-05T15:00:00+99:99", "splits", "all", "none", "iso", "us", "AAPL", "AAPL,MSFT", "," * 5_000, "\x00",
    "\x1b[2J", "'", '"', "%", "%%", "\\", "(" * 500, "=cmd|' /C calc'!A0", "x" * 8_000,
)  # fmt: skip
METHODS: Final = ("GET",) * 12 + (
    "HEAD",
    "POST",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "get",
    "X" * 500,
)
HEADERS: Final = (
    "Accept: text/csv", "Accept-Encoding: gzip, br;q=9999", "Range: bytes=0-0,1-1,2-2", "Expect: 100-continue",
    "Origin: http://evil.example", "Host: evil.example", "X-API-Key: \xff\xfe", "Cookie: " + "a=b; " * 1_000,
    "X-Forwarded-For: 999.999.999.999, ::1, x", "Forwarded: for=\"_x\"", "Transfer-Encoding: chunked",
    "Content-Length: 99999999999999999999", "Content-Length: -1", "Content-Length: 5", "X-Giant: " + "x" * 40_000,
    "If-None-Match: *", "Connection: upgrade", "Upgrade: h2c", "Connection: Upgrade\r\nUpgrade: websocket", "X: \x00",
    "Sec-WebSocket-Version: 12", "Content-Encoding: gzip", "Content-Type: application/xml", " leading: space",
)  # fmt: skip
ALERT: Final = {"symbol": "AAPL", "interval": "1m", "left": "close", "operator": ">", "right": "0"}
BODIES: Final = (
    b"", b"{}", b"[]", b"null", b"[" * 10_000, b'{"symbol":' * 2_000, b"\xff\xfe\x00", b"9" * 10_000,
    json.dumps(ALERT).encode(), json.dumps({**ALERT, "right": 1e308}).encode(), b'{"symbol":"\\u0000"}',
    json.dumps({**ALERT, "bars": -1}).encode(), json.dumps({**ALERT, "left": "RSI(" * 200}).encode(),
    json.dumps({**ALERT, "left": "RSI(\u0663)"}).encode(), json.dumps({**ALERT, "bars": 10**30}).encode(),
    json.dumps({**ALERT, "webhook": "http://127.0.0.1:9/x"}).encode(), b'{"active":false}', b"x" * 20_000,
    json.dumps({**ALERT, "webhook": "http://0177.0.0.1/"}).encode(), json.dumps({**ALERT, "interval": "9t"}).encode(),
)  # fmt: skip


class Requests:
    """Fuzzed requests to a plant on `port`."""

    def __init__(self, seed: int, port: int) -> None:
        self._random = random.Random(seed)
        self._port = port

    def request(self) -> bytes:
        """Return the bytes of the next request."""
        chosen = self._random
        method = chosen.choice(METHODS)
        path = chosen.choice(PATHS).format(chosen.choice(SYMBOLS))
        names = chosen.choices(PARAMETERS, k=chosen.choice((0, 1, 1, 2, 3, 8)))
        query = "&".join(f"{name}={self._value()}" for name in names)
        lines = [f"{method} {path}{'?' if query else ''}{query} HTTP/1.1", "Connection: close"]
        if chosen.random() < 0.95:
            lines.append(f"Host: 127.0.0.1:{self._port}")
        lines += chosen.choices(HEADERS, k=chosen.choice((0, 0, 1, 2)))
        body = b""
        if method not in ("GET", "HEAD") or chosen.random() < 0.05:
            body = chosen.choice(BODIES)
            lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
        data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + body
        if chosen.random() < 0.05:  # damaged at random places
            changed = bytearray(data)
            for _ in range(chosen.randint(1, 20)):
                changed[chosen.randrange(len(changed))] = chosen.randrange(256)
            data = bytes(changed)
        return data

    def _value(self) -> str:
        value = self._random.choice(VALUES)
        return value if self._random.random() < 0.2 and value.isascii() and value.isprintable() else quote(value)


def masked(data: bytes, opcode: int = 1, *, fin: bool = True) -> bytes:
    """Return a WebSocket frame of a client, masked with zeros."""
    size, first = len(data), (0x80 if fin else 0) | opcode
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + b"\0\0\0\0" + data


COMMANDS: Final = (
    b"", b"null", b"[]", b"{}", b"[" * 100_000, b'{"action":' * 10_000, b'{"action":"ping","id":' + b"9" * 5_000 + b"}",
    b'{"action":"subscribe"}', b'{"action":"subscribe","symbols":["*"]}', b'{"action":"subscribe","symbols":[null]}',
    b'{"action":"subscribe","symbols":["*"],"since":{"log_id":"x","generation":1e99}}', b'{"action":"\\u0000"}',
    b'{"action":"subscribe","symbols":["' + b"A" * 100_000 + b'"]}', b"\xff\xfe", b'{"action":"unsubscribe"}',
    json.dumps({"action": "subscribe", "symbols": [f"S{at}" for at in range(10_000)]}).encode(),
    json.dumps({"action": "subscribe", "symbols": ["A"], "channels": [f"bars.{at}t" for at in range(10_000)]}).encode(),
    json.dumps({"action": "subscribe", "symbols": ["AAPL"], "since": "x" * 10_000}).encode(), b"x" * 300_000,
)  # fmt: skip


class Frames:
    """Fuzzed frames of a client."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def frame(self) -> bytes:
        """Return the bytes of the next frame. Most are valid, because an invalid frame ends the connection."""
        chosen = self._random
        kind = chosen.random()
        if kind < 0.8:
            return masked(chosen.choice(COMMANDS[:-1]), chosen.choice((1, 1, 1, 2)))
        if kind < 0.85:
            return masked(chosen.randbytes(chosen.randint(0, 125)), chosen.choice((9, 10)))
        if kind < 0.9:
            return masked(b"x", 1, fin=False) + masked(b"", 0, fin=False) * 500 + masked(b"", 0)
        invalid = (
            chosen.randbytes(200), b"\x81\x05hello", masked(b"x" * 126, 9), masked(b"x", 3), b"\xf1\x80\0\0\0\0",
            b"\x81\xff" + b"\x7f" + b"\xff" * 7 + b"\0\0\0\0", masked(b"\x03\xe8\xff", 8), masked(b"\x00", 8),
            masked(b"x", 0), masked(COMMANDS[-1]),
        )  # fmt: skip
        return chosen.choice(invalid)
