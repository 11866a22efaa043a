"""The stored state of a feed: its position, and the trade ids that it appended recently.

The cursor is a state value (`market.state.feeds`, key `feed:<name>`). It is committed in the transaction that appends
the records, so it matches the log exactly. Pure: bytes in, bytes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.errors import SnapshotRefused
from tickerplant.core.flags import TickFlag
from tickerplant.core.hashing import UInt64Array, mix
from tickerplant.core.times import FOREVER_US, HOUR_US, NEVER_US, BoolArray, Float64Array, Int64Array

UInt32Array: TypeAlias = npt.NDArray[np.uint32]

FORMAT: Final = 1
SEGMENT_IDS: Final = 4_096
"""Number of trade ids in one stored segment: 48 KB. A commit rewrites at most one incomplete segment."""
SEGMENTS: Final = 16
"""Number of full segments that are stored: 65,536 ids, which cover half a minute at 2,000 prints a second."""
FORMER_SLACK_US: Final = HOUR_US
"""Maximum lead of a live feed's ticks over the watermark in its cursor, if an earlier version wrote the cursor."""

NEW, OPEN, DOWN, ENDED = "new", "open", "down", "ended"


class Cursor(msgspec.Struct, kw_only=True):
    """The state of a feed. `resume_token` (a row of a file, a page) is interpreted only by the feed.

    `commits` counts the transactions; the stored count shows whether a commit of unknown outcome took place. `ids`
    contains the hashed identities since the last full segment, and `values` a digest of price and size of each.
    `segments` counts all segments that were ever filled. `conflicts` counts ticks with a known identity and a different
    price or size; `dead` counts them too. In a feed of bars, `conflicts` counts the rows that differ from an earlier
    row of the same bar. `former_until_us`: ticks before this time may repeat a tick that an earlier version appended.
    Stored identities of that version contain neither time nor exchange. None if an earlier version wrote the cursor.
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
    values: bytes = b""
    conflicts: int = 0
    former_until_us: int | None = None


def encode(cursor: Cursor) -> bytes:
    """Return the cursor as msgpack, the stored form."""
    return msgspec.msgpack.encode(cursor)


def decode(data: bytes | None, feed: str) -> Cursor:
    """Return the stored cursor, or the cursor of a new feed if `data` is None.

    Raises SnapshotRefused when another version wrote it in another format.
    """
    if data is None:
        return Cursor(feed=feed, former_until_us=NEVER_US)
    try:
        cursor = msgspec.msgpack.decode(data, type=Cursor)
    except msgspec.MsgspecError as error:
        raise SnapshotRefused(
            f"the cursor of feed {feed} cannot be read: {error}; run the version that wrote it"
        ) from error
    if cursor.format != FORMAT:
        raise SnapshotRefused(
            f"the cursor of feed {feed} has format {cursor.format}; this version reads format {FORMAT}: run the "
            "version that wrote it"
        )
    if cursor.former_until_us is None:
        # A live feed's ids may restart every day. The watermark of a file sorted by symbol is far behind its ticks.
        cursor.former_until_us = max(cursor.watermark_us, 0) + FORMER_SLACK_US if cursor.live else FOREVER_US
    return cursor


class Identities(NamedTuple):
    """The identities of ticks with a trade id, one element per tick.

    `keys`: hash of the identity (`id_keys`). `values`: digest of price and size (`value_digests`). `former_keys`: the
    hash that earlier versions stored, 0 for a tick that cannot repeat one of their ticks; None if no tick can repeat
    one.
    """

    keys: UInt64Array
    values: UInt32Array
    former_keys: UInt64Array | None = None


class AddedIds(NamedTuple):
    """The result of `RecentIds.add`: masks of the new ticks and of the conflicts, and the segments that became full.

    A tick that is neither new nor a conflict is a repeat.
    """

    fresh: BoolArray
    conflicts: BoolArray
    full: list[bytes]


class RecentIds:
    """The recent identities as 64-bit hashes, with a digest of price and size, to find repeats in whole columns.

    Contains at most `SEGMENTS` full segments and the segment that is being filled. When a new segment is full, the
    oldest is dropped. A repeat is therefore found if fewer than 65,536 ids arrived in between. If all segments are
    full, about one new id in 10^14 has the same hash as a different id. Its tick is dropped as a repeat or becomes a
    conflict. The digest of an identity that an earlier version stored is 0, which is equal to every digest.
    """

    def __init__(self, segments: Sequence[bytes] = (), ids: bytes = b"", values: bytes = b"") -> None:
        self._segments = [_decoded_segment(segment) for segment in segments]
        known = np.frombuffer(values, dtype=np.uint32)
        keys = np.frombuffer(ids, dtype=np.uint64)
        unknown = np.zeros(max(0, len(keys) - len(known)), np.uint32)
        self._filling = keys, np.concatenate([unknown, known])
        # Two sorted parts: a batch is merged into the small one only.
        self._old, self._recent = _sorted(self._segments), _sorted([self._filling])

    @property
    def ids(self) -> bytes:
        """Return the keys since the last full segment."""
        return self._filling[0].tobytes()

    @property
    def values(self) -> bytes:
        """Return the digests since the last full segment."""
        return self._filling[1].tobytes()

    def add(self, ticks: Identities) -> AddedIds:
        """Add these identities; return which are new, and which are conflicts.

        If several ticks of one call have the same new identity, the first of them is new.
        """
        keys, values = ticks.keys, ticks.values
        order = np.argsort(keys, kind="stable")
        ordered, digests = keys[order], values[order]
        first = np.ones(len(keys), dtype=np.bool_)
        first[1:] = ordered[1:] != ordered[:-1]
        expected = digests[np.maximum.accumulate(np.where(first, np.arange(len(keys)), 0))]
        known, known_values = self._find(ordered)
        expected = np.where(known, known_values, expected)
        if ticks.former_keys is not None:
            former, _ = self._find(ticks.former_keys[order])
            expected, known = np.where(former & ~known, 0, expected), known | former
        new = first & ~known
        fresh, conflicts = np.empty(len(keys), np.bool_), np.empty(len(keys), np.bool_)
        fresh[order] = new
        conflicts[order] = ~new & (expected != 0) & (expected != digests)
        full = self._fill(keys[fresh], values[fresh])
        if full:
            self._old, self._recent = _sorted(self._segments), _sorted([self._filling])
        else:
            stored, values = self._recent
            places = np.searchsorted(stored, ordered[new])
            self._recent = np.insert(stored, places, ordered[new]), np.insert(values, places, digests[new])
        return AddedIds(fresh, conflicts, full)

    def _find(self, keys: UInt64Array) -> tuple[BoolArray, UInt32Array]:
        """Return a mask of the known keys, and the digest of each key, 0 for an unknown key."""
        known, found = np.zeros(len(keys), np.bool_), np.zeros(len(keys), np.uint32)
        for stored, values in (self._old, self._recent):
            if len(stored):
                at = np.minimum(np.searchsorted(stored, keys), len(stored) - 1)
                hit = stored[at] == keys
                known |= hit
                found = np.where(hit, values[at], found)
        return known, found

    def _fill(self, keys: UInt64Array, values: UInt32Array) -> list[bytes]:
        """Append to the segment that is being filled; return the segments that became full, as stored."""
        keys, values = np.concatenate([self._filling[0], keys]), np.concatenate([self._filling[1], values])
        full: list[bytes] = []
        while len(keys) >= SEGMENT_IDS:
            segment = keys[:SEGMENT_IDS], values[:SEGMENT_IDS]
            full.append(segment[0].tobytes() + segment[1].tobytes())
            self._segments = [*self._segments, segment][-SEGMENTS:]
            keys, values = keys[SEGMENT_IDS:], values[SEGMENT_IDS:]
        self._filling = keys, values
        return full


def _sorted(parts: Sequence[tuple[UInt64Array, UInt32Array]]) -> tuple[UInt64Array, UInt32Array]:
    """Return the keys and digests of these parts, sorted by key."""
    if not parts:
        return np.empty(0, np.uint64), np.empty(0, np.uint32)
    keys = np.concatenate([keys for keys, _ in parts])
    order = np.argsort(keys, kind="stable")
    return keys[order], np.concatenate([values for _, values in parts])[order]


def _decoded_segment(data: bytes) -> tuple[UInt64Array, UInt32Array]:
    """Return the keys and digests of a stored segment. An earlier version stored only keys; their digests are 0."""
    keys = np.frombuffer(data[: SEGMENT_IDS * 8], dtype=np.uint64)
    values = np.frombuffer(data[SEGMENT_IDS * 8 :], dtype=np.uint32)
    return keys, values if len(values) == len(keys) else np.zeros(len(keys), np.uint32)


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
            # A word of zeros is padding. It does not change the hash, so a longer text in the column has no effect.
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


def id_keys(
    symbol_hashes: UInt64Array, trade_ids: pa.Array, kinds: npt.NDArray[np.uint16], times_us: Int64Array,
    exchanges: pa.Array | None, values: UInt32Array,
) -> UInt64Array:  # fmt: skip
    """Return the key that repeats share: a hash of symbol, trade id, time, kind and exchange.

    The kind is print, cancel or correction. A trade may be corrected several times, so the key of a correction also
    contains its price and size. A tick without an exchange has the same key whether or not the batch has the column.
    """
    with np.errstate(over="ignore"):
        keys = former_id_keys(symbol_hashes, trade_ids, kinds) ^ mix(times_us.astype(np.uint64) * _PRIME)
        if exchanges is not None:
            keys ^= np.where(exchanges.is_valid().to_numpy(zero_copy_only=False), hash_texts(exchanges) * _PRIME, 0)
        keys ^= np.where(kinds & TickFlag.CORRECTION, values.astype(np.uint64) << np.uint64(24), 0)
        result: UInt64Array = mix(keys)
    return result


def value_digests(prices: Float64Array, sizes: Float64Array) -> UInt32Array:
    """Return a digest of price and size of each tick, never 0: uint32[n]."""
    with np.errstate(over="ignore"):
        both = mix((prices + 0.0).view(np.uint64)) * _PRIME ^ (sizes + 0.0).view(np.uint64)  # -0.0 equals 0.0
        result: UInt32Array = (mix(both) >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    return result


def former_id_keys(symbol_hashes: UInt64Array, trade_ids: pa.Array, kinds: npt.NDArray[np.uint16]) -> UInt64Array:
    """Return the key that earlier versions stored: a hash of symbol, trade id and kind."""
    with np.errstate(over="ignore"):
        result: UInt64Array = mix(
            symbol_hashes ^ hash_texts(trade_ids) * _PRIME ^ kinds.astype(np.uint64) << np.uint64(32)
        )
    return result
