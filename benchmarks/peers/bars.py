"""Other systems that build 1m bars, each used as its manual recommends, in its best case.

All systems get the same prints, sorted by time. Conversions of prints (tuples with datetimes, data frames) and the
construction of graphs are not timed. None of the systems stores closed bars, adds a late print to a closed bar, rolls
up to 5m and 1d, or reports completeness.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

MINUTE_US = 60_000_000
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Prints:
    """Columns sorted by time (int64 µs UTC, starting on a minute); `symbol` is a number below `symbols`."""

    time: np.ndarray
    symbol: np.ndarray
    price: np.ndarray
    size: np.ndarray
    symbols: int

    def __len__(self) -> int:
        return len(self.time)

    def first(self, count: int) -> Prints:
        return Prints(self.time[:count], self.symbol[:count], self.price[:count], self.size[:count], self.symbols)


class Result(NamedTuple):
    """Seconds, and proof of the work: the number of bars (groups of all batches) and their volume."""

    seconds: float
    bars: int
    volume: float


Contestant = Callable[[], Result]


@dataclass(frozen=True)
class Peer:
    """`prepare(prints, batch)` returns the timed function. `ticks` is the number of ticks for a short, steady run."""

    name: str
    package: str | None
    ticks: int
    batched: bool
    says: str
    prepare: Callable[[Prints, int], Contestant]

    @property
    def installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None

    @property
    def title(self) -> str:
        return f"{self.name} {importlib.metadata.version(self.package)}" if self.package else self.name


def _slices(count: int, batch: int) -> list[slice]:
    return [slice(begin, begin + batch) for begin in range(0, count, batch)]


def polars(prints: Prints, batch: int) -> Contestant:
    """Group each batch by symbol and minute, without state."""
    import polars as pl

    whole = pl.DataFrame({name: getattr(prints, name) for name in ("time", "symbol", "price", "size")})
    frames = [whole.slice(part.start, batch) for part in _slices(len(prints), batch)]
    price, size = pl.col("price"), pl.col("size")
    keys = ("symbol", (pl.col("time") // MINUTE_US).alias("minute"))
    wanted = (
        price.first().alias("open"), price.max().alias("high"), price.min().alias("low"), price.last().alias("close"),
        size.sum().alias("volume"), (price * size).sum().alias("pv"), pl.len().alias("trades"),
    )  # fmt: skip

    def run() -> Result:
        bars, volume = 0, 0.0
        began = time.perf_counter()
        for frame in frames:
            found = frame.group_by(keys).agg(wanted)
            bars += found.height
            volume += found["volume"].sum()
        return Result(time.perf_counter() - began, bars, volume)

    return run


def plain(prints: Prints, batch: int) -> Contestant:
    """Build bars in a dict. A minute closes when the newest print is two seconds after the minute's end."""
    columns = (prints.time, prints.symbol, prints.price, prints.size)
    batches = [list(zip(*(c[part].tolist() for c in columns), strict=True)) for part in _slices(len(prints), batch)]

    def run() -> Result:
        bars, volume = 0, 0.0
        still: dict[int, dict[int, list[Any]]] = {}
        began = time.perf_counter()
        for rows in batches:
            for at, symbol, price, size in rows:
                minute = at // MINUTE_US
                opened = still.get(minute)
                if opened is None:
                    opened = still[minute] = {}
                bar = opened.get(symbol)
                if bar is None:
                    opened[symbol] = [price, price, price, price, size, price * size, 1]
                    continue
                if price > bar[1]:
                    bar[1] = price
                elif price < bar[2]:
                    bar[2] = price
                bar[3] = price
                bar[4] += size
                bar[5] += price * size
                bar[6] += 1
            for minute in [minute for minute in still if (minute + 1) * MINUTE_US + 2_000_000 <= at]:
                closed = still.pop(minute)
                bars += len(closed)
                volume += sum(bar[4] for bar in closed.values())
        for closed in still.values():
            bars += len(closed)
            volume += sum(bar[4] for bar in closed.values())
        return Result(time.perf_counter() - began, bars, volume)

    return run


def bytewax(prints: Prints, batch: int) -> Contestant:
    """Run one worker: a fold over tumbling windows of event time, keyed by symbol, that wait two seconds.

    `ordered=False` is the faster choice, and correct for sorted input.
    """
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.operators import windowing
    from bytewax.testing import TestingSink, TestingSource, run_main

    names = [f"S{number}" for number in range(prints.symbols)]
    items = [
        (names[symbol], (EPOCH + dt.timedelta(microseconds=at), price, size))
        for at, symbol, price, size in zip(
            *(c.tolist() for c in (prints.time, prints.symbol, prints.price, prints.size)), strict=True
        )
    ]

    def fold(bar: list[Any], tick: tuple[Any, float, float]) -> list[Any]:
        _, price, size = tick
        if not bar[6]:
            bar[0] = bar[1] = bar[2] = price
        elif price > bar[1]:
            bar[1] = price
        elif price < bar[2]:
            bar[2] = price
        bar[3] = price
        bar[4] += size
        bar[5] += price * size
        bar[6] += 1
        return bar

    def run() -> Result:
        out: list[Any] = []
        flow = Dataflow("bars")
        bars = windowing.fold_window(
            "bars",
            op.input("ticks", flow, TestingSource(items, batch_size=batch)),
            windowing.EventClock(ts_getter=lambda t: t[0], wait_for_system_duration=dt.timedelta(seconds=2)),
            windowing.TumblingWindower(length=dt.timedelta(minutes=1), align_to=EPOCH),
            builder=lambda: [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0],
            folder=fold,
            merger=lambda one, other: one,  # tumbling windows never merge
            ordered=False,
        )
        op.output("out", bars.down, TestingSink(out))
        began = time.perf_counter()
        run_main(flow)
        seconds = time.perf_counter() - began
        return Result(seconds, len(out), sum(bar[4] for _, (_, bar) in out))

    return run


def csp(prints: Prints, batch: int) -> Contestant:
    """Run a graph with one node per symbol behind one demultiplexed stream, without batches.

    With so many symbols, this graph is faster than one stream per symbol, and faster than csp's own statistics (C++).
    """
    from benchmarks.peers.csp_graph import build

    graph = build(prints)
    begin = dt.datetime.fromtimestamp(0, dt.UTC).replace(tzinfo=None)
    first, last = int(prints.time[0]), int(prints.time[-1])
    end = begin + dt.timedelta(microseconds=(last // MINUTE_US + 1) * MINUTE_US)

    def run() -> Result:
        import csp as package

        began = time.perf_counter()
        out = package.run(graph, starttime=begin + dt.timedelta(microseconds=first), endtime=end)
        seconds = time.perf_counter() - began
        return Result(seconds, *out["done"][-1][1])

    return run


PEERS = (
    Peer("polars", "polars", 1_000_000, True, "group_by of each batch, no state", polars),
    Peer("csp", "csp", 2_000_000, False, "event by event, Python nodes in a C++ engine", csp),
    Peer("dict", None, 500_000, True, "a plain Python loop", plain),
    Peer("bytewax", "bytewax", 30_000, True, "tumbling window of event time, one worker", bytewax),
)
