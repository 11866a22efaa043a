"""Real files of trades and bars: what is stored are their rows, and coarser bars are what anybody would compute."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import polars as pl
import pytest

from tests.e2e.support import (
    Row,
    ask,
    assert_bars,
    assert_indicators,
    bars_of_bars,
    bars_of_ticks,
    midnight,
    replay,
    rows,
    stored_bars,
)
from tests.support.plant import SHARED_DATA, Plant

pytestmark = [pytest.mark.slow]

TRADES = SHARED_DATA / "btcusdt_trades.parquet"
PERP = SHARED_DATA / "btc_perp_1m_2022_01.csv.gz"
SPY_MINUTES = SHARED_DATA / "spy_like_1m_2020_12.csv"
SPY_DAYS = SHARED_DATA / "spy_like_daily_2017_2018.csv"
MSFT_DAYS = SHARED_DATA / "msft_daily_1990_2022.csv"
NEW_YORK = "America/New_York"
PRICES = ("open", "high", "low", "close", "volume")
FIVE = pl.col("time").dt.truncate("5m")
SPY_FROM_MINUTES = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)

REPLAYS = (
    (TRADES, "--symbol", "BTCUSDT"),
    (PERP, "--symbol", "BTCPERP", "--interval", "1m", "--tz", "UTC"),
    (SPY_MINUTES, "--symbol", "SPY", "--interval", "1m", "--tz", NEW_YORK),
    (SPY_DAYS, "--symbol", "SPY", "--interval", "1d"),
    (MSFT_DAYS, "--symbol", "MSFT", "--interval", "1d"),
)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """A plant that has all the files: all but the last into the log alone, the last one waits for everything."""
    plant = Plant(tmp_path_factory.mktemp("files") / "data")
    for file, *options in REPLAYS[:-1]:
        assert ask(plant, "replay", file, *options, "--no-wait").code == 0
    replay(plant, *REPLAYS[-1])
    return plant


@pytest.fixture(scope="module")
def dsn(plant: Plant) -> Iterator[str]:
    with plant.store() as dsn:
        yield dsn


def bars(file: str, form: str, zone: str) -> pl.DataFrame:
    """Return a file's bars with their times in UTC, as another library reads them."""
    read = pl.read_csv(SHARED_DATA / file)
    time = pl.col(read.columns[0]).str.strip_chars("\ufeff").str.to_datetime(form, time_unit="us")
    time = time.dt.replace_time_zone(zone).dt.convert_time_zone("UTC").alias("time")
    return read.select(time, *(pl.col(name).cast(float) for name in PRICES))


def perp() -> pl.DataFrame:
    return bars(PERP.name, "%Y-%m-%d %H:%M:%S%.f", "UTC")


def spy_minutes() -> pl.DataFrame:
    return bars(SPY_MINUTES.name, "%Y-%m-%d %H:%M", NEW_YORK)


def spy_stored(dsn: str, *, minutes: bool) -> list[Row]:
    """Return SPY's daily bars that came of the minutes, or those of the daily file."""
    return [bar for bar in stored_bars(dsn, "SPY", "1d") if (bar[0] >= SPY_FROM_MINUTES) == minutes]


def test_trades_of_a_parquet_file_are_stored_once_and_make_bars(dsn: str) -> None:
    trades = pl.read_parquet(TRADES).with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))
    stored = rows(dsn, "SELECT time, trade_id, price, size FROM realtime_prices WHERE symbol = 'BTCUSDT'")
    wanted = trades.select("timestamp", pl.col("trade_id").cast(str), "price", "quantity").rows()
    assert sorted(stored) == sorted(wanted)
    ticks = trades.select(time="timestamp", price="price", size="quantity")
    for interval in ("1m", "5m", "1d"):
        assert_bars(stored_bars(dsn, "BTCUSDT", interval), bars_of_ticks(ticks, interval))


def test_a_month_of_minutes_round_the_clock_is_stored_as_the_file_has_it(dsn: str) -> None:
    assert [bar[:6] for bar in stored_bars(dsn, "BTCPERP", "1m")] == perp().rows()


def test_minutes_round_the_clock_make_five_minutes_and_utc_days(dsn: str) -> None:
    assert_bars(stored_bars(dsn, "BTCPERP", "5m"), bars_of_bars(perp(), FIVE))
    assert_bars(stored_bars(dsn, "BTCPERP", "1d"), bars_of_bars(perp(), pl.col("time").dt.truncate("1d")))


def test_indicators_on_a_month_of_minutes_are_those_of_ta_lib(dsn: str) -> None:
    for interval in ("5m", "1d"):
        assert_indicators(dsn, "BTCPERP", interval, stored_bars(dsn, "BTCPERP", interval))


def test_minutes_in_new_york_time_are_stored_in_utc_as_the_file_has_them(dsn: str) -> None:
    stored = stored_bars(dsn, "SPY", "1m")
    assert stored[0][0] == dt.datetime(2020, 12, 15, 14, 30, tzinfo=dt.UTC)
    assert [bar[:6] for bar in stored] == spy_minutes().rows()


def test_a_day_of_minutes_takes_the_regular_session_alone(dsn: str) -> None:
    assert_bars(stored_bars(dsn, "SPY", "5m"), bars_of_bars(spy_minutes(), FIVE))
    local = pl.col("time").dt.convert_time_zone(NEW_YORK)
    regular = spy_minutes().filter(local.dt.time() >= dt.time(9, 30), local.dt.time() < dt.time(16))
    assert len(regular) == 4 * 390
    wanted = [(midnight(bar[0]), *bar[1:]) for bar in bars_of_bars(regular, local.dt.date())]
    assert [bar[0].day for bar in wanted] == [15, 16, 17, 18]
    assert_bars(spy_stored(dsn, minutes=True), wanted)


def test_daily_bars_are_stored_as_the_files_have_them(dsn: str) -> None:
    spy = bars(SPY_DAYS.name, "%Y-%m-%d", "UTC")
    assert [bar[:6] for bar in spy_stored(dsn, minutes=False)] == spy.rows()
    msft = bars(MSFT_DAYS.name, "%m/%d/%Y", "UTC")
    assert len(msft) == 8_111
    assert [bar[:6] for bar in stored_bars(dsn, "MSFT", "1d")] == msft.rows()


def test_indicators_on_32_years_of_days_are_those_of_ta_lib(dsn: str) -> None:
    assert_indicators(dsn, "MSFT", "1d", bars(MSFT_DAYS.name, "%m/%d/%Y", "UTC").rows())


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ((TRADES,), "--symbol"),
        ((SPY_MINUTES, "--interval", "1m", "--tz", NEW_YORK), "--symbol"),
        ((SPY_MINUTES, "--symbol", "SPY", "--tz", NEW_YORK), "--interval"),
        ((SPY_MINUTES, "--symbol", "SPY", "--interval", "1m"), "--tz"),
    ],
)
def test_what_a_file_does_not_say_is_asked_for(plant: Plant, arguments: tuple[str, ...], asked: str) -> None:
    answer = ask(plant, "replay", *arguments, "--no-wait")
    assert answer.code == 2
    assert asked in answer.err


@pytest.mark.parametrize(
    ("option", "value"), [("--tz", "America/Nowhere"), ("--interval", "7m"), ("--symbol", "no way")]
)
def test_an_option_that_makes_no_sense_is_named_in_the_error(plant: Plant, option: str, value: str) -> None:
    options = {"--symbol": "SPY", "--interval": "1m", "--tz": NEW_YORK, option: value}
    answer = ask(plant, "replay", SPY_MINUTES, *(word for pair in options.items() for word in pair), "--no-wait")
    assert answer.code == 2
    assert value in answer.err
