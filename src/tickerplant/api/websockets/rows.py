"""Records of the log as columns that can be filtered by symbol and turned into rows for JSON.

`digest` runs in the tail's thread, once per record; what it returns is shared by all clients and never changed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.core import records, schemas
from tickerplant.core.errors import UnreadableRecord
from tickerplant.core.flags import TickFlag
from tickerplant.core.times import Int64Array, times_of
from tickerplant.log.port import ConsumedRecord, TopicPartition

TICKS, BARS, ANALYTICS, STATUS, ALERTS = "ticks", "bars", "analytics", "status", "alerts"
KINDS: Final = (TICKS, BARS, ANALYTICS, STATUS, ALERTS)
"""What a record can be to a subscriber: the names of the channels."""

TOPIC_OF: Final = {
    TICKS: schemas.RAW,
    BARS: schemas.OHLCV,
    ANALYTICS: schemas.ANALYTICS,
    STATUS: schemas.STATUS,
    ALERTS: schemas.ALERTS,
}
TOPICS: Final = tuple(TOPIC_OF.values())
_STORED: Final = {"time_us": "time", "received_us": "received_at"}
"""Columns whose name on the wire says their unit."""

NOT_LAST: Final = int(TickFlag.CANCEL | TickFlag.NO_OHLC)
"""Flags of ticks that are never a symbol's last one."""
TICK_COLUMNS: Final = ("time_us", "symbol", "price", "size", "source", "trade_id", "flags", "received_us")
BAR_COLUMNS: Final = (
    "time_us", "symbol", "interval", "open", "high", "low", "close", "volume", "vwap", "trades",
    "state", "complete", "revision", "version", "reason", "source",
)  # fmt: skip
ALERT_COLUMNS: Final = ("time_us", *(name for name in schemas.ALERT.names if name != "time"))
VALUE_KEY: Final = ("time_us", "symbol", "interval", "state", "version")

SMALL_ROWS: Final = 256
MAX_DICTIONARIES: Final = 4_096
MAX_SILENT_NAMES = 100
"""How many silent symbols, or bars that differ, a status event names; the count is always exact."""

Array = npt.NDArray[Any]


@dataclass(slots=True)
class Part:
    """One record of the log. `kind` is "" for a record that no subscriber sees: it only moves the position.

    `columns` are NumPy arrays by name (text as objects, null numbers as NaN), `names` their order on the wire,
    `symbols` the dictionary that `codes` index, `event` a status event instead of columns. `trade_ids` stay in Arrow
    until somebody wants them, because each becomes a Python object.
    """

    source: TopicPartition
    offset: int
    size_bytes: int
    appended_at_us: int
    kind: str = ""
    names: tuple[str, ...] = ()
    columns: dict[str, Array] = field(default_factory=dict)
    symbols: list[str] = field(default_factory=list)
    codes: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    trade_ids: Any = None
    event: dict[str, Any] | None = None
    unreadable: bool = False
    _tuples: list[tuple[Any, ...]] | None = None

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def forming(self) -> npt.NDArray[np.bool_]:
        """Which rows are of forming bars."""
        mask: npt.NDArray[np.bool_] = self.columns["state"] == schemas.FORMING
        return mask

    def rows(self, mask: npt.NDArray[np.bool_] | None) -> list[tuple[Any, ...]]:
        """Return the rows where `mask` is true (all for None), as tuples in the order of `names`.

        A small part is turned into tuples once, for all who want some of it, until `forget`.
        """
        if len(self) > SMALL_ROWS:
            return list(zip(*(self._list(name, mask) for name in self.names), strict=True))
        if self._tuples is None:
            self._tuples = list(zip(*(self._list(name, None) for name in self.names), strict=True))
        return self._tuples if mask is None else [self._tuples[row] for row in np.flatnonzero(mask).tolist()]

    def forget(self) -> None:
        """Let go of the tuples, which are many times the columns' size."""
        self._tuples = None

    def _list(self, name: str, mask: npt.NDArray[np.bool_] | None) -> list[Any]:
        if name == "trade_id" and self.trade_ids is not None:
            chosen = self.trade_ids if mask is None else self.trade_ids.filter(pa.array(mask))
            values: list[Any] = chosen.to_pylist()
            return values
        column = self.columns[name]
        return plain(name, column if mask is None else column[mask])


def plain(name: str, column: Array) -> list[Any]:
    """Return a column as a list for JSON."""
    values: list[Any] = column.tolist()
    if name == "trades":  # kept as float64 so that null can be NaN
        return [None if value != value else int(value) for value in values]
    return values


class Words:
    """The dictionaries of text columns. A feed's records carry the same one again and again, with all its symbols in
    it: its words become Python objects once. Belongs to one thread.
    """

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[Any, list[str], Array]] = {}

    def of(self, key: Hashable, column: Any) -> tuple[list[str], Array, npt.NDArray[np.int64]]:
        """Return (words, the same as objects and None behind them, codes) of a text column without nulls.

        The list of words is the same object as before when the last dictionary with this key was equal.
        """
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        dictionary = column.dictionary
        seen = self._seen.get(key)
        if seen is None or not seen[0].equals(dictionary):
            if len(self._seen) >= MAX_DICTIONARIES:
                self._seen.clear()
            words = dictionary.to_pylist()
            # Its memory is the record's: a copy is kept, not the whole record.
            kept = dictionary.take(pa.array(np.arange(len(words))))
            seen = self._seen[key] = (kept, words, np.array([*words, None], dtype=object))
        codes = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return seen[1], seen[2], codes


def column_array(column: Any, words: Words, key: Hashable = None) -> Array:
    """Return an Arrow column as NumPy: numbers with NaN for null, booleans, times as int64 µs, text as objects."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if pa.types.is_timestamp(kind):
        return times_of(column)
    if pa.types.is_dictionary(kind):
        _, objects, codes = words.of(key, column)
        result: Array = objects[codes]
        return result
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if column.null_count == len(column):
            return np.full(len(column), None, dtype=object)
        return np.array([*column.to_pylist(), None], dtype=object)[:-1]
    if column.null_count:
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    return np.asarray(column.to_numpy(zero_copy_only=False))


def columns_of(table: Any, names: Sequence[str], words: Words, key: Hashable = None) -> dict[str, Array]:
    """Return these columns of an Arrow table or batch as NumPy; `time_us` is the column `time`, missing ones null.

    `key` names where the table comes from, for its dictionaries.
    """
    found: dict[str, Array] = {}
    have = set(table.schema.names)
    for name in names:
        stored = _STORED.get(name, name)
        if stored in have:
            found[name] = column_array(table.column(stored), words, (key, stored))
        else:
            found[name] = np.full(table.num_rows, None, dtype=object)
    if "trades" in found:
        found["trades"] = found["trades"].astype(np.float64)
    return found


def digest(delivery: ConsumedRecord, words: Words) -> Part:
    """Return the record as a Part. An unreadable record becomes one without a kind: it is counted and passed over."""
    part = Part(delivery.source, delivery.offset, len(delivery.value), delivery.appended_at_us)
    try:
        record = records.decode(delivery.value)
    except UnreadableRecord:
        part.unreadable = True
        return part
    header, batch = record.header, record.batch
    match header:
        case records.Ticks():
            _fill(part, TICKS, TICK_COLUMNS, batch, words, header.feed)
        case records.Bars():
            _fill(part, BARS, BAR_COLUMNS, batch, words, header.feed)
        case records.Values():
            names = VALUE_KEY + tuple(batch.schema.names[len(VALUE_KEY) :])
            _fill(part, ANALYTICS, names, batch, words, header.feed)
        case records.Alerts():
            _fill(part, ALERTS, ALERT_COLUMNS, batch, words, header.feed)
        case records.Over():
            part.kind, part.event = STATUS, _over(delivery.partition, header, batch)
        case records.FeedState():
            part.kind, part.event = STATUS, {
                "event": "feed", "feed": header.feed, "partition": delivery.partition, "state": header.state,
                "since_us": header.since_us, "reason": header.reason, "count": header.count,
                "at_us": header.sent_at_us,
            }  # fmt: skip
        case records.Differences():
            part.kind, part.event = STATUS, _differences(delivery.partition, header, batch)
        case _:
            pass
    return part


def _fill(part: Part, kind: str, names: tuple[str, ...], batch: Any, words: Words, feed: str) -> None:
    if batch.num_rows == 0:
        return
    key = (part.source, feed)
    part.kind, part.names = kind, names
    part.symbols, objects, part.codes = words.of((key, "symbol"), batch.column("symbol"))
    if kind == TICKS:
        part.trade_ids = batch.column("trade_id")
        names = tuple(name for name in names if name not in ("symbol", "trade_id"))
    else:
        names = tuple(name for name in names if name != "symbol")
    part.columns = {"symbol": objects[part.codes], **columns_of(batch, names, words, key)}


def _over(partition: int, header: records.Over, batch: Any) -> dict[str, Any]:
    emitted = batch.column("emitted").to_numpy(zero_copy_only=False)
    silent = batch.filter(pa.array(~emitted)).column("symbol").to_pylist() if not emitted.all() else []
    return {
        "event": "over", "feed": header.feed, "partition": partition, "interval": header.interval,
        "start_us": header.start_us, "expected": header.expected, "emitted": header.emitted,
        "silent_count": len(silent), "silent": silent[:MAX_SILENT_NAMES], "at_us": header.sent_at_us,
    }  # fmt: skip


def _differences(partition: int, header: records.Differences, batch: Any) -> dict[str, Any]:
    bars = batch.slice(0, MAX_SILENT_NAMES)
    rows = [
        {"time_us": time_us, **{name: value for name, value in row.items() if name != "time"}}
        for time_us, row in zip(times_of(bars.column("time")).tolist(), bars.to_pylist(), strict=True)
    ]
    return {
        "event": "differences", "feed": header.feed, "partition": partition, "count": batch.num_rows, "bars": rows,
        "at_us": header.sent_at_us,
    }  # fmt: skip


def ascending(times: Int64Array) -> npt.NDArray[np.int64] | None:
    """Return the order that sorts times ascending and keeps equal ones as they are; None when they are sorted."""
    if len(times) < 2 or bool((times[1:] >= times[:-1]).all()):
        return None
    return np.argsort(times, kind="stable")
