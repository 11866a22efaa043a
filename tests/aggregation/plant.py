"""Helpers that build raw records, run the pure stage over them, decode its outputs, and compare bars."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import times_of, timestamps
from tickerplant.core.streams import ConsumedRecord, Output
from tickerplant.core.times import micros_of

SENT = micros_of(dt.datetime(2026, 1, 5, 14, 0, tzinfo=dt.UTC))


def at(text: str) -> int:
    """Return a UTC time such as '2025-11-28T14:30' in microseconds since 1970."""
    return micros_of(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


def consumed(value: Any, offset: int) -> ConsumedRecord:
    return ConsumedRecord(schemas.RAW, 0, offset, SENT, value)


def start(feed: str = "a", start_us: int = 0, symbols: Sequence[str] = (), **more: Any) -> bytes:
    column = pa.array(list(symbols), type=pa.utf8()).dictionary_encode()
    batch = pa.RecordBatch.from_arrays([column], schema=schemas.SYMBOLS)
    more.setdefault("sent_at_us", SENT)
    return records.encode(records.Start(feed=feed, from_us=start_us, **more), batch).to_pybytes()


def ticks(rows: Iterable[Sequence[Any]], watermark: int, feed: str = "a", source: str = "s", sent: int = SENT) -> bytes:
    """Return an encoded `ticks` record. Each row is (time in µs, symbol, price, size[, flags[, trade_id]])."""
    rows = list(rows)
    columns = [
        timestamps(np.array([row[0] for row in rows], dtype=np.int64)),
        pa.array([row[1] for row in rows], type=pa.utf8()).dictionary_encode(),
        pa.array([row[2] for row in rows], type=pa.float64()),
        pa.array([row[3] for row in rows], type=pa.float64()),
        pa.array([source] * len(rows), type=pa.utf8()).dictionary_encode(),
        pa.array([row[5] if len(row) > 5 else None for row in rows], type=pa.utf8()),
        pa.array([row[4] if len(row) > 4 else 0 for row in rows], type=pa.uint16()),
        timestamps(np.array([row[0] for row in rows], dtype=np.int64)),
    ]
    header = records.Ticks(feed=feed, sent_at_us=sent, watermark_us=watermark)
    return records.encode(header, pa.RecordBatch.from_arrays(columns, schema=schemas.TICKS)).to_pybytes()


def vendor(
    rows: Iterable[Sequence[Any]],
    watermark: int,
    feed: str = "v",
    source: str = "vendor",
    complete: bool = True,
    reason: str = "vendor",
) -> bytes:
    """Return an encoded `vendor_bars` record.

    Each row is (time in µs, symbol, interval, open, high, low, close, volume[, vwap, trades]).
    """
    made = [
        {
            "time": dt.datetime.fromtimestamp(0, tz=dt.UTC) + dt.timedelta(microseconds=row[0]),
            **dict(zip(("symbol", "interval", "open", "high", "low", "close", "volume"), row[1:8], strict=True)),
            "vwap": row[8] if len(row) > 8 else None,
            "trades": row[9] if len(row) > 9 else None,
            "source": source,
            "complete": complete,
        }
        for row in rows
    ]
    batch = pa.RecordBatch.from_pylist(made, schema=schemas.VENDOR_BARS)
    header = records.VendorBars(feed=feed, sent_at_us=SENT, watermark_us=watermark, reason=reason)
    return records.encode(header, batch).to_pybytes()


def mark(watermark: int, feed: str = "a", sent: int = SENT) -> bytes:
    return records.encode(records.Mark(feed=feed, sent_at_us=sent, watermark_us=watermark)).to_pybytes()


def down(since: int, feed: str = "a", sent: int = SENT) -> bytes:
    return records.encode(records.Down(feed=feed, sent_at_us=sent, since_us=since)).to_pybytes()


def end(feed: str = "a", whole: bool = True) -> bytes:
    return records.encode(records.End(feed=feed, sent_at_us=SENT, whole=whole)).to_pybytes()


def rebuild(symbols: Sequence[str], start_us: int, end_us: int, sent: int = SENT) -> bytes:
    column = pa.array(list(symbols), type=pa.utf8()).dictionary_encode()
    batch = pa.RecordBatch.from_arrays([column], schema=schemas.SYMBOLS)
    return records.encode(records.Rebuild(sent_at_us=sent, from_us=start_us, to_us=end_us), batch).to_pybytes()


def settings(**values: Any) -> bytes:
    return records.encode(records.Settings(sent_at_us=SENT, values=values)).to_pybytes()


def run(raw: Sequence[bytes], stage: AggregationStage | None = None, first: int = 0) -> list[list[Output]]:
    """Step a stage through the records `raw`, the first at offset `first`; return the outputs by record.

    The log of this run begins with `raw`: a correction cannot read older records.
    """
    stage = stage or AggregationStage(1)
    return continued(raw, stage, first, first)


def continued(raw: Sequence[bytes], stage: AggregationStage, first: int, raw_first: int = 0) -> list[list[Output]]:
    """Step the stage through the records of a log from offset `first` on; return the outputs by record.

    `raw` contains the records from offset `raw_first` on, which a correction can read.
    """
    log = [consumed(value, raw_first + index) for index, value in enumerate(raw)]

    def step(arrived: ConsumedRecord) -> list[Output]:
        def history(begin: int, end: int) -> Iterator[ConsumedRecord]:
            return (earlier for earlier in log if begin <= earlier.offset < min(end, arrived.offset))

        return stage.step(arrived, history)

    return [step(arrived) for arrived in log[first - raw_first :]]


def decoded(steps: Iterable[Iterable[Output]], topic: str = schemas.OHLCV) -> list[records.Record]:
    return [records.decode(out.value) for step in steps for out in step if out.topic == topic]


def bars(steps: Iterable[Iterable[Output]], state: str | None = None) -> list[dict[str, Any]]:
    """Return the published bars in order, only those of `state` unless it is None. Times are in microseconds."""
    found = []
    for record in decoded(steps):
        if isinstance(record.header, records.Bars):
            times = times_of(record.batch.column(0)).tolist()
            rows = record.batch.to_pylist()
            assert len({(row["symbol"], row["interval"], row["time"]) for row in rows}) == len(rows)
            for time, row in zip(times, rows, strict=True):
                row["time"] = time
            found += rows
    return [row for row in found if state is None or row["state"] == state]


def last(steps: Iterable[Iterable[Output]]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the last closed version of each bar that is not withdrawn, by (interval, symbol, time)."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for row in bars(steps):
        key = (row["interval"], row["symbol"], row["time"])
        if row["state"] == "final":
            found[key] = row
        elif row["state"] == "withdrawn":
            found.pop(key, None)
    return found


PRICES = ("open", "high", "low", "close", "trades", "complete", "source")


def same_bars(one: dict[Any, dict[str, Any]], other: dict[Any, dict[str, Any]]) -> None:
    """Assert that keys and the fields `PRICES` are equal, and volume and vwap to a relative error of 1e-12."""
    assert one.keys() == other.keys()
    for key, row in one.items():
        for name in PRICES:
            assert row[name] == other[key][name], (key, name)
        for name in ("volume", "vwap"):
            a, b = row[name], other[key][name]
            assert (a is None) == (b is None), (key, name)
            assert a is None or abs(a - b) <= 1e-12 * max(abs(a), abs(b)), (key, name, a, b)
