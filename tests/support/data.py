"""Files for replays: simulated files from the sandbox's market, and real daily prices from a package.

No function reads a file outside the repository and its packages. A function writes its file at its first call in a
process, into a temporary folder that the process removes at its end. All files together take less than a second.
"""

from __future__ import annotations

import atexit
import datetime as dt
import gzip
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet

from tickerplant.core.times import DAY_US, MINUTE_US
from tickerplant.sandbox.model import MarketSettings, SimulatedMarket

SEED = 13
SESSION = dt.date(2012, 6, 21)
"""A Thursday of daylight-saving time: New York's regular session is 13:30 to 20:00 UTC."""
NEW_YORK = "America/New_York"
SILENT_MINUTES = (111, 112, 250)
"""Minutes of the session without a print, counted from the open."""
BAR_COLUMNS = "open,high,low,close,volume"

Bar = tuple[float, float, float, float, float]


@cache
def folder() -> Path:
    """Return the folder of this process's files."""
    path = Path(tempfile.mkdtemp(prefix="tickerplant-test-data-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@dataclass(frozen=True)
class Ticks:
    """A file of one symbol's ticks, and the number of its irregularities by kind."""

    path: Path
    symbol: str
    rows: int
    repeats: int
    """Number of rows that have the trade id of an earlier row."""
    late: int
    """Number of rows after a row of a later time, without repeats."""
    duplicates_without_id: int
    """Number of ticks without a trade id that equal the tick before them. Both ticks are stored."""

    @property
    def count(self) -> int:
        """Return the number of stored ticks."""
        return self.rows - self.repeats

    @cached_property
    def frame(self) -> pl.DataFrame:
        """Return the stored ticks (time, symbol, price, size, trade_id) as Polars reads them, in time order."""
        if self.path.suffix == ".parquet":
            read = pl.read_parquet(self.path).select(
                time=pl.col("timestamp").cast(pl.Datetime("us", "UTC")), symbol=pl.lit(self.symbol), price="price",
                size="quantity", trade_id=pl.col("trade_id").cast(str),
            )  # fmt: skip
        else:
            read = pl.read_csv(self.path, schema_overrides={"trade_id": str}).with_columns(
                pl.col("time").str.to_datetime(time_unit="us", time_zone="UTC"), pl.col("size").cast(float)
            )
        assert len(read) == self.rows
        first = pl.col("trade_id").is_null() | pl.col("trade_id").is_first_distinct()
        return read.filter(first).sort("time", maintain_order=True)


# --- ticks ------------------------------------------------------------------------------------------------------------


@cache
def session(minutes: int = 390) -> Ticks:
    """Return a session of GOOG in New York, or its first minutes, with the irregularities of real ticks.

    The file is a compressed CSV: time (UTC), symbol, price, size, trade_id. It has bursts within milliseconds, equal
    times, ticks that are equal in all columns, late prints, repeats after a reconnect, and minutes without a print.
    """
    lines, duplicates_without_id = _session()
    end = _iso(_us(SESSION, 13, 30) + minutes * MINUTE_US)
    lines = [line for line in lines if line < end]
    path = folder() / f"session-{minutes}.csv.gz"
    _write(path, "time,symbol,price,size,trade_id", lines)
    return _counted(path, "GOOG", lines, duplicates_without_id)


@cache
def _session() -> tuple[list[str], set[str]]:
    """Return the lines of the whole session, and the lines that occur twice without a trade id."""
    open_us = _us(SESSION, 13, 30)
    made = SimulatedMarket(MarketSettings(("GOOG",), 0.4, SEED, sessions="us")).trades(
        open_us, open_us + 390 * MINUTE_US
    )
    minute = (made.times_us - open_us) // MINUTE_US
    kept = ~np.isin(minute, SILENT_MINUTES)
    times, prices, sizes = made.times_us[kept], made.prices[kept], made.sizes[kept]
    random = np.random.default_rng(SEED)
    count = len(times)
    for begin in random.integers(0, count - 12, 60).tolist():
        times[begin : begin + 12] = np.minimum(times[begin : begin + 12], times[begin] + np.arange(12) * 250)
    for at in random.integers(0, count - 1, 150).tolist():
        times[at + 1] = times[at]
    ids = [str(1_000 + number) if number % 10 else "" for number in range(count)]
    duplicates_without_id = np.unique(random.integers(0, (count - 1) // 10, 40) * 10).tolist()
    for at in duplicates_without_id:
        times[at + 1], prices[at + 1], sizes[at + 1], ids[at + 1] = times[at], prices[at], sizes[at], ""
    times = np.maximum.accumulate(times)  # restores the time order
    rows = [
        f"{_iso(time)},GOOG,{price:.4f},{size},{trade_id}"
        for time, price, size, trade_id in zip(times.tolist(), prices.tolist(), sizes.tolist(), ids, strict=True)
    ]
    places = np.arange(count, dtype=float)
    places[random.choice(count, 40, replace=False)] += random.integers(3, 40, 40) + 0.5
    order = np.argsort(places, kind="stable").tolist()
    lines = [rows[at] for at in order]
    for begin in (5_000, 3_000, 100):
        lines[begin + 30 : begin + 30] = [line for line in lines[begin : begin + 10] if not line.endswith(",")]
    return lines, {rows[at + 1] for at in duplicates_without_id}


def _counted(path: Path, symbol: str, lines: list[str], duplicates_without_id: set[str]) -> Ticks:
    """Count the irregularities in the lines. A line begins with an ISO time and ends with a trade id."""
    seen: set[str] = set()
    repeats = late = 0
    newest = ""
    for line in lines:
        time, trade_id = line[:27], line.rpartition(",")[2]
        if trade_id and trade_id in seen:
            repeats += 1
            continue
        seen.add(trade_id)
        late += time < newest
        newest = max(newest, time)
    return Ticks(path, symbol, len(lines), repeats, late, sum(line in duplicates_without_id for line in lines) // 2)


@cache
def trades() -> Ticks:
    """Return trades of a coin as an exchange exports them: Parquet, times in milliseconds, 25 rows repeated.

    The columns are timestamp, trade_id, price, quantity and buyer_maker. The symbol is not in the file.
    """
    begin = _us(dt.date(2021, 1, 8), 0)
    made = SimulatedMarket(MarketSettings(("BTC/USD",), 0.9, SEED)).trades(begin, begin + 36 * MINUTE_US)
    random = np.random.default_rng(SEED)
    count = len(made.prices)
    again = np.sort(random.choice(count - 20, 25, replace=False))
    order = np.argsort(np.concatenate([np.arange(count), again + 10.5]), kind="stable")
    number = np.concatenate([np.arange(count), again])[order]
    quantity = np.round(made.sizes * random.uniform(0.001, 0.02, count), 6)
    table = pa.table(
        {
            "timestamp": pa.array(made.times_us[number] // 1_000).cast(pa.timestamp("ms", "UTC")),
            "trade_id": pa.array(500_000_000 + number),
            "price": pa.array(made.prices[number]),
            "quantity": pa.array(quantity[number]),
            "buyer_maker": pa.array((random.random(count) < 0.5)[number]),
        }
    )
    path = folder() / "trades.parquet"
    pyarrow.parquet.write_table(table, path)
    return Ticks(path, "BTCUSDT", len(number), len(again), 0, 0)


# --- bars -------------------------------------------------------------------------------------------------------------


@cache
def round_the_clock(days: int = 5) -> Path:
    """Return a file of 1m bars of a coin over the turn of a year, without a gap. Times are in UTC.

    Volumes have four decimals.
    """
    begin = _us(dt.date(2021, 12, 31), 23, 1)
    bars = SimulatedMarket(MarketSettings(("BTC/USD",), 0.9, SEED)).bars(
        "BTC/USD", begin, _us(dt.date(2022, 1, 1) + dt.timedelta(days), 0), MINUTE_US
    )
    lines = [
        f"{_utc(time):%Y-%m-%d %H:%M:%S.%f},{open_},{high},{low},{close},{volume * close / 7:.4f}"
        for time, (open_, high, low, close, volume) in _rows(bars)
    ]
    return _write(folder() / f"round_the_clock_{days}.csv.gz", f"timestamp,{BAR_COLUMNS}", lines)


@cache
def new_york() -> Path:
    """Return a file of 1m bars of four New York sessions around the end of daylight-saving time, in local time.

    The file begins with a byte-order mark. Bars are stamped at their start. The bar at 16:00 contains the closing
    auction.
    """
    lines = []
    market = SimulatedMarket(MarketSettings(("SPY",), 2.0, SEED, sessions="us"))
    for date in (dt.date(2020, 10, 29), dt.date(2020, 10, 30), dt.date(2020, 11, 2), dt.date(2020, 11, 3)):
        for time, (open_, high, low, close, volume) in _rows(
            market.bars("SPY", _us(date, 0), _us(date, 24), MINUTE_US)
        ):
            local = _utc(time).astimezone(ZoneInfo(NEW_YORK))
            lines.append(f"{local:%Y-%m-%d %H:%M},{open_},{high},{low},{close},{volume}")
        lines.append(f"{date} 16:00,{close},{close},{close},{close},{40 * volume}")
    return _write(folder() / "new_york.csv", f"\ufeffdate,{BAR_COLUMNS}", lines)


@cache
def years() -> Path:
    """Return a file of daily bars of 1990 to 2003 in a vendor's format: a byte-order mark, dates as month/day/year.

    Prices are adjusted for splits, so that they begin below a dollar. The first three years have no volume.
    """
    lines = []
    rows = _rows(
        SimulatedMarket(MarketSettings(("SPY",), 2.0, SEED, sessions="us")).bars(
            "SPY", _us(dt.date(1990, 1, 1), 0), _us(dt.date(2004, 1, 1), 0), DAY_US
        )
    )
    for (time, (*prices, volume)), growth in zip(rows, np.geomspace(0.001, 0.3, len(rows)).tolist(), strict=True):
        date = _utc(time)
        open_, high, low, close = (f"{price * growth:.3f}" for price in prices)
        known = volume if date.year >= 1993 else 0
        lines.append(f"{date.month}/{date.day}/{date.year},{open_},{high},{low},{close},{known}")
    return _write(folder() / "years.csv", f"\ufeffdate,{BAR_COLUMNS}", lines)


@dataclass(frozen=True)
class Days:
    """Real daily prices of a stock as traded, 2000-03-01 to 2013-03-01."""

    dates: list[str]
    bars: list[Bar]
    adjusted: list[float]
    """The vendor's close, adjusted for splits and dividends."""


@cache
def real(symbol: str = "MSFT") -> Days:
    """Return the prices of AAPL, GOOG, IBM or MSFT from `bokeh_sampledata`."""
    from bokeh_sampledata import stocks  # the import reads a file

    have = getattr(stocks, symbol)
    columns = [[float(value) for value in have[name]] for name in BAR_COLUMNS.split(",")]
    return Days(list(have["date"]), list(zip(*columns, strict=True)), list(have["adj_close"]))


@cache
def real_days(symbol: str = "MSFT") -> Path:
    """Return a file of real daily prices with ISO dates."""
    days = real(symbol)
    lines = [f"{date},{','.join(map(repr, bar))}" for date, bar in zip(days.dates, days.bars, strict=True)]
    return _write(folder() / f"{symbol.lower()}.csv", f"date,{BAR_COLUMNS}", lines)


def read_bars(path: Path, form: str, zone: str = "UTC") -> pl.DataFrame:
    """Return a file's bars (time in UTC, open … volume) as Polars reads them; `form` is the format of the times."""
    read = pl.read_csv(path, infer_schema=False)
    time = pl.col(read.columns[0]).str.to_datetime(form, time_unit="us")
    time = time.dt.replace_time_zone(zone).dt.convert_time_zone("UTC").alias("time")
    return read.select(time, *(pl.col(name).cast(float) for name in BAR_COLUMNS.split(",")))


# --- parts ------------------------------------------------------------------------------------------------------------


def _rows(bars: object) -> Sequence[tuple[int, tuple[float, float, float, float, int]]]:
    names = ("starts_us", "open", "high", "low", "close", "volume")
    columns = [getattr(bars, name).tolist() for name in names]
    return [(row[0], row[1:]) for row in zip(*columns, strict=True)]


def _write(path: Path, header: str, lines: Iterable[str]) -> Path:
    text = "".join(f"{line}\n" for line in (header, *lines)).encode()
    path.write_bytes(gzip.compress(text, 1, mtime=0) if path.suffix == ".gz" else text)
    return path


def _us(date: dt.date, hour: int, minute: int = 0) -> int:
    return int(dt.datetime(date.year, date.month, date.day, tzinfo=dt.UTC).timestamp()) * 1_000_000 + (
        (60 * hour + minute) * MINUTE_US
    )


def _utc(time_us: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(time_us // 1_000_000, dt.UTC) + dt.timedelta(microseconds=time_us % 1_000_000)


def _iso(time_us: int) -> str:
    return f"{_utc(time_us):%Y-%m-%dT%H:%M:%S.%f}Z"
