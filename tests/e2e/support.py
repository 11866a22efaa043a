"""Helpers of the end-to-end tests: rows of a store, and expected rows computed by other libraries."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import polars as pl
import talib

from tests.support.plant import Plant
from tests.support.waiting import PATIENCE

Row = tuple[Any, ...]
BAR = ("time", "open", "high", "low", "close", "volume", "vwap", "trades")
SYMBOL_BARS = "SELECT {} FROM {} WHERE symbol = '{}' AND interval = '{}' AND state = 'final' ORDER BY time"
CONTENTS = {
    "realtime_prices": "SELECT symbol, time, price, size, source, trade_id, flags FROM realtime_prices "
    "ORDER BY symbol, time, price, size, trade_id",
    **{
        table: "SELECT symbol, interval, time, open, high, low, close, trades, state, complete, history, source, "
        f"volume, vwap FROM {table} ORDER BY symbol, interval, time"
        for table in ("intraday_ohlcv", "historical_ohlcv")
    },
    **{
        table: "SELECT symbol, interval, time, state, sma_20, sma_50, sma_200, ema_12, ema_26, ema_50, ema_200, "
        "rsi_14, bbands_20_2_upper, bbands_20_2_middle, bbands_20_2_lower, macd_12_26_9_line, macd_12_26_9_signal, "
        f"stoch_14_3_3_k, stoch_14_3_3_d, atr_14, stddev_20 FROM {table} ORDER BY symbol, interval, time"
        for table in ("intraday_analytics", "daily_analytics")
    },
}
"""SQL by table, for every table with a guaranteed final state. Columns that differ between runs are omitted."""

ROUNDED = {"intraday_ohlcv": (2, 1e-12), "historical_ohlcv": (2, 1e-12),
           "intraday_analytics": (17, 1e-9), "daily_analytics": (17, 1e-9)}  # fmt: skip
"""Number of trailing columns that are float sums, and their relative tolerance, by table."""


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Return the printed JSON objects, one per line."""
        return [json.loads(line) for line in self.out.splitlines()]


def run_command(plant: Plant, *arguments: str | Path, timeout_s: float = 120) -> CommandResult:
    """Run a command in a process to its end and return its result. Fail if it prints a traceback."""
    plant.create_store(*map(str, arguments))
    done = subprocess.run(
        plant.command(*map(str, arguments)), env=plant.environment(),
        capture_output=True, text=True, errors="replace", timeout=PATIENCE.seconds(timeout_s), check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert "Aborted" not in done.stderr, done.stderr
    return CommandResult(done.returncode, done.stdout, done.stderr)


def replay(plant: Plant, *arguments: str | Path) -> dict[str, Any]:
    result = run_command(plant, "replay", *arguments, "--json")
    assert result.code == 0, result.err
    (summary,) = result.lines
    return summary


def rows(dsn: str, sql: str) -> list[Row]:
    async def fetch() -> list[Row]:
        connection = await asyncpg.connect(dsn, statement_cache_size=0)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return asyncio.run(fetch())


def contents(dsn: str) -> dict[str, list[Row]]:
    return {table: rows(dsn, sql) for table, sql in CONTENTS.items()}


def stored_bars(dsn: str, symbol: str, interval: str) -> list[Row]:
    table = "historical_ohlcv" if interval == "1d" else "intraday_ohlcv"
    return rows(dsn, SYMBOL_BARS.format(", ".join(BAR), table, symbol, interval))


def assert_same_contents(found: Mapping[str, Sequence[Row]], wanted: Mapping[str, Sequence[Row]]) -> None:
    for table in CONTENTS:
        sums, tolerance = ROUNDED.get(table, (0, 0.0))
        assert len(found[table]) == len(wanted[table]), table
        for mine, theirs in zip(found[table], wanted[table], strict=True):
            exact = len(mine) - sums
            assert mine[:exact] == theirs[:exact], table
            for a, b in zip(mine[exact:], theirs[exact:], strict=True):
                assert near(a, b, tolerance), (table, mine, theirs)


def near(a: float | None, b: float | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=0)


# Expected values of other libraries ---------------------------------------------------------------------------------


def bars_of_ticks(ticks: pl.DataFrame, every: str) -> list[Row]:
    """Return bars of `ticks` (time, price, size in file order) with the columns of `BAR`."""
    bars = (
        ticks.with_columns(bar=pl.col("time").dt.truncate(every))
        .group_by("bar", maintain_order=True)
        .agg(
            open=pl.col("price").first(), high=pl.col("price").max(), low=pl.col("price").min(),
            close=pl.col("price").last(), volume=pl.col("size").sum(),
            # The vwap is null, not NaN, if no size is known.
            vwap=((pl.col("price") * pl.col("size")).sum() / pl.col("size").sum()).fill_nan(None), trades=pl.len(),
        )
    )  # fmt: skip
    return bars.sort("bar").rows()


def bars_of_bars(bars: pl.DataFrame, start: pl.Expr) -> list[Row]:
    """Return coarser bars of `bars` (time, open … volume), without vwap and count.

    `start` is the expression for the start of a coarser bar.
    """
    coarser = (
        bars.with_columns(bar=start)
        .group_by("bar", maintain_order=True)
        .agg(
            pl.col("open").first(), pl.col("high").max(), pl.col("low").min(), pl.col("close").last(),
            pl.col("volume").sum(),
        )
    )  # fmt: skip
    return coarser.sort("bar").rows()


def assert_bars(found: Sequence[Row], wanted: Sequence[Row]) -> None:
    """Compare times, prices and counts exactly, volume and vwap to 1e-12. `wanted` may lack vwap and count."""
    assert [row[0] for row in found] == [row[0] for row in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine[:5] == theirs[:5]
        assert near(mine[5], theirs[5], 1e-12), (mine, theirs)
        if len(theirs) > 6:
            assert near(mine[6], theirs[6], 1e-12), (mine, theirs)
            assert mine[7] == theirs[7]


def assert_indicators(dsn: str, symbol: str, interval: str, bars: Sequence[Row]) -> None:
    """Compare stored values with those of TA-Lib to 1e-9. The same values must be null."""
    high, low, close = (np.array([bar[column] for bar in bars], dtype=np.float64) for column in (2, 3, 4))
    macd, signal, hist = talib.MACD(close, 12, 26, 9)
    slow_k, slow_d = talib.STOCH(high, low, close, 14, 3, 0, 3, 0)
    upper, middle, lower = talib.BBANDS(close, 20, 2.0, 2.0)
    wanted = {
        "sma_20": talib.SMA(close, 20), "sma_50": talib.SMA(close, 50), "sma_200": talib.SMA(close, 200),
        "ema_12": talib.EMA(close, 12), "ema_26": talib.EMA(close, 26), "ema_50": talib.EMA(close, 50),
        "ema_200": talib.EMA(close, 200), "rsi_14": talib.RSI(close, 14),
        "bbands_20_2_upper": upper, "bbands_20_2_middle": middle, "bbands_20_2_lower": lower,
        "macd_12_26_9_line": macd, "macd_12_26_9_signal": signal, "macd_12_26_9_histogram": hist,
        "stoch_14_3_3_k": slow_k, "stoch_14_3_3_d": slow_d, "atr_14": talib.ATR(high, low, close, 14),
        "stddev_20": talib.STDDEV(close, 20),
    }  # fmt: skip
    table = "daily_analytics" if interval == "1d" else "intraday_analytics"
    found = {row[0]: row[1:] for row in rows(dsn, SYMBOL_BARS.format("time, " + ", ".join(wanted), table, symbol,
                                                                     interval))}  # fmt: skip
    assert found.keys() <= {bar[0] for bar in bars}
    nothing = (None,) * len(wanted)
    for column, (name, values) in enumerate(wanted.items()):
        stored = [found.get(bar[0], nothing)[column] for bar in bars]
        assert [value is None for value in stored] == np.isnan(values).tolist(), (name, interval)
        mine = np.array([np.nan if value is None else value for value in stored])
        np.testing.assert_allclose(mine, values, rtol=1e-9, atol=1e-9, err_msg=f"{name} {interval}")


def midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), dt.UTC)
