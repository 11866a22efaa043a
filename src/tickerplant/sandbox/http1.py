"""HTTP/1.1 with persistent connections, read from and written to asyncio streams.

No framework is used, because faults need truncated responses, and connections that are reset before any response.
"""

from __future__ import annotations

import asyncio
import http
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from tickerplant.protocols.http_types import Request, Response

MAX_BODY_BYTES: Final = 1 << 20


async def read_head(reader: asyncio.StreamReader) -> bytes | None:
    """Return the head of the next request; None if the connection ended or the head is too long."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return None


async def read_request(head: bytes, reader: asyncio.StreamReader) -> Request:
    """Parse a request's head and read its body. Raises ValueError if the head is not HTTP or the body is too long."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= MAX_BODY_BYTES:
        raise ValueError("the body is too long")
    body = await reader.readexactly(length) if length else b""
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Request(unquote(parts.path), query, headers, method, body)


def response_head(response: Response, *, keep_alive: bool) -> bytes:
    """Return status line and headers, with the blank line after them."""
    try:
        phrase = http.HTTPStatus(response.status).phrase
    except ValueError:
        phrase = "Unknown"
    headers = {
        "Content-Type": response.content_type,
        "Content-Length": str(len(response.body)),
        "Connection": "keep-alive" if keep_alive else "close",
        **response.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {response.status} {phrase}\r\n{lines}\r\n".encode("latin-1")
