"""Log records as columns that can be filtered by symbol and converted to rows for JSON.

The tail's thread calls `decode_record` once per record. All clients share its result. Records for a client
that resumes from an older position are decoded separately.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import times_of
from tickerplant.core.errors import UnreadableRecord
from tickerplant.core.flags import TickFlag
from tickerplant.core.times import Int64Array
from tickerplant.log.port import ConsumedRecord, TopicPartition

TICKS, BARS, ANALYTICS, STATUS, ALERTS = "ticks", "bars", "analytics", "status", "alerts"
KINDS: Final = (TICKS, BARS, ANALYTICS, STATUS, ALERTS)
"""Kinds of records for subscribers: the names of the channels."""

TOPIC_OF: Final = {
    TICKS: schemas.RAW,
    BARS: schemas.OHLCV,
    ANALYTICS: schemas.ANALYTICS,
    STATUS: schemas.STATUS,
    ALERTS: schemas.ALERTS,
}
TOPICS: Final = tuple(TOPIC_OF.values())
_STORED: Final = {"time_us": "time", "received_us": "received_at"}
"""Column names of the store, by the name on the wire, which contains the unit."""

NOT_LAST: Final = int(TickFlag.CANCEL | TickFlag.NO_OHLC)
"""Flags of ticks that never set a symbol's last price."""
TICK_COLUMNS: Final = ("time_us", "symbol", "price", "size", "source", "trade_id", "flags", "received_us")
BAR_COLUMNS: Final = (
    "time_us", "symbol", "interval", "open", "high", "low", "close", "volume", "vwap", "trades",
    "state", "complete", "revision", "version", "reason", "source",
)  # fmt: skip
ALERT_COLUMNS: Final = ("time_us", *(name for name in schemas.ALERT.names if name != "time"))
VALUE_KEY: Final = ("time_us", "symbol", "interval", "state", "version")

SMALL_ROWS: Final = 256
"""Maximum rows of a record whose tuples are kept for the other clients."""
MAX_DICTIONARIES: Final = 4_096
"""Maximum dictionaries kept by `DictionaryCache`; it is cleared when full."""
MAX_LISTED: Final = 100
"""Maximum silent symbols, or differing bars, that a status event lists. The count is always exact."""

Array = npt.NDArray[Any]


@dataclass(slots=True)
class StreamRecord:
    """One log record. `kind` is "" if no subscriber receives it; such a record only advances the position.

    - `columns`: NumPy arrays by name. Text is an object array, a null number is NaN.
    - `names`: the order of the columns on the wire.
    - `symbols`: the dictionary that `codes` index.
    - `event`: a status event, which has no columns.
    - `trade_ids`: an Arrow array. Only the ids of rows that a client receives become Python objects.
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
        """Return a mask of the rows of forming bars."""
        mask: npt.NDArray[np.bool_] = self.columns["state"] == schemas.FORMING
        return mask

    def rows(self, mask: npt.NDArray[np.bool_] | None) -> list[tuple[Any, ...]]:
        """Return the rows where `mask` is true, or all rows if it is None, as tuples in the order of `names`.

        The tuples of a small record are built once and kept for the other clients, until `release_tuples`.
        """
        if len(self) > SMALL_ROWS:
            return list(zip(*(self._list(name, mask) for name in self.names), strict=True))
        if self._tuples is None:
            self._tuples = list(zip(*(self._list(name, None) for name in self.names), strict=True))
        return self._tuples if mask is None else [self._tuples[row] for row in np.flatnonzero(mask).tolist()]

    def release_tuples(self) -> None:
        """Free the tuples, which are many times as large as the columns."""
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
    if name == "trades":  # float64, so that NaN can represent null
        return [None if value != value else int(value) for value in values]
    return values


class DictionaryCache:
    """Python objects of the dictionaries of text columns. Belongs to one thread.

    The records of a feed repeat one dictionary with all its symbols. The texts of this dictionary become
    Python objects only once.
    """

    def __init__(self) -> None:
        self._cached: dict[Hashable, tuple[Any, list[str], Array]] = {}

    def encode(self, key: Hashable, column: Any) -> tuple[list[str], Array, npt.NDArray[np.int64]]:
        """Return (texts, the texts as an object array with None appended, codes) of a text column without nulls.

        The list of texts is the same object as before if the last dictionary with this key was equal.
        """
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        dictionary = column.dictionary
        cached = self._cached.get(key)
        if cached is None or not cached[0].equals(dictionary):
            if len(self._cached) >= MAX_DICTIONARIES:
                self._cached.clear()
            texts = dictionary.to_pylist()
            # A copy, because the dictionary shares the memory of the entire record.
            copy = dictionary.take(pa.array(np.arange(len(texts))))
            cached = self._cached[key] = (copy, texts, np.array([*texts, None], dtype=object))
        codes = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return cached[1], cached[2], codes


def column_array(column: Any, dictionaries: DictionaryCache, key: Hashable = None) -> Array:
    """Return an Arrow column as NumPy: numbers with NaN for null, booleans, times as int64 µs, text as objects."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if pa.types.is_timestamp(kind):
        return times_of(column)
    if pa.types.is_dictionary(kind):
        _, objects, codes = dictionaries.encode(key, column)
        result: Array = objects[codes]
        return result
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if column.null_count == len(column):
            return np.full(len(column), None, dtype=object)
        return np.array([*column.to_pylist(), None], dtype=object)[:-1]
    if column.null_count:
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    return np.asarray(column.to_numpy(zero_copy_only=False))


def columns_of(
    table: Any, names: Sequence[str], dictionaries: DictionaryCache, key: Hashable = None
) -> dict[str, Array]:
    """Return these columns of an Arrow table or batch as NumPy. `_STORED` maps names on the wire to stored names.

    A missing column is null. `key` identifies the origin of the table for the dictionary cache.
    """
    found: dict[str, Array] = {}
    stored_names = set(table.schema.names)
    for name in names:
        stored = _STORED.get(name, name)
        if stored in stored_names:
            found[name] = column_array(table.column(stored), dictionaries, (key, stored))
        else:
            found[name] = np.full(table.num_rows, None, dtype=object)
    if "trades" in found:
        found["trades"] = found["trades"].astype(np.float64)
    return found


def decode_record(consumed: ConsumedRecord, dictionaries: DictionaryCache) -> StreamRecord:
    """Return a log record decoded for the stream. An unreadable record has no kind and is only counted."""
    made = StreamRecord(consumed.source, consumed.offset, len(consumed.value), consumed.appended_at_us)
    try:
        record = records.decode(consumed.value)
    except UnreadableRecord:
        made.unreadable = True
        return made
    header, batch = record.header, record.batch
    match header:
        case records.Ticks():
            _fill(made, TICKS, TICK_COLUMNS, batch, dictionaries, header.feed)
        case records.Bars():
            _fill(made, BARS, BAR_COLUMNS, batch, dictionaries, header.feed)
        case records.Values():
            names = VALUE_KEY + tuple(batch.schema.names[len(VALUE_KEY) :])
            _fill(made, ANALYTICS, names, batch, dictionaries, header.feed)
        case records.Alerts():
            _fill(made, ALERTS, ALERT_COLUMNS, batch, dictionaries, header.feed)
        case records.Over():
            made.kind, made.event = STATUS, _over(consumed.partition, header, batch)
        case records.FeedState():
            made.kind, made.event = STATUS, {
                "event": "feed", "feed": header.feed, "partition": consumed.partition, "state": header.state,
                "since_us": header.since_us, "reason": header.reason, "count": header.count,
                "at_us": header.sent_at_us,
            }  # fmt: skip
        case records.Differences():
            made.kind, made.event = STATUS, _differences(consumed.partition, header, batch)
        case _:
            pass
    return made


def _fill(
    made: StreamRecord, kind: str, names: tuple[str, ...], batch: Any, dictionaries: DictionaryCache, feed: str
) -> None:
    if batch.num_rows == 0:
        return
    key = (made.source, feed)
    made.kind, made.names = kind, names
    made.symbols, objects, made.codes = dictionaries.encode((key, "symbol"), batch.column("symbol"))
    if kind == TICKS:
        made.trade_ids = batch.column("trade_id")
        names = tuple(name for name in names if name not in ("symbol", "trade_id"))
    else:
        names = tuple(name for name in names if name != "symbol")
    made.columns = {"symbol": objects[made.codes], **columns_of(batch, names, dictionaries, key)}


def _over(partition: int, header: records.Over, batch: Any) -> dict[str, Any]:
    emitted = batch.column("emitted").to_numpy(zero_copy_only=False)
    silent = batch.filter(pa.array(~emitted)).column("symbol").to_pylist() if not emitted.all() else []
    return {
        "event": "over", "feed": header.feed, "partition": partition, "interval": header.interval,
        "start_us": header.start_us, "expected": header.expected, "emitted": header.emitted,
        "silent_count": len(silent), "silent": silent[:MAX_LISTED], "at_us": header.sent_at_us,
    }  # fmt: skip


def _differences(partition: int, header: records.Differences, batch: Any) -> dict[str, Any]:
    bars = batch.slice(0, MAX_LISTED)
    rows = [
        {"time_us": time_us, **{name: value for name, value in row.items() if name != "time"}}
        for time_us, row in zip(times_of(bars.column("time")).tolist(), bars.to_pylist(), strict=True)
    ]
    return {
        "event": "differences", "feed": header.feed, "partition": partition, "count": batch.num_rows, "bars": rows,
        "at_us": header.sent_at_us,
    }  # fmt: skip


def ascending(times: Int64Array) -> npt.NDArray[np.int64] | None:
    """Return the indices that sort times ascending; equal times keep their order. None if already sorted."""
    if len(times) < 2 or bool((times[1:] >= times[:-1]).all()):
        return None
    return np.argsort(times, kind="stable")
