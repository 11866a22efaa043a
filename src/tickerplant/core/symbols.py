"""Symbols and their partitions."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tickerplant.core.errors import BadInput

MAX_SYMBOL_CHARS = 32
_SYMBOL = re.compile(r"[A-Z0-9^][A-Z0-9.\-/:=^_]{0,31}\Z")


def check_symbol(text: str) -> str:
    """Return the symbol in canonical form, trimmed and upper case: `AAPL`, `BRK.B`, `EUR/USD`, `^GSPC`, `RY:TSX`.

    Raises BadInput, with the reason, for any other text.
    """
    symbol = text.strip().upper()
    if not _SYMBOL.match(symbol):
        raise BadInput(
            f"{text!r} is not a symbol: use 1 to {MAX_SYMBOL_CHARS} of A-Z 0-9 . - / : = ^ _, "
            "starting with a letter, a digit or ^"
        )
    return symbol


def partition_of(symbol: str, partitions: int) -> int:
    """Return the partition of a symbol, the same in every topic: `crc32(symbol) % partitions`."""
    return zlib.crc32(symbol.encode()) % partitions


def partitions_of(symbols: Sequence[str], partitions: int) -> npt.NDArray[np.int32]:
    """Return `partition_of` of each symbol: int32[len(symbols)]. This function is too slow for columns of ticks."""
    return np.fromiter((zlib.crc32(s.encode()) % partitions for s in symbols), dtype=np.int32, count=len(symbols))
