"""Bars for the tests of analytics: from files, random, or as records."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tests.support import data
from tickerplant.analytics.indicator.declaration import Indicator
from tickerplant.analytics.realtime.indicator_state import IndicatorState
from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.streams import ConsumedRecord
from tickerplant.core.times import MINUTE_US

T0 = 1_700_000_000 // 60 * MINUTE_US

FILES = {"real_days": data.real_days, "years": data.years, "new_york": data.new_york, "coin": data.round_the_clock}


@cache
def ohlcv(name: str) -> dict[str, np.ndarray]:
    """Return one column per indicator input for the bars of a file.

    A session is a date of the file. The vwap is the typical price.
    """
    path = FILES[name]()
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file:
        rows = [{key.lower(): value for key, value in row.items()} for row in csv.DictReader(file)]
    columns = {
        field: np.array([float(row[field]) for row in rows]) for field in ("open", "high", "low", "close", "volume")
    }
    days = {text[:10]: None for text in (next(iter(row.values())) for row in rows)}
    numbers = {day: float(number) for number, day in enumerate(days)}
    columns["session"] = np.array([numbers[next(iter(row.values()))[:10]] for row in rows])
    columns["vwap"] = (columns["high"] + columns["low"] + columns["close"]) / 3
    return columns


def closes(name: str) -> np.ndarray:
    return ohlcv(name)["close"]


def random_bars(bars: int, symbols: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Return random bars as float64[bars, symbols] per input. High and low enclose open and close."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (bars, symbols)), axis=0))
    open_ = np.concatenate([close[:1], close[:-1]]) * np.exp(rng.normal(0, 0.002, close.shape))
    high = np.maximum(open_, close) * (1 + rng.exponential(0.003, close.shape))
    low = np.minimum(open_, close) * (1 - rng.exponential(0.003, close.shape))
    return {
        "open": open_,
        "high": high,
        "low": low,
        "close": close,
        "volume": np.round(rng.exponential(1000, close.shape)),
        "vwap": (high + low + close) / 3,
        "session": np.repeat(np.arange(bars) // 13, symbols).reshape(bars, symbols).astype(float),
    }


def inputs_of(indicator: Indicator, bars: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    return tuple(bars[name] for name in indicator.INPUTS)


def streamed(indicator: Indicator, bars: Mapping[str, np.ndarray], *, sliced: bool = False) -> np.ndarray:
    """Return indicator values computed bar by bar for all symbols: float64[outputs, bars, symbols], NaN in the warm-up.

    Each input is float64[bars, symbols].
    """
    series = inputs_of(indicator, bars)
    count, symbols = series[0].shape
    state = IndicatorState(indicator, 64, symbols)
    rows = slice(0, symbols) if sliced else np.arange(symbols)
    made = []
    for bar in range(count):
        before = bar if sliced else np.full(symbols, bar)
        made.append(state.step(rows, before, tuple(values[bar] for values in series), keep=True))
    return np.array(made).transpose(1, 0, 2)


def batch(indicator: Indicator, bars: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return indicator values of one symbol: float64[outputs, bars], NaN in the warm-up.

    Each input is float64[bars].
    """
    return IndicatorState(indicator, 0, 1).run(0, 0, inputs_of(indicator, bars))


class Bar(NamedTuple):
    time: int
    symbol: str
    close: float | None
    state: str = "final"
    interval: str = "1m"
    version: int = 1


def bars(rows: Sequence[Bar]) -> pa.RecordBatch:
    def text(values: list[str], kind: pa.DataType) -> pa.Array:
        return pa.array(values, pa.utf8()).dictionary_encode().cast(kind)

    n = len(rows)
    price = pa.array([row.close for row in rows], pa.float64())
    arrays = [
        timestamps(np.array([row.time for row in rows], dtype=np.int64)),
        text([row.symbol for row in rows], schemas.TEXT),
        text([row.interval for row in rows], schemas.SMALL_TEXT),
        *[price] * 4,
        pa.array([1.0] * n),
        price,
        pa.array([1] * n, pa.int64()),
        text([row.state for row in rows], schemas.SMALL_TEXT),
        pa.array([True] * n),
        pa.array([False] * n),
        pa.array([0] * n, pa.int32()),
        pa.array([row.version for row in rows], pa.int64()),
        text([""] * n, schemas.SMALL_TEXT),
        text(["test"] * n, schemas.TEXT),
        timestamps(np.full(n, T0)),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schemas.BARS)


def consumed(header: records.Header, batch: pa.RecordBatch | None = None, offset: int = 0) -> ConsumedRecord:
    return ConsumedRecord(schemas.OHLCV, 0, offset, T0, records.encode(header, batch))


def consumed_bars(rows: Sequence[Bar], offset: int = 0, feed: str = "f") -> ConsumedRecord:
    return consumed(records.Bars(sent_at_us=T0, feed=feed, cause=offset + 1), bars(rows), offset)


class Table:
    """The newest row of each (symbol, interval, time), as persistence would store the outputs of a stage."""

    def __init__(self) -> None:
        self.closed: dict[tuple[str, str, int], dict[str, float | None]] = {}
        self.forming: dict[tuple[str, str, int], dict[str, float | None]] = {}
        self.versions: dict[tuple[str, str, int], int] = {}

    def apply(self, produced: Sequence[Any]) -> None:
        for output in produced:
            record = records.decode(output.value)
            if not isinstance(record.header, records.Values):
                continue
            for row in record.batch.to_pylist():
                key = (row.pop("symbol"), row.pop("interval"), int(row.pop("time").timestamp() * 1_000_000))
                state, version = row.pop("state"), row.pop("version")
                if state == "forming":
                    self.forming[key] = row
                    continue
                assert version >= self.versions.get(key, 0)
                self.versions[key] = version
                if state == "withdrawn":
                    assert not any(value is not None for value in row.values())
                    self.closed.pop(key, None)
                else:
                    self.closed[key] = row
