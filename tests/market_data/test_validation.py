"""Bars with rounding noise are accepted and widened; bars with wrong prices are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.market_data.support import Clock, embedded, rows
from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import times_of, timestamps
from tickerplant.core.times import DAY_US
from tickerplant.market_data.feed.validation import check_bars, widen_bars
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.market_data.files.bars import read_bars
from tickerplant.market_data.files.options import ReadOptions
from tickerplant.market_data.files.replay import ReplayOptions, replay

FIRST = 19_810 * DAY_US  # 2024-03-28
BELOW_CLOSE = np.nextafter(171.48, 0)
"""The high of an auto-adjusted bar that closes at its high: 1.7e-16 of the price below the close."""


def bars(*prices: tuple[float, float, float, float]) -> pa.RecordBatch:
    n = len(prices)
    columns = np.array(prices, np.float64).reshape(n, 4).T
    return pa.RecordBatch.from_arrays(
        [
            timestamps(FIRST + np.arange(n, dtype=np.int64) * DAY_US),
            pa.array(["A"] * n).dictionary_encode().cast(schemas.TEXT),
            pa.array(["1d"] * n).dictionary_encode().cast(schemas.SMALL_TEXT),
            *(pa.array(column) for column in columns),
            pa.array([1.0] * n),
            pa.nulls(n, pa.float64()),
            pa.nulls(n, pa.int64()),
            pa.array(["test"] * n).dictionary_encode().cast(schemas.TEXT),
            pa.array([True] * n),
        ],
        schema=schemas.VENDOR_BARS,
    )


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [
        ((170.0, BELOW_CLOSE, 169.0, 171.48), 169.0, 171.48),
        ((171.48, BELOW_CLOSE, 169.0, 170.0), 169.0, 171.48),
        ((170.0, 172.0, 170.0 + 1e-8, 171.0), 170.0, 172.0),
        ((-37.63, -37.0, np.nextafter(-37.63, 0), -37.5), -37.63, -37.0),
        ((5.0, np.nextafter(5.0, 0), 5.0, 5.0), np.nextafter(5.0, 0), 5.0),
        ((1e-8, 1e-8 * (1 - 2e-16), 1e-8, 1e-8), 1e-8 * (1 - 2e-16), 1e-8),
        ((0.0, 0.0, 0.0, 0.0), 0.0, 0.0),
    ],
    ids=["close above high", "open above high", "open below low", "negative", "low above high", "tiny", "zero"],
)
def test_rounding_noise_widens_low_and_high(
    tmp_path: Path, given: tuple[float, float, float, float], low: float, high: float
) -> None:
    batch = bars(given)
    assert check_bars(batch) == {}
    with embedded(tmp_path) as log, FeedWriter(log, "f", clock=Clock(FIRST)) as feed:
        feed.start(["A"], start_us=FIRST)
        assert feed.append_bars(batch, FIRST) == 1
        feed.commit()
        (row,) = rows(log, records.VendorBars)
    assert (row["open"], row["low"], row["high"], row["close"]) == (given[0], low, high, given[3])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ((170.0, 171.48 * (1 - 1e-8), 169.0, 171.48), "close 171.48 is outside low to high, 169.0 to 171.479998285"),
        ((170.0, 172.0, 170.01, 171.0), "open 170.0 is outside low to high, 170.01 to 172.0"),
        ((5.0, 5.0, 5.01, 5.0), "low 5.01 is above high 5.0"),
        ((0.0, 1.0, 1e-3, 0.5), "open 0.0 is outside low to high, 0.001 to 1.0"),
        ((np.nan, 1.0, 1.0, 1.0), "the price nan is not a finite number"),
        ((1.0, np.inf, 1.0, 1.0), "the price inf is not a finite number"),
    ],
)
def test_a_bar_with_a_wrong_price_is_refused(given: tuple[float, float, float, float], reason: str) -> None:
    reasons = check_bars(bars((1, 1, 1, 1), given))
    assert [*reasons] == [1]
    assert reasons[1].startswith(reason)


def test_bars_without_noise_are_returned_unchanged() -> None:
    batch = bars((1, 3, 0.5, 2), (2, 2, 2, 2))
    assert widen_bars(batch) is batch


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_every_auto_adjusted_bar_that_closes_at_its_high_is_replayed(tmp_path: Path, suffix: str) -> None:
    # yfinance multiplies open, high and low by adjusted close / close, and sets the close to the adjusted close.
    random = np.random.default_rng(4)
    closes = np.round(random.uniform(20, 300, 2_000), 2)
    adjusted = random.uniform(0.2, 1, 2_000) * 100
    ratio = adjusted / closes
    high, low = closes * ratio, np.round(closes * 0.9, 2) * ratio
    assert (high < adjusted).sum() > 50
    table = pa.table(
        {
            "Date": timestamps(np.arange(2_000, dtype=np.int64) * DAY_US + 12_000 * DAY_US),
            "Open": low, "High": high, "Low": low, "Close": adjusted, "Volume": np.ones(2_000),
        }
    )  # fmt: skip
    path = tmp_path / f"AAPL.{suffix}"
    if suffix == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, path)
    else:
        lines = [
            f"{day.date()},{o!r},{h!r},{low_!r},{c!r},1"
            for day, o, h, low_, c in zip(
                *(table.column(name).to_pylist() for name in ("Date", "Open", "High", "Low", "Close")), strict=True
            )
        ]
        path.write_text("Date,Open,High,Low,Close,Volume\n" + "\n".join(lines) + "\n")
    with embedded(tmp_path) as log:
        summary = replay(log, path, ReplayOptions(symbol="AAPL", interval="1d"))
        found = rows(log, records.VendorBars)
    assert (summary.bars, summary.dead) == (2_000, 0)
    found.sort(key=lambda row: row["time"])
    assert [row["high"] for row in found] == np.maximum(high, adjusted).tolist()
    computed = read_bars(path, ReadOptions(symbol="AAPL")).bars
    assert computed.column("high").to_pylist() == np.maximum(high, adjusted).tolist()
    assert times_of(computed.column("time"))[0] == 12_000 * DAY_US
