"""Laws of bars and indicators, checked on the user's files: `make test-real DATA=FOLDER`."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import talib

import tickerplant.market_data.files.replay as replay_module
from tests.aggregation.plant import continued, last, run, same_bars
from tests.analytics.support import batch, streamed
from tests.market_data.support import embedded, headers
from tests.real.files import US, Replayed, calendar_of, raw_by_partition, raw_of
from tests.support.killed import Killed
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.analytics import compute
from tickerplant.analytics.indicator import INDICATORS, parse
from tickerplant.core import faults, records
from tickerplant.core.flags import TickFlag
from tickerplant.market_data.files.replay import replay

NAMES = ("open", "high", "low", "close", "volume", "trades")
STREAMED_BARS = 1_000
LENGTHS = {"1m": "1 minute", "5m": "5 minutes", "1d": "1 day"}

OF_TICKS = """
SELECT symbol, {start} AS start, first(price ORDER BY time, n) FILTER ({sets}),
    max(price) FILTER ({sets}), min(price) FILTER ({sets}), last(price ORDER BY time, n) FILTER ({sets}),
    coalesce(sum(size) FILTER (flags & {no_volume} = 0), 0), count(*)
FROM rows {join} GROUP BY ALL"""
OF_BARS = """
SELECT symbol, {start} AS start, first(open ORDER BY time), max(high), min(low), last(close ORDER BY time),
    sum(volume), NULL
FROM (SELECT * FROM rows QUALIFY row_number() OVER (PARTITION BY symbol, interval, time ORDER BY n DESC) = 1) {join}
WHERE interval = '{given}' GROUP BY ALL"""


@pytest.fixture(scope="module")
def bars(file: Replayed) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the last closed state of every bar that aggregation builds from the file."""
    return last(run(file.raw))


def test_every_row_of_the_file_is_appended_once(file: Replayed) -> None:
    summary, name = file.summary, "price" if file.summary.kind == "ticks" else "close"
    numbers = file.numbers_of(name)
    assert summary.ticks + summary.bars + summary.repeats + summary.dead == len(numbers)
    assert file.again.already
    if not summary.repeats + summary.dead:
        assert sorted(file.rows[name].to_pylist()) == numbers


@pytest.mark.parametrize("point", ["feed.append.after", "feed.commit.before", "feed.commit.after"])
def test_a_killed_replay_resumes_where_it_stopped(
    file: Replayed, bars: Any, tmp_path: Any, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_module, "BATCH_ROWS", 500)
    monkeypatch.setattr(replay_module, "TRANSACTION_BYTES", 50_000)

    left = 2

    def hook(name: str) -> None:
        nonlocal left
        left -= name == point
        if not left and name == point:
            raise Killed

    with embedded(tmp_path, 1) as log:
        faults.install(hook)
        try:
            replay(log, file.path, file.options)
        except Killed:
            pass
        finally:
            faults.install(None)
        summary = replay(log, file.path, file.options)
        counts = ("ticks", "bars", "dead", "repeats")
        assert [getattr(summary, name) for name in counts] == [getattr(file.summary, name) for name in counts]
        assert [type(header) for header in headers(log)].count(records.Start) == 1
        same_bars(bars, last(run(raw_of(log))))


@pytest.mark.parametrize("interval", LENGTHS)
def test_bars_equal_those_of_duckdb(
    file: Replayed, bars: dict[tuple[str, str, int], dict[str, Any]], interval: str
) -> None:
    wanted = wanted_bars(file, interval)
    found = {key[1:]: row for key, row in bars.items() if key[0] == interval}
    assert found.keys() == wanted.keys()
    for key, row in wanted.items():
        have = [found[key][name] for name in NAMES]
        assert have[:4] == list(row[:4]), key
        assert math.isclose(have[4], row[4], rel_tol=1e-12), key
        assert row[5] is None or have[5] == row[5], key


def wanted_bars(file: Replayed, interval: str) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Return bars by symbol and start, computed by DuckDB; {} if the file has only coarser bars."""
    is_ticks = file.summary.kind == "ticks"
    undo_flags = int(TickFlag.CANCEL | TickFlag.CORRECTION)
    if is_ticks and file.query(f"SELECT count(*) FROM rows WHERE flags & {undo_flags} > 0")[0][0]:
        pytest.skip("the file has cancels or corrections, which one query cannot apply")
    calendars = {calendar_of(symbol) for (symbol,) in file.query("SELECT DISTINCT symbol FROM rows")}
    if interval == "1d" and (len(calendars) > 1 or calendars - {"XNYS", "24/7"}):
        pytest.skip("the query supports the days of one calendar")
    is_by_session = interval == "1d" and calendars == {"XNYS"}
    start, join = f"epoch_us(time_bucket(INTERVAL '{LENGTHS[interval]}', time))", ""
    given = "" if is_ticks else file.query("SELECT DISTINCT interval FROM rows")[0][0]
    if is_by_session and given != "1d":
        start, join = "session", f"JOIN sessions ON {US} >= opens AND {US} < closes"
    if not is_ticks and [*LENGTHS].index(given) > [*LENGTHS].index(interval):
        return {}
    sql = (OF_TICKS if is_ticks else OF_BARS).format(
        start=start, join=join, given=given, sets=f"WHERE flags & {int(TickFlag.NO_OHLC)} = 0",
        no_volume=int(TickFlag.NO_VOLUME),
    )  # fmt: skip
    sql = sql.replace("FILTER (flags", "FILTER (WHERE flags")
    return {(row[0], row[1]): row[2:] for row in file.query(sql)}


def test_partitions_and_batches_do_not_matter(
    file: Replayed, bars: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_module, "BATCH_ROWS", 777)
    with embedded(tmp_path, 3) as log:
        replay(log, file.path, file.options)
        apart: dict[Any, Any] = {}
        for raw in raw_by_partition(log).values():
            apart |= last(run(raw))
    same_bars(bars, apart)


def test_a_snapshot_anywhere_changes_no_byte(file: Replayed) -> None:
    uninterrupted = AggregationStage(1)
    expected = [[bytes(out.value) for out in step] for step in run(file.raw, uninterrupted)]
    for where in random.Random(1).sample(range(len(file.raw) + 1), min(3, len(file.raw) + 1)):
        first = AggregationStage(1)
        before = run(file.raw[:where], first)
        second = AggregationStage(1, first.snapshot())
        after = continued(file.raw, second, where)
        assert [[bytes(out.value) for out in step] for step in before + after] == expected
        assert second.snapshot() == uninterrupted.snapshot()


def test_indicators_equal_those_of_ta_lib(bars: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    checked = 0
    for columns in columns_of(bars):
        high, low, close, volume = (columns[name] for name in ("high", "low", "close", "volume"))
        wanted = {
            "SMA(20)": [talib.SMA(close, 20)], "EMA(12)": [talib.EMA(close, 12)], "RSI(14)": [talib.RSI(close, 14)],
            "BBANDS(20,2)": list(talib.BBANDS(close, 20, 2.0, 2.0)), "MACD": list(talib.MACD(close)),
            "ATR(14)": [talib.ATR(high, low, close, 14)], "OBV": [talib.OBV(close, volume)],
            "STOCH(14,3,3)": list(talib.STOCH(high, low, close, 14, 3, 0, 3)), "ADX": [talib.ADX(high, low, close)],
        }  # fmt: skip
        for text, expected in wanted.items():
            found = list(compute(columns, text).values())
            for actual, known in zip(found, expected, strict=False):
                assert (np.isnan(actual) == np.isnan(known)).all(), text
                np.testing.assert_allclose(actual, known, rtol=1e-9, atol=1e-9 * np.nanmax(close), err_msg=text)
        checked += 1
    assert checked


def test_the_stream_of_every_indicator_equals_its_batch_to_the_bit(bars: Any) -> None:
    for columns in columns_of(bars):
        few = {name: values[:STREAMED_BARS] for name, values in columns.items()}
        side = {name: values[:, None] for name, values in few.items()}
        for name in INDICATORS:
            indicator = parse(name)
            assert np.ascontiguousarray(streamed(indicator, side)[:, :, 0]).tobytes() == batch(indicator, few).tobytes()


def columns_of(bars: dict[tuple[str, str, int], dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    """Return the inputs of indicators for each series with prices, in order of time; a session is a UTC day."""
    series: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key in sorted(bars):
        if bars[key]["close"] is not None:
            series.setdefault(key[:2], []).append(bars[key])
    found = []
    for rows in series.values():
        columns = {name: np.array([float(row[name]) for row in rows]) for name in NAMES[:5]}
        columns["session"] = np.array([float(row["time"] // 86_400_000_000) for row in rows])
        columns["vwap"] = (columns["high"] + columns["low"] + columns["close"]) / 3
        found.append(columns)
    return found
