"""Reads an HTTP answer of a vendor within a maximum number of bytes, before and after decoding.

A body of a megabyte can decode to a gigabyte, and a body can have no end. This module decodes by itself, with a bound
at each step. It accepts one encoding, gzip or deflate: the request offers only these.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

import httpx

from tickerplant.market_data.vendors.bounds import SHOWN_CHARS, shortened
from tickerplant.market_data.vendors.errors import Malformed

ACCEPT_ENCODING: Final = "gzip, deflate"
MAX_ANSWER_BYTES: Final = 32 << 20
"""Default maximum bytes of an answer. A full history of 20 years has 2 MB; a month of minutes with extended hours has 4
MB."""
MAX_ERROR_BYTES: Final = 256 << 10
"""Maximum bytes of an answer with an error status; the remainder is not read."""
_PIECE_BYTES: Final = 1 << 20
_GZIP: Final = (zlib.MAX_WBITS | 16,)
_WINDOW_BITS: Final = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS)}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, decoded. Header names are in lower case; the values of a repeated header are joined by commas."""

    status: int
    headers: Mapping[str, str]
    content: bytes


async def fetch(client: httpx.AsyncClient, path: str, params: Mapping[str, str], max_bytes: int) -> Answer:
    """Return the answer to a GET request. An answer with an error status is cut at `MAX_ERROR_BYTES`.

    Raises Malformed for an answer of more than `max_bytes`, for several or unknown encodings, and for data that cannot
    be decoded. Raises httpx.HTTPError if the request fails.
    """
    async with client.stream("GET", path, params=params, headers={"Accept-Encoding": ACCEPT_ENCODING}) as answer:
        failed = answer.status_code >= 400
        bound = min(MAX_ERROR_BYTES, max_bytes) if failed else max_bytes
        headers = {name.lower(): value for name, value in answer.headers.items()}
        raw, whole = await _read(answer.aiter_raw(), bound)
        if not whole and not failed:
            raise Malformed(f"the answer has more than {bound:,} bytes")
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding in ("", "identity"):
            return Answer(answer.status_code, headers, raw)
        content = await asyncio.to_thread(decoded, raw, encoding, bound, cut=failed)
        return Answer(answer.status_code, headers, content)


async def _read(chunks: AsyncIterator[bytes], bound: int) -> tuple[bytes, bool]:
    """Return at most `bound` bytes, and True if these are all bytes."""
    parts, size = [], 0
    async for chunk in chunks:
        parts.append(chunk[: bound - size])
        size += len(chunk)
        if size > bound:
            return b"".join(parts), False
    return b"".join(parts), True


def check_encoding(encoding: str) -> None:
    """Raise Malformed unless the encoding is none, identity, or one of gzip, x-gzip, deflate, br and zstd."""
    if encoding.strip().lower() not in ("", "identity", *_WINDOW_BITS, "br", "zstd"):
        raise Malformed(
            f"the content encoding {shortened(encoding, SHOWN_CHARS)!r} is refused; one encoding is allowed: "
            "gzip, deflate, br or zstd"
        )


def decoded(raw: bytes, encoding: str, bound: int, *, cut: bool = False) -> bytes:
    """Return the decoded bytes. `cut`: return at most `bound` bytes, and only the decodable part of a truncated body.

    Raises Malformed for an encoding other than gzip or deflate, for more than `bound` bytes, and for invalid data.
    """
    if encoding not in _WINDOW_BITS:
        raise Malformed(
            f"the answer has the content encoding {shortened(encoding, SHOWN_CHARS)!r}, not gzip or deflate"
        )
    reason = ""
    for bits in _WINDOW_BITS[encoding]:  # deflate has two forms, with and without a header
        decoder, parts, size, data = zlib.decompressobj(bits), [], 0, raw
        try:
            while not decoder.eof and size <= bound:
                part = decoder.decompress(data, min(_PIECE_BYTES, bound - size + 1))
                data = decoder.unconsumed_tail
                parts.append(part)
                size += len(part)
                if not part and not data:
                    break
        except zlib.error as error:
            reason = str(error)
            continue
        if size > bound and not cut:
            raise Malformed(f"the answer has more than {bound:,} bytes after decoding")
        if not decoder.eof and not cut:
            raise Malformed("the answer cannot be decoded: it ends too early")
        return b"".join(parts)[:bound]
    if cut:
        return b""
    raise Malformed(f"the answer cannot be decoded: {reason}")


class BodyCollector:
    """Collects a body that a library has decoded, within `bound` bytes. A longer body raises Malformed."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> int:
        """Add a part; return its size."""
        self._size += len(part)
        if self._size > self._bound:
            raise Malformed(f"the answer has more than {self._bound:,} bytes")
        self._parts.append(part)
        return len(part)

    def content(self) -> bytes:
        """Return the whole body."""
        return b"".join(self._parts)
