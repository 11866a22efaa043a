"""The state of a partition as bytes: msgpack of plain values, with arrays of rows as they lie in memory.

Equal states give equal bytes, and `restore` of them behaves as the state itself would have.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from tickerplant.aggregation.candidates import Finished
from tickerplant.aggregation.feed_state import Feed
from tickerplant.aggregation.rows import ROW, Names, Rows, join
from tickerplant.aggregation.source_priority import Hold
from tickerplant.aggregation.state import State
from tickerplant.aggregation.undone import Undone
from tickerplant.core.rules import rules_from, values_of

FORMAT: Final = 2

_PLAIN = (
    "name", "number", "up", "live", "ended", "watermark_us", "top_us", "heard_us", "lateness_us", "horizon_us",
    "over_us", "coverage", "floors", "floors_until",
)  # fmt: skip


def dump(state: State) -> bytes:
    """Return the state between two steps as bytes."""
    return msgspec.msgpack.encode(
        {
            "rules": values_of(state.rules),
            "symbols": state.symbols.texts,
            "sources": state.sources.texts,
            "reasons": state.reasons.texts,
            "calendars": [calendar.name for calendar in state.calendars],
            "newest": state.newest.tobytes(),
            "forgotten": state.forgotten.tobytes(),
            "next_feed": state.next_feed,
            "hours": state.hours,
            "holds": [(*key, *hold) for key, hold in sorted(state.holds.items())],
            "next_check_us": state.next_check_us,
            "last_sent_us": state.last_sent_us,
            "feeds": [_dump_feed(feed) for _, feed in sorted(state.feeds.items())],
            "finished": [_dump_blocks(finished) for finished in (*state.finished, state.auctions)],
        }
    )


def restore(data: bytes) -> State:
    """Return the state that `dump` was given."""
    kept: dict[str, Any] = msgspec.msgpack.decode(data)
    state = State(Names(kept["symbols"]), Names(kept["sources"]))
    state.reasons = Names(kept["reasons"])
    state.newest = np.frombuffer(kept["newest"], dtype=np.int64).copy()
    state.forgotten = np.frombuffer(kept["forgotten"], dtype=np.int64).copy()
    state.set_rules(rules_from(kept["rules"]))
    state.next_feed = kept["next_feed"]
    state.hours = [(sent, offset) for sent, offset in kept["hours"]]
    state.holds = {(start, feed): Hold(deadline, tuple(feeds)) for start, feed, deadline, feeds in kept["holds"]}
    state.next_check_us, state.last_sent_us = kept["next_check_us"], kept["last_sent_us"]
    for feed in kept["feeds"]:
        state.add_feed(_restore_feed(feed, state))
    for finished, blocks in zip((*state.finished, state.auctions), kept["finished"], strict=True):
        _restore_blocks(finished, blocks)
    return state


def _dump_feed(feed: Feed) -> dict[str, Any]:
    rows, dirty = feed.windows.dump()
    return {name: getattr(feed, name) for name in _PLAIN} | {
        "expected": feed.expected.tobytes(),
        "sources": sorted(feed.sources),
        "activity": feed.activity.dump(),
        "undone": tuple(part.tobytes() for part in (feed.undone.keys, feed.undone.times, feed.undone.offsets)),
        "windows": rows.tobytes(),
        "dirty": dirty.tobytes(),
        "any_dirty": feed.windows.any_dirty,
        "open_fives": sorted(feed.open_fives),
        "open_days": sorted(feed.open_days),
    }


def _restore_feed(kept: dict[str, Any], state: State) -> Feed:
    symbols = len(state.symbols)
    feed = Feed(**{name: kept[name] for name in _PLAIN})
    feed.coverage = [(begin, end) for begin, end in feed.coverage]
    feed.expected = np.frombuffer(kept["expected"], dtype=np.int32).copy()
    feed.sources = set(kept["sources"])
    feed.activity.fit(state.activities)
    feed.activity.load(kept["activity"], symbols)
    feed.undone = Undone(*(np.frombuffer(part, dtype=np.int64).copy() for part in kept["undone"]))
    feed.windows.load(_rows(kept["windows"]), np.frombuffer(kept["dirty"], dtype=np.bool_), symbols)
    feed.windows.any_dirty = kept["any_dirty"]
    feed.open_fives = set(kept["open_fives"])
    feed.open_days = {(calendar, session) for calendar, session in kept["open_days"]}
    return feed


def _dump_blocks(finished: Finished) -> dict[str, Any]:
    starts = sorted(finished.blocks)
    blocks = [finished.blocks[start] for start in starts]
    return {
        "starts": starts,
        "lengths": [len(block) for block in blocks],
        "rows": join(blocks).tobytes(),
    }


def _restore_blocks(finished: Finished, kept: dict[str, Any]) -> None:
    rows = _rows(kept["rows"])
    begin = 0
    for start, length in zip(kept["starts"], kept["lengths"], strict=True):
        finished.blocks[start] = rows[begin : begin + length].copy()
        begin += length


def _rows(data: bytes) -> Rows:
    return np.frombuffer(data, dtype=ROW).copy()
