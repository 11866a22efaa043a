"""The event log: opening it, its topics and end offsets, requests to rebuild, kept snapshots, and states of feeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tickerplant.app.wiring.locks import require_restored
from tickerplant.core.errors import UnknownTopic
from tickerplant.core.records import FILE_FEED
from tickerplant.core.schemas import (
    ALERTS,
    ANALYTICS,
    OHLCV,
    RAW,
    STATE_AGGREGATION,
    STATE_ANALYTICS,
    STATE_FEEDS,
    TOPIC,
    TOPICS,
)

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.log.port import EventLog
    from tickerplant.log.snapshot_retention import SnapshotRetention
    from tickerplant.market_data.feed.cursor import Cursor


@contextlib.contextmanager
def open_log(settings: Settings, *, make_topics: bool = True, patience_s: float | None = None) -> Iterator[EventLog]:
    """Open the log of the settings for the block. If `make_topics` is true, create the missing topics."""
    from tickerplant.log import open as log_open

    require_restored(settings.data)
    patience_s = log_open.PATIENCE_S if patience_s is None else patience_s
    opened = log_open.open_log(
        settings.log, data=settings.data, config=settings.kafka, patience_s=patience_s, policy=settings.topics.policy()
    )
    try:
        if make_topics:
            create_topics(opened, settings.new_partitions)
        yield opened
    finally:
        opened.close()


def has_log(settings: Settings) -> bool:
    """Return True if the log's file exists, or if the log is on brokers. Sends no request."""
    from tickerplant.log.open import has_file

    return has_file(settings.log, settings.data)


def create_topics(log: EventLog, partitions: int) -> list[str]:
    """Create the missing topics and return their names.

    An existing log has its own number of partitions, which does not change.
    """
    with contextlib.suppress(UnknownTopic):
        partitions = log.partitions(RAW)
    return log.create_topics(TOPICS, partitions)


def is_created(log: EventLog) -> bool:
    """Return True if the log has an identity, that is, if its topics were ever created."""
    try:
        log.identity()
    except UnknownTopic:
        return False
    return True


def ends(log: EventLog, *, read_uncommitted: bool = False) -> dict[tuple[str, int], int]:
    """Return the end offset of each partition of the topics that persistence reads."""
    return {
        (tp.topic, tp.partition): end
        for topic in (RAW, OHLCV, ANALYTICS, ALERTS)
        for tp, (_, end) in log.offsets(topic, read_uncommitted=read_uncommitted).items()
    }


def request_rebuild(log: EventLog, symbols: Sequence[str], start_us: int, end_us: int) -> dict[int, int]:
    """Append a request to rebuild the bars of `[start_us, end_us)`; return its raw offset by partition."""
    from tickerplant.market_data.feed.commands import request_rebuild as request

    return request(log, symbols, start_us, end_us)


def snapshot_retentions(log: EventLog) -> list[SnapshotRetention]:
    """Return one `SnapshotRetention` for each stateful service. Run each of them before the log applies retention."""
    from tickerplant.log.snapshot_retention import SnapshotRetention

    services = (("aggregation", RAW, STATE_AGGREGATION), ("analytics", OHLCV, STATE_ANALYTICS))
    return [
        SnapshotRetention(log, name, topic, state, TOPIC[topic].retention_us or 0) for name, topic, state in services
    ]


def live_watermark_us(log: EventLog, feed: str) -> int | None:
    """Return the watermark of a live feed in µs.

    None for an unknown feed, and for a feed that is not live, such as a file.
    """
    cursor = _cursor(log, feed)
    return cursor.watermark_us if cursor.live else None


def live_feeds(log: EventLog) -> dict[str, tuple[str, int]]:
    """Return the state (`up`, `down` or `ended`) and the watermark in µs of each live feed, from the feeds' cursors."""
    from tickerplant.market_data.feed import cursor as feed_cursor
    from tickerplant.market_data.feed.committer import state_key

    states = {feed_cursor.OPEN: "up", feed_cursor.DOWN: "down", feed_cursor.ENDED: "ended"}
    prefix, found = state_key(""), {}
    for partition in range(log.partitions(STATE_FEEDS)):
        for key in log.state_keys(STATE_FEEDS, partition):
            feed = key.removeprefix(prefix)
            if feed == key or feed.startswith(FILE_FEED) or "/ids/" in feed:
                continue
            cursor = feed_cursor.decode(log.get_state(STATE_FEEDS, partition, key), feed)
            if cursor.live and cursor.state in states:
                found[feed] = (states[cursor.state], cursor.watermark_us)
    return found


def conflicts(log: EventLog, feed: str) -> tuple[int, bool]:
    """Return the count of a feed's rows that conflict with an earlier row, and whether the rows are bars.

    A trade conflicts if it has the identity of an earlier trade, but a different price or size. A row of a bar
    conflicts if its values differ from an earlier row of the same bar.
    """
    cursor = _cursor(log, feed)
    return cursor.conflicts, cursor.bars > 0


def _cursor(log: EventLog, feed: str) -> Cursor:
    from tickerplant.market_data.feed import cursor as feed_cursor
    from tickerplant.market_data.feed.committer import state_key, state_partition

    stored = log.get_state(STATE_FEEDS, state_partition(feed, log.partitions(STATE_FEEDS)), state_key(feed))
    return feed_cursor.decode(stored, feed)
