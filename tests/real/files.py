"""A user's file: the options that its replay needs, its raw records, and its content as DuckDB reads it."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import exchange_calendars
import pandas as pd
import pyarrow as pa

from tests.market_data.support import embedded
from tickerplant.core import records, schemas
from tickerplant.core.errors import BadInput
from tickerplant.core.rules import Rules
from tickerplant.log.port import EventLog
from tickerplant.market_data.files.layout import FileLayout, detect_layout
from tickerplant.market_data.files.open_file import open_file
from tickerplant.market_data.files.replay import ReplayOptions, ReplaySummary, replay

US = "epoch_us(time)"


@dataclass(frozen=True)
class Replayed:
    """A file after its replay."""

    path: Path
    options: ReplayOptions
    summary: ReplaySummary
    again: ReplaySummary
    raw: list[bytes]
    """Raw records of the only partition, in order."""

    @cached_property
    def layout(self) -> FileLayout:
        file = open_file(self.path)
        return detect_layout(file.header, line=file.header_number)

    @cached_property
    def rows(self) -> pa.Table:
        """Return the stored ticks or bars in their order, with their number `n`."""
        kind = records.Ticks if self.summary.kind == "ticks" else records.VendorBars
        batches = [record.batch for record in map(records.decode, self.raw) if isinstance(record.header, kind)]
        table = pa.Table.from_batches(batches)
        return table.append_column("n", pa.array(range(len(table))))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return DuckDB's result; its tables are `rows` (stored rows) and `sessions` (New York's regular sessions)."""
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("stored", self.rows)
            names = [name for name in ("symbol", "interval") if name in self.rows.schema.names]
            texts = ", ".join(f"{name}::VARCHAR AS {name}" for name in names)
            connection.execute(f"CREATE VIEW rows AS SELECT * REPLACE ({texts}) FROM stored")
            if "sessions" in sql:
                connection.register("sessions", sessions(self.summary.start_us, self.summary.end_us))
            return connection.execute(sql).fetchall()

    def numbers_of(self, name: str) -> list[float]:
        """Return the file's column of the role `name`, such as `price`, as DuckDB reads it, sorted."""
        column = self.layout.columns[name]
        with duckdb.connect() as connection:
            if self.path.suffix == ".parquet":
                source = connection.read_parquet(str(self.path))
            else:
                source = connection.read_csv(str(self.path), header=True, all_varchar=True)
            connection.register("source", source)
            found = connection.execute(f'SELECT "{column}"::DOUBLE FROM source ORDER BY 1').fetchall()
        return [value for (value,) in found]


def calendar_of(symbol: str) -> str:
    """Return the name of the calendar that the default settings assign to a symbol."""
    return next(name for pattern, name in Rules().calendars.items() if fnmatchcase(symbol, pattern))


def sessions(start_us: int, end_us: int) -> pa.Table:
    """Return New York's regular sessions of `exchange_calendars`: session (µs of its date), opens and closes (µs)."""
    first, last = (pd.Timestamp(us, unit="us").normalize() for us in (start_us, end_us))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package uses a deprecated attribute of pandas
        calendar = exchange_calendars.get_calendar("XNYS", start=first - pd.Timedelta(days=10))
        schedule = calendar.schedule.loc[first - pd.Timedelta(days=4) : last + pd.Timedelta(days=1)]
    columns = (schedule.index, schedule["open"], schedule["close"])
    values = [pd.DatetimeIndex(column).tz_localize(None).as_unit("us").asi8 for column in columns]
    return pa.table(dict(zip(("session", "opens", "closes"), values, strict=True)))


def opened(path: Path, zone: str, folder: Path) -> ReplayOptions:
    """Return the options that a replay of the file needs. Each error of a replay names a missing option."""
    options = ReplayOptions()
    for number in range(5):
        (folder / str(number)).mkdir()
        with embedded(folder / str(number), 1) as log:
            try:
                replay(log, path, options)
            except BadInput as error:
                options = _with(options, re.findall(r"--([a-z-]+)", str(error)), path, zone, error)
            else:
                return options
    raise AssertionError(f"{path.name} needs more options than symbol, interval, zone and order of dates")


def _with(options: ReplayOptions, named: list[str], path: Path, zone: str, error: BadInput) -> ReplayOptions:
    if "symbol" in named and options.symbol is None:
        name = re.sub(r"[^A-Z0-9.=_-]", "_", path.name.split(".")[0].upper())
        return replace(options, symbol=name[:32])
    if "interval" in named and options.interval is None:
        return replace(options, interval=_interval_of(path))
    if "tz" in named and options.tz is None:
        return replace(options, tz=zone)
    if "date-order" in named and options.date_order is None:
        return replace(options, date_order="mdy")
    raise error


def _interval_of(path: Path) -> str:
    """Return the most frequent distance of adjacent bars as an interval: 1m, 5m, or else 1d."""
    name = detect_layout(open_file(path).header).columns["time"]
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
    else:
        frame = pd.read_csv(path, sep=None, engine="python", encoding="utf-8-sig")
    times = pd.to_datetime(frame[name].head(2_000))
    [(gap, _)] = Counter(times.diff().dropna()).most_common(1)
    return {60: "1m", 300: "5m"}.get(int(gap.total_seconds()), "1d")


def replayed(path: Path, options: ReplayOptions, folder: Path) -> Replayed:
    with embedded(folder, 1) as log:
        summary = replay(log, path, options)
        raw = raw_of(log)
        again = replay(log, path, options)
        assert raw_of(log) == raw, "the second replay of the file appended records"
    return Replayed(path, options, summary, again, raw)


def raw_of(log: EventLog) -> list[bytes]:
    return [value for _, value in _raw(log)]


def raw_by_partition(log: EventLog) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for partition, value in _raw(log):
        found.setdefault(partition, []).append(value)
    return found


def _raw(log: EventLog) -> Iterator[tuple[int, bytes]]:
    with log.reader([schemas.RAW]) as reader:
        while consumed := reader.poll(timeout_s=0.05, max_records=10_000, max_bytes=1 << 30):
            yield from ((record.partition, bytes(record.value)) for record in consumed)
