"""The snapshot of a partition's state: msgpack of plain values, with arrays of rows as raw bytes.

Equal states give equal bytes. A restored state behaves exactly as the original. Stored names are part of the format;
some differ from the names of the attributes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from tickerplant.aggregation.candidates import CandidateBlocks
from tickerplant.aggregation.feed_state import FeedState, UnmatchedCorrections
from tickerplant.aggregation.rows import ROW, Interner, Rows, join
from tickerplant.aggregation.source_priority import Wait
from tickerplant.aggregation.state import FileSpan, State
from tickerplant.core.rules import rules_from, values_of

FORMAT: Final = 2
_FILE_ROWS: Final = 2
"""Number of values at the end of a file's entry that earlier versions did not store."""

_FEED_FIELDS: Final = {
    "name": "name",
    "number": "number",
    "up": "up",
    "live": "live",
    "ended": "ended",
    "watermark_us": "watermark_us",
    "top_us": "newest_us",
    "heard_us": "last_sent_us",
    "lateness_us": "lateness_us",
    "horizon_us": "horizon_us",
    "over_us": "declared_until_us",
    "coverage": "coverage",
    "floors": "retained_from",
    "floors_until": "retained_until_us",
}
"""Stored name and attribute of a feed's plain values, in the order of the format."""


def encode_snapshot(state: State) -> bytes:
    """Return the state between two steps as bytes."""
    return msgspec.msgpack.encode(
        {
            "rules": values_of(state.rules),
            "symbols": state.symbols.texts,
            "sources": state.sources.texts,
            "reasons": state.reasons.texts,
            "calendars": [calendar.name for calendar in state.calendars],
            "newest": state.newest.tobytes(),
            "forgotten": state.evicted_before.tobytes(),
            "next_feed": state.next_feed,
            "hours": state.hours,
            "holds": [(*key, *wait) for key, wait in sorted(state.pending.waits.items())],
            "next_check_us": state.next_check_us,
            "last_sent_us": state.last_sent_us,
            "feeds": [_encode_feed(feed) for _, feed in sorted(state.feeds.items())],
            "finished": [_encode_blocks(each) for each in (*state.candidates, state.auctions)],
        }
        | _encode_files(state)
    )


def is_equal(kept: bytes, state: bytes) -> bool:
    """Return whether a kept snapshot contains the recomputed `state`; False for a damaged snapshot.

    An earlier version stored no files, or files without their first and last row. `state` may therefore contain files
    and rows that the snapshot does not contain.
    """
    if kept == state:
        return True
    try:
        former, present = msgspec.msgpack.decode(kept), msgspec.msgpack.decode(state)
    except msgspec.DecodeError:
        return False
    if not isinstance(former, dict):
        return False
    known, files = former.pop("files", []), present.pop("files", [])
    files += [file[:-_FILE_ROWS] for file in files]
    return bool(former == present and all(file in files for file in known))


def decode_snapshot(data: bytes) -> State:
    """Return the state that `encode_snapshot` encoded."""
    stored: dict[str, Any] = msgspec.msgpack.decode(data)
    state = State(Interner(stored["symbols"]), Interner(stored["sources"]))
    state.reasons = Interner(stored["reasons"])
    state.newest = np.frombuffer(stored["newest"], dtype=np.int64).copy()
    state.evicted_before = np.frombuffer(stored["forgotten"], dtype=np.int64).copy()
    state.set_rules(rules_from(stored["rules"]))
    state.next_feed = stored["next_feed"]
    state.hours = [(sent, offset) for sent, offset in stored["hours"]]
    state.pending.waits = {
        (start, feed): Wait(deadline, tuple(feeds)) for start, feed, deadline, feeds in stored["holds"]
    }
    state.next_check_us, state.last_sent_us = stored["next_check_us"], stored["last_sent_us"]
    for feed in stored["feeds"]:
        state.add_feed(_decode_feed(feed, state))
    for name, symbols, first_us, last_us, first_offset, last_offset, *rows in stored.get("files", ()):
        of_file = np.frombuffer(symbols, dtype=np.int32).copy(), first_us, last_us, first_offset, last_offset
        state.file_spans[name] = FileSpan(name, *of_file, *(None if row is None else (row[0], row[1]) for row in rows))
    for candidates, blocks in zip((*state.candidates, state.auctions), stored["finished"], strict=True):
        _decode_blocks(candidates, blocks)
    return state


def _encode_files(state: State) -> dict[str, Any]:
    """Return the entry of the files of ticks. {} if there are none: the bytes then equal those of earlier versions."""
    files = [
        (span.name, span.symbols.tobytes(), span.first_us, span.last_us, span.first_offset, span.last_offset,
         span.first_row, span.last_row)
        for span in state.file_spans.values()
    ]  # fmt: skip
    return {"files": files} if files else {}


def _encode_feed(feed: FeedState) -> dict[str, Any]:
    rows, dirty = feed.windows.dump()
    unmatched = feed.unmatched
    firm = {"firm": True} if feed.firm else {}  # only if true: other snapshots equal those of earlier versions
    return (
        {name: getattr(feed, attribute) for name, attribute in _FEED_FIELDS.items()}
        | firm
        | {
            "expected": feed.expected.tobytes(),
            "sources": sorted(feed.sources),
            "activity": feed.activity.dump(),
            "undone": tuple(part.tobytes() for part in (unmatched.keys, unmatched.times, unmatched.offsets)),
            "windows": rows.tobytes(),
            "dirty": dirty.tobytes(),
            "any_dirty": feed.windows.any_dirty,
            "open_fives": sorted(feed.open_fives),
            "open_days": sorted(feed.open_days),
        }
    )


def _decode_feed(stored: dict[str, Any], state: State) -> FeedState:
    symbols = len(state.symbols)
    feed = FeedState(**{attribute: stored[name] for name, attribute in _FEED_FIELDS.items()})
    feed.coverage = [(start, end) for start, end in feed.coverage]
    feed.expected = np.frombuffer(stored["expected"], dtype=np.int32).copy()
    feed.sources = set(stored["sources"])
    feed.firm = stored.get("firm", False)
    feed.activity.fit(state.activities)
    feed.activity.load(stored["activity"], symbols)
    feed.unmatched = UnmatchedCorrections(*(np.frombuffer(part, dtype=np.int64).copy() for part in stored["undone"]))
    feed.windows.load(_rows(stored["windows"]), np.frombuffer(stored["dirty"], dtype=np.bool_), symbols)
    feed.windows.any_dirty = stored["any_dirty"]
    feed.open_fives = set(stored["open_fives"])
    feed.open_days = {(calendar, session) for calendar, session in stored["open_days"]}
    return feed


def _encode_blocks(candidates: CandidateBlocks) -> dict[str, Any]:
    starts = sorted(candidates.blocks)
    blocks = [candidates.blocks[start] for start in starts]
    return {
        "starts": starts,
        "lengths": [len(block) for block in blocks],
        "rows": join(blocks).tobytes(),
    }


def _decode_blocks(candidates: CandidateBlocks, stored: dict[str, Any]) -> None:
    candidates.load(stored["starts"], stored["lengths"], _rows(stored["rows"]))


def _rows(data: bytes) -> Rows:
    return np.frombuffer(data, dtype=ROW).copy()
