"""Files of trades and bars in each format: rows are stored, and coarser bars equal those of another library."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from tests.e2e.support import (
    Row,
    assert_bars,
    assert_indicators,
    bars_of_bars,
    bars_of_ticks,
    midnight,
    replay,
    rows,
    run_command,
    stored_bars,
)
from tests.support import data
from tests.support.data import NEW_YORK, read_bars
from tests.support.plant import Plant

pytestmark = [pytest.mark.slow]

FIVE = pl.col("time").dt.truncate("5m")
SPY_FROM_MINUTES = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
COIN_DAYS = 22
"""Days of minute bars: enough for a daily SMA(20)."""


def replays() -> tuple[tuple[str | Path, ...], ...]:
    return (
        (data.trades().path, "--symbol", "BTCUSDT"),
        (data.round_the_clock(COIN_DAYS), "--symbol", "BTCPERP", "--interval", "1m", "--tz", "UTC"),
        (data.new_york(), "--symbol", "SPY", "--interval", "1m", "--tz", NEW_YORK),
        (data.years(), "--symbol", "SPY", "--interval", "1d"),
        (data.real_days("MSFT"), "--symbol", "MSFT", "--interval", "1d"),
    )


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """Return a plant that has replayed all files. Only the last replay waits until all rows are stored."""
    plant = Plant(tmp_path_factory.mktemp("files") / "data")
    for file, *options in replays()[:-1]:
        assert run_command(plant, "replay", file, *options, "--no-wait").code == 0
    replay(plant, *replays()[-1])
    return plant


@pytest.fixture(scope="module")
def dsn(plant: Plant) -> Iterator[str]:
    with plant.store() as dsn:
        yield dsn


def coin() -> pl.DataFrame:
    return read_bars(data.round_the_clock(COIN_DAYS), "%Y-%m-%d %H:%M:%S%.f")


def spy_minutes() -> pl.DataFrame:
    return read_bars(data.new_york(), "%Y-%m-%d %H:%M", NEW_YORK)


def spy_stored(dsn: str, *, minutes: bool) -> list[Row]:
    """Return SPY's daily bars: those rolled up from minutes if `minutes`, else those of the daily file."""
    return [bar for bar in stored_bars(dsn, "SPY", "1d") if (bar[0] >= SPY_FROM_MINUTES) == minutes]


def test_trades_of_a_parquet_file_are_stored_once_and_aggregated_to_bars(dsn: str) -> None:
    assert data.trades().repeats > 20
    trades = data.trades().frame
    stored = rows(dsn, "SELECT time, trade_id, price, size FROM realtime_prices WHERE symbol = 'BTCUSDT'")
    assert sorted(stored) == sorted(trades.select("time", "trade_id", "price", "size").rows())
    for interval in ("1m", "5m", "1d"):
        assert_bars(stored_bars(dsn, "BTCUSDT", interval), bars_of_ticks(trades, interval))


def test_minutes_round_the_clock_are_stored_unchanged(dsn: str) -> None:
    assert [bar[:6] for bar in stored_bars(dsn, "BTCPERP", "1m")] == coin().rows()


def test_minutes_round_the_clock_are_rolled_up_to_five_minutes_and_utc_days(dsn: str) -> None:
    assert_bars(stored_bars(dsn, "BTCPERP", "5m"), bars_of_bars(coin(), FIVE))
    assert_bars(stored_bars(dsn, "BTCPERP", "1d"), bars_of_bars(coin(), pl.col("time").dt.truncate("1d")))


def test_indicators_on_minutes_round_the_clock_equal_ta_lib(dsn: str) -> None:
    for interval in ("5m", "1d"):
        assert_indicators(dsn, "BTCPERP", interval, stored_bars(dsn, "BTCPERP", interval))


def test_minutes_in_new_york_time_are_stored_in_utc(dsn: str) -> None:
    stored = stored_bars(dsn, "SPY", "1m")
    # Summer time ended on 2020-11-01: sessions begin at 13:30 UTC before it, and at 14:30 UTC after it.
    opens = [stored[391 * session][0].isoformat()[5:16] for session in range(4)]
    assert opens == ["10-29T13:30", "10-30T13:30", "11-02T14:30", "11-03T14:30"]
    assert [bar[:6] for bar in stored] == spy_minutes().rows()


def test_a_day_of_minutes_contains_the_regular_session_only(dsn: str) -> None:
    assert_bars(stored_bars(dsn, "SPY", "5m"), bars_of_bars(spy_minutes(), FIVE))
    local = pl.col("time").dt.convert_time_zone(NEW_YORK)
    regular = spy_minutes().filter(local.dt.time() >= dt.time(9, 30), local.dt.time() < dt.time(16))
    assert len(regular) == 4 * 390
    wanted = [(midnight(bar[0]), *bar[1:]) for bar in bars_of_bars(regular, local.dt.date())]
    assert [bar[0].day for bar in wanted] == [29, 30, 2, 3]
    assert_bars(spy_stored(dsn, minutes=True), wanted)


def test_daily_bars_are_stored_unchanged(dsn: str) -> None:
    assert [bar[:6] for bar in spy_stored(dsn, minutes=False)] == read_bars(data.years(), "%m/%d/%Y").rows()
    assert [bar[:6] for bar in stored_bars(dsn, "MSFT", "1d")] == read_bars(data.real_days("MSFT"), "%Y-%m-%d").rows()


@pytest.mark.parametrize("symbol", ["SPY", "MSFT"])
def test_indicators_on_years_of_days_equal_ta_lib(dsn: str, symbol: str) -> None:
    assert_indicators(dsn, symbol, "1d", stored_bars(dsn, symbol, "1d"))


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (("--interval", "1m", "--tz", NEW_YORK), "--symbol"),
        (("--symbol", "SPY", "--tz", NEW_YORK), "--interval"),
        (("--symbol", "SPY", "--interval", "1m"), "--tz"),
    ],
)
def test_missing_information_about_a_file_is_requested(plant: Plant, arguments: tuple[str, ...], missing: str) -> None:
    result = run_command(plant, "replay", data.new_york(), *arguments, "--no-wait")
    assert result.code == 2
    assert missing in result.err


def test_a_missing_symbol_of_trades_is_requested(plant: Plant) -> None:
    result = run_command(plant, "replay", data.trades().path, "--no-wait")
    assert (result.code, "--symbol" in result.err) == (2, True)


@pytest.mark.parametrize(
    ("option", "value"), [("--tz", "America/Nowhere"), ("--interval", "7m"), ("--symbol", "no way")]
)
def test_an_invalid_option_value_is_named_in_the_error(plant: Plant, option: str, value: str) -> None:
    options = {"--symbol": "SPY", "--interval": "1m", "--tz": NEW_YORK, option: value}
    result = run_command(
        plant, "replay", data.new_york(), *(word for pair in options.items() for word in pair), "--no-wait"
    )
    assert result.code == 2
    assert value in result.err
