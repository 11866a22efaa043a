"""Topics and the Arrow schemas of what travels in them, by version.

A record on the log is one Arrow IPC stream of one record batch, whose schema metadata carries the record's header
(see `records`). The columns of each kind are listed here, newest version; a column is only ever added at the end, with
a new version, and `upgrade` fills it for records of older versions. Each version of each kind has a golden file in
`tests/core/golden`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from tickerplant.core.times import DAY_US, SECOND_US, TIMESTAMP

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
"""Under it, in partition 0 of `STATE_FEEDS`, stand the values of the newest `Settings` record, as JSON."""
PROGRESS_KEY: Final = "backfill:progress"
"""Under it, in some partition of `STATE_FEEDS`, the backfill says as a JSON object how far it has come."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic is made with. `retention_us` is None for a topic whose newest value by key is kept for ever."""

    name: str
    retention_us: int | None

    @property
    def keyed(self) -> bool:
        """Whether the topic keeps the newest value by key (a state topic) instead of a stretch of time."""
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
"""A live feed that has written nothing for this long of log time is taken as down since its watermark.

One and a half of the longest pause between marks that a living feed may make (one a minute outside the session).
"""

FORMING, FINAL, WITHDRAWN = "forming", "final", "withdrawn"
STATES: Final = (FORMING, FINAL, WITHDRAWN)
"""States of a bar; their positions are the int8 codes that the engines work with."""

TEXT: Final = pa.dictionary(pa.int32(), pa.utf8())
"""Text that repeats (symbols, sources, intervals): a dictionary, so that readers work on integers."""
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
"""One row a print. `size` 0 where the vendor gives none; `trade_id` null where there is none."""

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
"""Finished bars as a vendor or a file gave them, as traded (turned back from any adjustment), stamped at the start."""

SPLITS: Final = pa.schema(
    [
        pa.field("time", TIMESTAMP, nullable=False),
        pa.field("symbol", TEXT, nullable=False),
        pa.field("numerator", pa.float64(), nullable=False),
        pa.field("denominator", pa.float64(), nullable=False),
        pa.field("source", TEXT, nullable=False),
    ]
)
"""`time`: 00:00 UTC of the first session at the new price; 4-for-1 is numerator 4, denominator 1."""

DIVIDENDS: Final = pa.schema(
    [
        pa.field("time", TIMESTAMP, nullable=False),
        pa.field("symbol", TEXT, nullable=False),
        pa.field("amount", pa.float64(), nullable=False),
        pa.field("currency", TEXT),
        pa.field("source", TEXT, nullable=False),
    ]
)
"""`time`: 00:00 UTC of the ex-date; `amount` per share, as paid."""

ANSWERED, NO_DATA, QUOTA, OUTAGE, NOT_OFFERED, DIFFERS = (
    "answered", "no_data", "quota", "outage", "not_offered", "differs",
)  # fmt: skip
VERDICTS: Final = (ANSWERED, NO_DATA, QUOTA, OUTAGE, NOT_OFFERED, DIFFERS)
"""What a row of `ANSWERS` may say of its stretch: `answered` (what the vendor did not bring was not traded), `no_data`
(it has nothing there), or why it was not filled: the `quota` was spent, the vendor was out of reach (`outage`), it does
not offer it (plan, symbol, look-back), its bars were refused because they are not those of the others (`differs`)."""

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
"""What a vendor, asked for bars that start in `[from_time, to_time)`, has said, beyond the bars themselves.

`source` is "" where no vendor was left to ask. `again_at`: when asking again may help; null for never, or for answered.
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

Prices are null in a bar all of whose prints may not set a price, and in a withdrawn one. `vwap` is null without volume.
`trades` is null where the vendor gives none. `revision` counts from 0, over closed states only.
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
"""The first columns of indicator values; one nullable float64 column per indicator output follows (`rsi_14`).

A `withdrawn` row has nulls alone and deletes the values of its bar.
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
"""Alerts that fired, one row a crossing. `time` is the bar's, `state` whether it was forming or final, `rule` the
condition as text, `left` and `right` the values of its sides. `revised`: a revision of the bar, or of one before it,
showed the crossing. `alert_id` is the same however often, and in whatever log, a crossing is found (`core.alerts`).
"""

COVERAGE: Final = pa.schema(
    [
        pa.field("symbol", TEXT, nullable=False),
        pa.field("emitted", pa.bool_(), nullable=False),
    ]
)
"""Rows of an `over` record: every symbol that was expected in the interval, and whether it has a bar."""

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
"""Where two sources know a bar and do not say the same: the published bar, then the other one. Both are complete."""

DEAD: Final = pa.schema(
    [
        pa.field("topic", pa.utf8(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("reason", pa.utf8(), nullable=False),
        pa.field("payload", pa.binary(), nullable=False),
    ]
)
"""What could not be read: where it stood (offset −1 and the feed's name as topic where it never reached the log)."""

NOTHING: Final = pa.schema([])
"""The columns of a record that says all in its header."""
