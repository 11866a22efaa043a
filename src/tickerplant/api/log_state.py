"""State that the log contains: the market's time, and the progress of the backfill."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from tickerplant.core.errors import UnreadableRecord
from tickerplant.core.records import header_of
from tickerplant.core.schemas import PROGRESS_KEY, RAW, STATE_FEEDS
from tickerplant.core.times import MINUTE_US
from tickerplant.log.port import EventLog

OTHER_CLOCK_US: Final = 10 * MINUTE_US
"""Minimum difference between send time and append time of a feed with its own clock (a simulated market)."""
_NEWEST_OFFSETS: Final = 8  # read from each partition; the last offset of a Kafka transaction is a marker, not a record


def market_now(log: EventLog) -> int:
    """Return the market's time in µs. Blocks.

    The market's time is the machine's time, unless the feed of the newest record has its own clock (the sandbox). The
    market's time is then the send time of that record.
    """
    appended_us, sent_us = 0, 0
    for source, (first, end) in log.offsets(RAW).items():
        for record in log.read_range(source, max(first, end - _NEWEST_OFFSETS), end):
            try:
                header = header_of(record.value)
            except UnreadableRecord:
                continue
            if header.feed and record.appended_at_us >= appended_us:
                appended_us, sent_us = record.appended_at_us, header.sent_at_us
    return time.time_ns() // 1_000 if abs(sent_us - appended_us) < OTHER_CLOCK_US else sent_us


def backfill_progress(log: EventLog) -> dict[str, Any] | None:
    """Return the newest progress report of the backfill, or None if there is no readable report. Blocks."""
    for partition in range(log.partitions(STATE_FEEDS)):
        text = log.get_state(STATE_FEEDS, partition, PROGRESS_KEY)
        if text is not None:
            try:
                return msgspec.json.decode(text, type=dict[str, Any])
            except msgspec.MsgspecError:
                return None
    return None
