"""The stored state of a feed: its position, and the trade ids that it appended recently.

The cursor is a state value (`market.state.feeds`, key `feed:<name>`). It is committed in the transaction that appends
the records, so it matches the log exactly. Pure: bytes in, bytes out.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.errors import SnapshotRefused
from tickerplant.core.hashing import UInt64Array, mix
from tickerplant.core.times import NEVER_US, BoolArray

FORMAT: Final = 1
SEGMENT_IDS: Final = 4_096
"""Number of trade ids in one stored segment: 32 KB. A commit of a live feed rewrites one segment."""
SEGMENTS: Final = 16
"""Number of full segments that are stored: 65,536 ids, half a minute of a feed of 2,000 prints a second."""

NEW, OPEN, DOWN, ENDED = "new", "open", "down", "ended"


class Cursor(msgspec.Struct, kw_only=True):
    """The state of a feed. `resume_token` belongs to the feed (a row of a file, a page) and is not read here.

    `commits` counts the transactions; the stored count shows whether a commit of unknown outcome took place. `ids`
    contains the hashed trade ids since the last full segment; `segments` counts all segments that were ever filled.
    """

    format: int = FORMAT
    feed: str
    state: str = NEW
    live: bool = False
    watermark_us: int = NEVER_US
    resume_token: bytes = msgspec.field(default=b"", name="place")
    commits: int = 0
    symbols_digest: int = 0
    ticks: int = 0
    bars: int = 0
    dead: int = 0
    repeats: int = 0
    segments: int = 0
    ids: bytes = b""


def encode(cursor: Cursor) -> bytes:
    """Return the bytes to store."""
    return msgspec.msgpack.encode(cursor)


def decode(data: bytes | None, feed: str) -> Cursor:
    """Return the stored cursor, or the cursor of a new feed if `data` is None.

    Raises SnapshotRefused when another version wrote it in another format.
    """
    if data is None:
        return Cursor(feed=feed)
    try:
        cursor = msgspec.msgpack.decode(data, type=Cursor)
    except msgspec.MsgspecError as error:
        raise SnapshotRefused(f"the cursor of feed {feed} cannot be read: {error}") from error
    if cursor.format != FORMAT:
        raise SnapshotRefused(
            f"the cursor of feed {feed} has format {cursor.format}; this version reads format {FORMAT}"
        )
    return cursor


class RecentIds:
    """The recent trade ids as 64-bit hashes, to find repeats in whole columns.

    Contains at most `SEGMENTS` full segments and the segment that is being filled. The oldest segment is dropped when a
    new one is full, so a repeat is found if fewer than 65,536 ids arrived in between. One new id in 10^14 has the hash
    of a different id of a full window. Its tick is dropped as a repeat.
    """

    def __init__(self, segments: list[UInt64Array] | None = None, filling: UInt64Array | None = None) -> None:
        self._segments = segments or []
        self._filling = filling if filling is not None else np.empty(0, np.uint64)
        self._sorted = self._merge()

    def _merge(self) -> UInt64Array:
        return np.sort(np.concatenate([*self._segments, self._filling]))

    def add(self, keys: UInt64Array) -> tuple[BoolArray, list[UInt64Array], UInt64Array]:
        """Add `keys`; return (mask of the new keys, segments that became full, the segment that is being filled).

        If keys of one call are equal, the first of them is new.
        """
        fresh = np.zeros(len(keys), dtype=np.bool_)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        first = np.ones(len(keys), dtype=np.bool_)
        first[1:] = ordered[1:] != ordered[:-1]
        if len(self._sorted):
            at = np.minimum(np.searchsorted(self._sorted, ordered), len(self._sorted) - 1)
            first &= self._sorted[at] != ordered
        fresh[order] = first
        full: list[UInt64Array] = []
        filling = np.concatenate([self._filling, keys[fresh]])
        while len(filling) >= SEGMENT_IDS:
            full.append(filling[:SEGMENT_IDS])
            filling = filling[SEGMENT_IDS:]
        self._filling = filling
        if full:
            self._segments = [*self._segments, *full][-SEGMENTS:]
            self._sorted = self._merge()
        elif fresh.any():
            # Both parts are sorted: the stable sort merges them.
            self._sorted = np.sort(np.concatenate([self._sorted, ordered[first]]), kind="stable")
        return fresh, full, filling


_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MAX_ID_BYTES: Final = 64


def hash_texts(texts: pa.Array) -> UInt64Array:
    """Return a 64-bit hash of each text; a null is hashed as the empty text. Only the first 64 bytes count.

    >>> import pyarrow as pa
    >>> bool(hash_texts(pa.array(["a1"]))[0] == hash_texts(pa.array(["zzz", "a1"]))[1])
    True
    """
    texts = pc.fill_null(texts, "").cast(pa.binary())
    longest = min(pc.max(pc.binary_length(texts)).as_py() or 0, _MAX_ID_BYTES)
    words = longest // 8 + 1
    texts = pc.binary_slice(texts, 0, longest)
    lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths)
    padded = np.zeros((len(texts), words * 8), dtype=np.uint8)
    joined = _bytes_of(texts)
    rows = np.repeat(np.arange(len(texts)), lengths)
    padded[rows, np.arange(len(joined)) - np.repeat(ends - lengths, lengths)] = joined
    columns = padded.view(np.uint64)
    result: UInt64Array = lengths.astype(np.uint64)
    with np.errstate(over="ignore"):
        for word in range(words):
            # A word of zeros is padding and does not change the hash, so a longer text in the column has no effect.
            word_hash = mix(columns[:, word] + _PRIME * np.uint64(word + 1))
            result = np.where(lengths > word * 8, mix(result ^ word_hash), result)
    return result


def _bytes_of(texts: pa.Array) -> npt.NDArray[np.uint8]:
    """Return the values of a binary array without nulls, concatenated."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return np.empty(0, np.uint8)
    ends = np.frombuffer(offsets, dtype=np.int32)
    return np.frombuffer(data, dtype=np.uint8)[ends[texts.offset] : ends[texts.offset + len(texts)]]


def id_keys(symbol_hashes: UInt64Array, trade_ids: pa.Array, kinds: npt.NDArray[np.uint16]) -> UInt64Array:
    """Return the key that repeats share: a hash of symbol, trade id and kind (print, cancel, correction)."""
    with np.errstate(over="ignore"):
        result: UInt64Array = mix(
            symbol_hashes ^ hash_texts(trade_ids) * _PRIME ^ kinds.astype(np.uint64) << np.uint64(32)
        )
    return result
