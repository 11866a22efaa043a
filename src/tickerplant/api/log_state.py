"""What the log says to everybody: the rules in force, the market's time, and how far the backfill has come."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from tickerplant.core.errors import ConfigError, UnreadableRecord
from tickerplant.core.records import header_of
from tickerplant.core.rules import Rules, rules_from
from tickerplant.core.schemas import PROGRESS_KEY, RAW, SETTINGS_KEY, STATE_FEEDS
from tickerplant.core.times import MINUTE_US
from tickerplant.log.port import EventLog

OTHER_CLOCK_US: Final = 10 * MINUTE_US
"""A feed whose records say another time than that at which they were appended, by this much, has a clock of its own."""
_LOOKED_AT: Final = 8  # records at the end of a partition: of a Kafka transaction the last offset is no record


def market_now(log: EventLog) -> int:
    """Return the market's time, µs: the machine's or, with feeds by a clock of their own (a sandbox's), how far that
    has come in the log. Blocks.
    """
    appended_us, sent_us = 0, 0
    for source, (first, end) in log.offsets(RAW).items():
        for delivery in log.read_range(source, max(first, end - _LOOKED_AT), end):
            try:
                header = header_of(delivery.value)
            except UnreadableRecord:
                continue
            if header.feed and delivery.appended_at_us >= appended_us:
                appended_us, sent_us = delivery.appended_at_us, header.sent_at_us
    return time.time_ns() // 1_000 if abs(sent_us - appended_us) < OTHER_CLOCK_US else sent_us


def rules_in_force(log: EventLog, otherwise: Rules) -> Rules:
    """Return the rules that the log was told last, or `otherwise` where there are none that can be read. Blocks."""
    text = log.get_state(STATE_FEEDS, 0, SETTINGS_KEY)
    try:
        return otherwise if text is None else rules_from(msgspec.json.decode(text, type=dict[str, Any]))
    except (ConfigError, msgspec.MsgspecError):
        return otherwise


def backfill_progress(log: EventLog) -> dict[str, Any] | None:
    """Return what the backfill has said last, or None. Blocks."""
    for partition in range(log.partitions(STATE_FEEDS)):
        text = log.get_state(STATE_FEEDS, partition, PROGRESS_KEY)
        if text is not None:
            try:
                return msgspec.json.decode(text, type=dict[str, Any])
            except msgspec.MsgspecError:
                return None
    return None
