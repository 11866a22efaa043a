"""Topics, and the Arrow schemas of their records.

A record on the log is one Arrow IPC stream of one record batch; its schema metadata contains the header (see
`records`). This module lists the columns of each kind in their newest version. New columns are added at the end, with a
new version. Each version of each kind has a golden file in `tests/core/golden`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from tickerplant.core.arrow_values import TIMESTAMP
from tickerplant.core.times import DAY_US, SECOND_US

RAW: Final = "market.prices.raw"
OHLCV: Final = "market.prices.ohlcv"
ANALYTICS: Final = "market.analytics"
ALERTS: Final = "market.alerts"
STATUS: Final = "market.status"
DEADLETTER: Final = "market.deadletter"
STATE_FEEDS: Final = "market.state.feeds"
STATE_AGGREGATION: Final = "market.state.aggregation"
STATE_ANALYTICS: Final = "market.state.analytics"
SETTINGS_KEY: Final = "settings"
"""State key in partition 0 of `STATE_FEEDS`: the values of the newest `Settings` record, as JSON."""
PROGRESS_KEY: Final = "backfill:progress"
"""State key in partition 0 of `STATE_FEEDS`: the progress of the backfill, a JSON object."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """Properties of a topic. `retention_us` is None for a state topic, which retains the newest value of each key."""

    name: str
    retention_us: int | None

    @property
    def keyed(self) -> bool:
        """Return whether this is a state topic, which retains the newest value of each key, not a range of time."""
        return self.retention_us is None


TOPICS: Final = (
    TopicSpec(RAW, 5 * DAY_US),
    TopicSpec(OHLCV, 5 * DAY_US),
    TopicSpec(ANALYTICS, 5 * DAY_US),
    TopicSpec(ALERTS, 30 * DAY_US),
    TopicSpec(STATUS, 5 * DAY_US),
    TopicSpec(DEADLETTER, 30 * DAY_US),
    TopicSpec(STATE_FEEDS, None),
    TopicSpec(STATE_AGGREGATION, None),
    TopicSpec(STATE_ANALYTICS, None),
)
TOPIC: Final = {spec.name: spec for spec in TOPICS}

STALE_FEED_US: Final = 90 * SECOND_US
"""Log time without a record after which a live feed counts as down since its watermark.

This is at least twice the time between two marks of a live feed in a partition. That time is 1 s, or up to 45 s with a
clock faster than the machine's.
"""

FORMING, FINAL, WITHDRAWN = "forming", "final", "withdrawn"
STATES: Final = (FORMING, FINAL, WITHDRAWN)
"""States of a bar. Their indices are the int8 codes of the engines."""

TEXT: Final = pa.dictionary(pa.int32(), pa.utf8())
"""Type of repeated text (symbols, sources, intervals): a dictionary, so that readers compare integers."""
SMALL_TEXT: Final = pa.dictionary(pa.int8(), pa.utf8())

SYMBOLS: Final = pa.schema([pa.field("symbol", TEXT, nullable=False)])

TICKS: Final = pa.schema(
    [
        pa.field("time", TIMESTAMP, nullable=False),
        pa.field("symbol", TEXT, nullable=False),
        pa.field("price", pa.float64(), nullable=False),
        pa.field("size", pa.float64(), nullable=False),
        pa.field("source", TEXT, nullable=False),
        pa.field("trade_id", pa.utf8()),
        pa.field("flags", pa.uint16(), nullable=False),
        pa.field("received_at", TIMESTAMP, nullable=False),
    ]
)
"""Prints, one row each. A missing size is 0; a missing trade id is null."""

TICKS_OF_EXCHANGES: Final = TICKS.append(pa.field("exchange", TEXT))
"""`TICKS` with the exchange of each print, null if unknown. Several exchanges may give different trades the same id."""

VENDOR_BARS: Final = pa.schema(
    [
        pa.field("time", TIMESTAMP, nullable=False),
        pa.field("symbol", TEXT, nullable=False),
        pa.field("interval", SMALL_TEXT, nullable=False),
        pa.field("open", pa.float64(), nullable=False),
        pa.field("high", pa.float64(), nullable=False),
        pa.field("low", pa.float64(), nullable=False),
        pa.field("close", pa.float64(), nullable=False),
        pa.field("volume", pa.float64(), nullable=False),
        pa.field("vwap", pa.float64()),
        pa.field("trades", pa.int64()),
        pa.field("source", TEXT, nullable=False),
        pa.field("complete", pa.bool_(), nullable=False),
    ]
)
"""Closed bars of a vendor or a file. Prices are as traded: the vendor's adjustments have been reversed. `time` is the
start."""

SPLITS: Final = pa.schema(
    [
        pa.field("time", TIMESTAMP, nullable=False),
        pa.field("symbol", TEXT, nullable=False),
        pa.field("numerator", pa.float64(), nullable=False),
        pa.field("denominator", pa.float64(), nullable=False),
        pa.field("source", TEXT, nullable=False),
    ]
)
"""Splits. `time` is 00:00 UTC of the first session at the new price. 4-for-1 has numerator 4 and denominator 1."""

DIVIDENDS: Final = pa.schema(
    [
        pa.field("time", TIMESTAMP, nullable=False),
        pa.field("symbol", TEXT, nullable=False),
        pa.field("amount", pa.float64(), nullable=False),
        pa.field("currency", TEXT),
        pa.field("source", TEXT, nullable=False),
    ]
)
"""Dividends. `time` is 00:00 UTC of the ex-date. `amount` is per share, as paid."""

ANSWERED, NO_DATA, QUOTA, OUTAGE, NOT_OFFERED, DIFFERS = (
    "answered", "no_data", "quota", "outage", "not_offered", "differs",
)  # fmt: skip
"""Verdicts of a row of `ANSWERS` about its range:

- `answered`: the vendor returned its bars for the range; intervals without a bar had no trades,
- `no_data`: the vendor has no data for the range,
- `quota`: the vendor's quota was used up,
- `outage`: the vendor was unavailable,
- `not_offered`: the vendor does not offer the range (plan, symbol, look-back),
- `differs`: the vendor's bars were rejected because they differ from those of other vendors.
"""

ANSWERS: Final = pa.schema(
    [
        pa.field("symbol", TEXT, nullable=False),
        pa.field("interval", SMALL_TEXT, nullable=False),
        pa.field("from_time", TIMESTAMP, nullable=False),
        pa.field("to_time", TIMESTAMP, nullable=False),
        pa.field("source", TEXT, nullable=False),
        pa.field("verdict", SMALL_TEXT, nullable=False),
        pa.field("note", pa.utf8()),
        pa.field("again_at", TIMESTAMP),
    ]
)
"""A vendor's answers to requests for bars that start in `[from_time, to_time)`, without the bars.

`source` is "" if no vendor was left to ask. `again_at`: the time from which a new request may succeed; null for
`answered`, or if no request can succeed.
"""

BARS: Final = pa.schema(
    [
        pa.field("time", TIMESTAMP, nullable=False),
        pa.field("symbol", TEXT, nullable=False),
        pa.field("interval", SMALL_TEXT, nullable=False),
        pa.field("open", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("close", pa.float64()),
        pa.field("volume", pa.float64(), nullable=False),
        pa.field("vwap", pa.float64()),
        pa.field("trades", pa.int64()),
        pa.field("state", SMALL_TEXT, nullable=False),
        pa.field("complete", pa.bool_(), nullable=False),
        pa.field("history", pa.bool_(), nullable=False),
        pa.field("revision", pa.int32(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("reason", SMALL_TEXT, nullable=False),
        pa.field("source", TEXT, nullable=False),
        pa.field("published_at", TIMESTAMP, nullable=False),
    ]
)
"""Published bars, at most one row for each (symbol, interval, time) in a record.

Prices are null in a withdrawn bar, and in a bar whose prints may not set a price. `vwap` is null if there is no volume.
`trades` is null if the count is unknown. `revision` counts the closed states of the bar from 0.
"""

ANALYTICS_KEY: Final = pa.schema(
    [
        pa.field("time", TIMESTAMP, nullable=False),
        pa.field("symbol", TEXT, nullable=False),
        pa.field("interval", SMALL_TEXT, nullable=False),
        pa.field("state", SMALL_TEXT, nullable=False),
        pa.field("version", pa.int64(), nullable=False),
    ]
)
"""The first columns of indicator values. One nullable float64 column per indicator output follows (`rsi_14`).

The values of a `withdrawn` row are null; such a row deletes the values of its bar.
"""

ALERT: Final = pa.schema(
    [
        pa.field("alert_id", pa.utf8(), nullable=False),
        pa.field("rule_id", pa.utf8(), nullable=False),
        pa.field("rule_revision", pa.int32(), nullable=False),
        pa.field("time", TIMESTAMP, nullable=False),
        pa.field("symbol", TEXT, nullable=False),
        pa.field("interval", SMALL_TEXT, nullable=False),
        pa.field("rule", pa.utf8(), nullable=False),
        pa.field("left", pa.float64(), nullable=False),
        pa.field("right", pa.float64(), nullable=False),
        pa.field("state", SMALL_TEXT, nullable=False),
        pa.field("revised", pa.bool_(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
    ]
)
"""Fired alerts, one row per crossing.

`time` and `state` are those of the bar. `rule` is the condition as text. `left` and `right` are the values of its
operands. `revised`: a revision of the bar, or of an earlier bar, caused the crossing. A crossing has
the same `alert_id` in every log and every replay (`core.alerts`).
"""

COVERAGE: Final = pa.schema(
    [
        pa.field("symbol", TEXT, nullable=False),
        pa.field("emitted", pa.bool_(), nullable=False),
    ]
)
"""Rows of an `over` record: every symbol expected in the interval, and whether it has a bar."""

DIFFERENCES: Final = pa.schema(
    [
        pa.field("time", TIMESTAMP, nullable=False),
        pa.field("symbol", TEXT, nullable=False),
        pa.field("interval", SMALL_TEXT, nullable=False),
        pa.field("source", TEXT, nullable=False),
        pa.field("other_source", TEXT, nullable=False),
        *(pa.field(name, pa.float64()) for name in ("open", "high", "low", "close", "volume")),
        *(pa.field(f"other_{name}", pa.float64()) for name in ("open", "high", "low", "close", "volume")),
    ]
)
"""Bars with different values from two sources: the published bar, then the other source's bar. Both are complete."""

DEAD: Final = pa.schema(
    [
        pa.field("topic", pa.utf8(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("reason", pa.utf8(), nullable=False),
        pa.field("payload", pa.binary(), nullable=False),
    ]
)
"""Data that could not be decoded or applied, with its position in the log.

Data that was never appended to the log has offset −1 and the feed's name as topic.
"""

NOTHING: Final = pa.schema([])
"""The columns of a record without rows: none."""
