"""Symbols and their partitions."""

from __future__ import annotations

import unicodedata
import zlib

from tickerplant.core.errors import BadInput
from tickerplant.core.shown import cut

MAX_SYMBOL_CHARS = 32
MAX_GIVEN_CHARS = 1_000
"""Maximum characters of a text that may be a symbol with spaces around it."""
_EXCLUDED = frozenset("\"'`,")


def check_symbol(text: str) -> str:
    """Return the symbol in canonical form, trimmed and upper case: `AAPL`, `BRK.B`, `EUR/USD`, `M&M.NS`, `RY:TSX`.

    A symbol has 1 to `MAX_SYMBOL_CHARS` printable characters of any script, at least one of them a letter or digit. It
    has no space, quote or comma, and does not begin with `*`. Raises BadInput, with the reason, for any other text.
    """
    if len(text) > MAX_GIVEN_CHARS:  # normalising a text of megabytes takes seconds
        raise BadInput(f"{cut(text)!r} is not a symbol: {len(text):,} characters; use 1 to {MAX_SYMBOL_CHARS}")
    symbol = unicodedata.normalize("NFC", text.strip().upper())
    valid = len(symbol) <= MAX_SYMBOL_CHARS and symbol.isprintable() and not _EXCLUDED.intersection(symbol)
    if (
        not valid or not any(map(str.isalnum, symbol)) or " " in symbol or symbol.startswith("*")
    ):  # the other kinds of space are not printable
        raise BadInput(
            f"{cut(text)!r} is not a symbol: use 1 to {MAX_SYMBOL_CHARS} printable characters without space, quote or "
            "comma, with a letter or digit; a first * means all symbols"
        )
    return symbol


def partition_of(symbol: str, partitions: int) -> int:
    """Return the partition of a symbol, the same in every topic: `crc32(symbol) % partitions`."""
    return zlib.crc32(symbol.encode()) % partitions
