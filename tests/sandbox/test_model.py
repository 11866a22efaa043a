"""The simulated market: agreement of stream and bars, statistics of prices, trading hours."""

from __future__ import annotations

import datetime as dt
import itertools

import numpy as np
import pytest

from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, SECOND_US, Float64Array, datetime_of, micros_of
from tickerplant.sandbox.model import MarketSettings, SimulatedMarket, TradeBatch, symbol_names

TUESDAY = 1_790_000_000_000_000 // DAY_US * DAY_US + DAY_US
NOON = TUESDAY + DAY_US // 2 + 5 * HOUR_US  # 17:00 UTC, 13:00 in New York


def kurtosis(values: Float64Array) -> float:
    """Return the kurtosis; a normal distribution has 3."""
    values = values - values.mean()
    return float((values**4).mean() / (values**2).mean() ** 2)


def autocorrelation(values: Float64Array) -> float:
    values = values - values.mean()
    return float((values[1:] * values[:-1]).mean() / (values**2).mean())


def assert_bars_of(
    market: SimulatedMarket, trades: TradeBatch, symbol: str, from_us: int, to_us: int, length_us: int
) -> None:
    """Assert that the market's bars of a range equal the bars of its trades."""
    mine = trades.codes == market.code[symbol]
    prices, sizes = trades.prices[mine], trades.sizes[mine]
    of, begins = np.unique((trades.times_us[mine] - from_us) // length_us, return_index=True)
    bars = market.bars(symbol, from_us, to_us, length_us)
    assert bars.starts_us.tolist() == (from_us + of * length_us).tolist()
    if len(of):
        ends = np.append(begins[1:], len(prices)) - 1
        assert bars.open.tolist() == prices[begins].tolist()
        assert bars.high.tolist() == np.maximum.reduceat(prices, begins).tolist()
        assert bars.low.tolist() == np.minimum.reduceat(prices, begins).tolist()
        assert bars.close.tolist() == prices[ends].tolist()
        assert bars.volume.tolist() == np.add.reduceat(sizes, begins).tolist()


@pytest.mark.parametrize("sessions", ["always", "us"])
@pytest.mark.parametrize(
    ("count", "rate", "hours"),
    [(12, 50.0, 1), (1, 20.0, 2), (3, 120.0, 1), (1000, 333.0, 1), (40, 0.2, 24), (5, 0.01, 24), (2, 0.0007, 48)],
)
def test_the_stream_and_the_bars_of_history_agree(count: int, rate: float, hours: int, sessions: str) -> None:
    market = SimulatedMarket(MarketSettings(symbol_names(count), rate, sessions=sessions))
    begin = TUESDAY + (17 * HOUR_US if hours < 24 else 0)
    end = begin + hours * HOUR_US
    trades = market.trades(begin, end)
    assert (trades.sizes > 0).all()
    for symbol in market.symbols[:: max(1, count // 8)]:
        for length in (MINUTE_US, 5 * MINUTE_US, HOUR_US, *([DAY_US] if hours % 24 == 0 else [])):
            assert_bars_of(market, trades, symbol, begin, end, length)


@pytest.mark.parametrize("sessions", ["always", "us"])
def test_longer_bars_are_roll_ups_of_the_minutes(sessions: str) -> None:
    market = SimulatedMarket(MarketSettings(symbol_names(12), 50.0, sessions=sessions))
    begin, end = TUESDAY - 14 * DAY_US, TUESDAY + 7 * DAY_US
    for symbol in ("AAPL", "EUR/USD"):
        minutes = market.bars(symbol, begin, end, MINUTE_US)
        for length in (5 * MINUTE_US, 15 * MINUTE_US, HOUR_US, DAY_US, 7 * DAY_US):
            of, begins = np.unique((minutes.starts_us - begin) // length, return_index=True)
            bars = market.bars(symbol, begin, end, length)
            ends = np.append(begins[1:], len(minutes.starts_us)) - 1
            assert bars.starts_us.tolist() == (begin + of * length).tolist()
            assert bars.open.tolist() == minutes.open[begins].tolist()
            assert bars.high.tolist() == np.maximum.reduceat(minutes.high, begins).tolist()
            assert bars.low.tolist() == np.minimum.reduceat(minutes.low, begins).tolist()
            assert bars.close.tolist() == minutes.close[ends].tolist()
            assert bars.volume.tolist() == np.add.reduceat(minutes.volume, begins).tolist()


def test_bars_are_aligned_to_whole_minutes() -> None:
    market = SimulatedMarket(MarketSettings(("AAPL",), 1.0))
    for begin, length in ((NOON, SECOND_US), (NOON + 1, MINUTE_US), (NOON, 0)):
        with pytest.raises(ValueError, match="whole minutes"):
            market.bars("AAPL", begin, NOON + DAY_US, length)
    assert len(market.bars("AAPL", NOON, NOON, MINUTE_US).starts_us) == 0


def test_trades_do_not_depend_on_the_requested_ranges() -> None:
    market = SimulatedMarket(MarketSettings(symbol_names(5), 97.0))
    complete = market.trades(NOON - 5 * SECOND_US, NOON + 65 * SECOND_US)
    cuts = np.random.default_rng(1).integers(NOON - 5 * SECOND_US, NOON + 65 * SECOND_US, 40).tolist()
    pieces = list(itertools.pairwise(sorted([*cuts, NOON - 5 * SECOND_US, NOON, NOON + 1, NOON + 65 * SECOND_US])))
    backwards = [market.trades(a, b) for a, b in reversed(pieces)]  # no result depends on an earlier call
    parts = backwards[::-1]
    assert len(complete.codes) > 3_000
    for name in ("codes", "times_us", "prices", "day_volumes", "sizes"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(complete, name))
    assert (np.diff(complete.times_us) >= 0).all()


@pytest.mark.parametrize(("rate", "sessions"), [(50.0, "always"), (0.01, "always"), (0.5, "us")])
def test_the_price_at_a_time_is_that_of_the_last_trade(rate: float, sessions: str) -> None:
    market = SimulatedMarket(MarketSettings(symbol_names(12), rate, sessions=sessions))
    hours = 24 if rate < 1 else 1
    trades = market.trades(NOON - hours * HOUR_US, NOON)
    times = np.random.default_rng(3).integers(NOON - hours * HOUR_US // 2, NOON, 40)
    for symbol in ("AAPL", "EUR/USD"):
        mine = trades.codes == market.code[symbol]
        own = np.concatenate([times, trades.times_us[mine][-5:]])
        last = np.searchsorted(trades.times_us[mine], own, side="right") - 1
        assert (last >= 0).all()
        found = market.price(np.full(len(own), market.code[symbol]), own)
        assert found.tolist() == trades.prices[mine][last].tolist()


def test_on_a_weekend_the_price_is_the_close_of_friday() -> None:
    market = SimulatedMarket(MarketSettings(("AAPL", "JPM"), 2.0, sessions="us"))
    friday = market.bars("JPM", TUESDAY - 4 * DAY_US, TUESDAY - 3 * DAY_US, DAY_US)
    assert market.price(np.array([1]), np.array([TUESDAY - 2 * DAY_US])).tolist() == friday.close.tolist()


def test_the_day_volume_increases_and_restarts_at_midnight() -> None:
    market = SimulatedMarket(MarketSettings(symbol_names(3), 3.0))
    midnight = NOON // DAY_US * DAY_US
    trades = market.trades(midnight - 10 * SECOND_US, midnight + 10 * SECOND_US)
    for code in range(3):
        mine = trades.codes == code
        old, new = mine & (trades.times_us < midnight), mine & (trades.times_us >= midnight)
        assert (np.diff(trades.day_volumes[old]) > 0).all()
        assert (np.diff(trades.day_volumes[new]) > 0).all()
        assert 0 < trades.day_volumes[new][0] < trades.day_volumes[old][0]
        first_lots = np.diff(trades.day_volumes[new]).max() * 2
        assert trades.day_volumes[new][0] <= first_lots + 1


def test_the_seed_determines_the_market() -> None:
    def prices(seed: int) -> list[float]:
        return (
            SimulatedMarket(MarketSettings(symbol_names(3), 10.0, seed)).trades(NOON, NOON + SECOND_US).prices.tolist()
        )

    assert prices(1) == prices(1)
    assert prices(1) != prices(2)


def test_prices_move_like_a_market_and_not_like_noise() -> None:
    market = SimulatedMarket(MarketSettings(("AAPL", "JPM", "EUR/USD"), 30.0, sessions="us"))
    daily = market.bars("AAPL", TUESDAY - 3_650 * DAY_US, TUESDAY, DAY_US)
    returns = np.diff(np.log(daily.close))
    assert 0.2 < returns.std() * np.sqrt(252) < 0.8
    assert kurtosis(returns) > 5, "jumps make the tails heavy"
    assert abs(autocorrelation(returns)) < 0.1
    assert ((daily.low <= daily.open) & (daily.open <= daily.high)).all()
    assert daily.close.min() > 20
    gaps = np.log(daily.open[1:] / daily.close[:-1])
    assert 0.3 < gaps.std() / returns.std() < 0.9
    minutes = market.bars("AAPL", TUESDAY - 60 * DAY_US, TUESDAY, MINUTE_US)
    inside = np.diff(np.log(minutes.close))[np.diff(minutes.starts_us) == MINUTE_US]
    assert kurtosis(inside) > 4
    assert abs(autocorrelation(inside)) < 0.1
    forex = np.diff(np.log(market.bars("EUR/USD", TUESDAY - 3_650 * DAY_US, TUESDAY, DAY_US).close))
    assert forex.std() < returns.std() / 2


def test_a_jump_moves_the_price_by_more_than_a_percent_between_two_trades() -> None:
    market = SimulatedMarket(MarketSettings(("AAPL",), 0.5))
    minutes = market.bars("AAPL", TUESDAY - 320 * DAY_US, TUESDAY, MINUTE_US)
    moves = np.abs(np.diff(np.log(minutes.close)))
    at = int(moves.argmax())
    start = int(minutes.starts_us[at])
    prices = market.trades(start, start + 3 * MINUTE_US).prices
    assert np.abs(np.diff(np.log(prices))).max() > 0.01
    assert 5 < (moves > 0.008).sum() < 15, "about one day in 32 has a jump"


def test_activity_is_u_shaped_in_sessions_and_nearly_flat_round_the_clock() -> None:
    market = SimulatedMarket(MarketSettings(("AAPL", "BTC/USD"), 10.0, sessions="us"))
    bars = market.bars("AAPL", TUESDAY - 100 * DAY_US, TUESDAY, 30 * MINUTE_US)
    of_day = np.bincount((bars.starts_us % DAY_US // (30 * MINUTE_US)).astype(int) - 27, bars.volume)
    assert len(of_day) == 13, "in summer the session is 13:30 to 20:00 UTC"
    middle = of_day[4:9].mean()
    assert of_day[0] > 2.5 * middle
    assert of_day[-1] > 1.6 * middle
    assert of_day[0] > of_day[1] > middle
    coins = market.bars("BTC/USD", TUESDAY - 100 * DAY_US, TUESDAY, 30 * MINUTE_US)
    of_day = np.bincount((coins.starts_us % DAY_US // (30 * MINUTE_US)).astype(int), coins.volume)
    assert 1.2 < of_day.max() / of_day.min() < 2


def test_sizes_have_round_lots_and_a_heavy_tail() -> None:
    market = SimulatedMarket(MarketSettings(("AAPL",), 20.0))
    sizes = market.trades(NOON, NOON + 2 * HOUR_US).sizes
    assert 0.55 < (sizes % 100 == 0).mean() < 0.75
    assert np.median(sizes) == 100
    assert sizes.max() > 100 * np.median(sizes)
    top = np.sort(sizes)[-len(sizes) // 100 :].sum() / sizes.sum()
    assert 0.1 < top < 0.5, "1 % of the trades have 10 to 50 % of the volume"


def test_trades_alternate_between_bid_and_ask() -> None:
    market = SimulatedMarket(MarketSettings(("AAPL", "SYM0005", "EUR/USD"), 60.0))
    trades = market.trades(NOON, NOON + 20 * MINUTE_US)
    for code, tick in ((0, 0.01), (1, 0.01), (2, 1e-5)):
        prices = trades.prices[trades.codes == code]
        spread = market.spread(np.full(len(prices), code), prices)
        assert np.abs(prices / tick - np.rint(prices / tick)).max() < 1e-6
        assert spread.min() >= tick * 0.999
        moves = np.diff(prices)
        assert -0.6 < autocorrelation(moves) < -0.2, "the autocorrelation is that of Roll's model"
        assert np.median(np.abs(moves[moves != 0])) <= 1.5 * np.median(spread)
    wide, narrow = (market.spread(np.array([code]), np.array([100.0]))[0] for code in (1, 0))
    assert wide > narrow


def test_few_symbols_have_most_trades_and_quiet_ones_have_empty_minutes() -> None:
    market = SimulatedMarket(MarketSettings(symbol_names(2_000), 100.0))
    counts = np.sort(np.bincount(market.trades(NOON, NOON + 5 * MINUTE_US).codes, minlength=2_000))[::-1]
    assert counts[:200].sum() > 0.5 * counts.sum()
    quiet = market.bars("SYM1000", NOON, NOON + 3 * HOUR_US, MINUTE_US)
    busy = market.bars("AAPL", NOON, NOON + 3 * HOUR_US, MINUTE_US)
    assert 0 < len(quiet.starts_us) < 180
    assert len(busy.starts_us) == 180


@pytest.mark.parametrize("sessions", ["always", "us"])
def test_the_rate_is_the_average_while_the_market_is_open(sessions: str) -> None:
    market = SimulatedMarket(MarketSettings(symbol_names(300), 20.0, sessions=sessions))
    begin = TUESDAY + (13 * HOUR_US + 30 * MINUTE_US if sessions == "us" else 0)
    length = 390 * MINUTE_US if sessions == "us" else DAY_US
    found = len(market.trades(begin, begin + length).codes) / (length / SECOND_US)
    assert 0.9 * 20 < found < 1.1 * 20


def test_with_us_sessions_stocks_do_not_trade_at_night_and_on_weekends() -> None:
    market = SimulatedMarket(MarketSettings(("AAPL", "BTC/USD"), 2.0, sessions="us"))
    saturday = 1_790_380_800_000_000  # 2026-09-26
    assert set(market.trades(saturday, saturday + MINUTE_US).codes.tolist()) == {1}
    assert len(market.bars("AAPL", saturday, saturday + DAY_US, MINUTE_US).starts_us) == 0
    friday = market.bars("AAPL", saturday - DAY_US, saturday, MINUTE_US)
    assert len(friday.starts_us) == 390
    assert len(market.bars("AAPL", saturday - 7 * DAY_US, saturday, DAY_US).starts_us) == 5


def test_us_sessions_have_holidays_and_half_days() -> None:
    market = SimulatedMarket(MarketSettings(("AAPL",), 2.0, sessions="us"))
    thanksgiving = micros_of(dt.datetime(2026, 11, 26, tzinfo=dt.UTC))
    days = market.bars("AAPL", thanksgiving - 3 * DAY_US, thanksgiving + 3 * DAY_US, DAY_US)
    assert (days.starts_us - thanksgiving).tolist() == [-3 * DAY_US, -2 * DAY_US, -DAY_US, DAY_US]
    half = market.bars("AAPL", thanksgiving + DAY_US, thanksgiving + 2 * DAY_US, MINUTE_US)
    assert len(half.starts_us) == 210
    assert datetime_of(int(half.starts_us[-1])).hour == 17
    assert len(market.trades(thanksgiving, thanksgiving + DAY_US).codes) == 0
    noon = np.array([thanksgiving + 17 * HOUR_US, thanksgiving + DAY_US + 17 * HOUR_US])
    assert market.is_open(noon).tolist() == [False, True]
    assert SimulatedMarket(MarketSettings(("AAPL",))).is_open(noon).tolist() == [True, True]


@pytest.mark.parametrize(
    ("friday", "closed", "open_again"),
    [
        ("2026-03-06", "2026-03-06T22:00", "2026-03-08T21:00"),  # New York's clocks go forward on this Sunday
        ("2026-10-30", "2026-10-30T21:00", "2026-11-01T22:00"),  # and back on this one
        ("2026-01-02", "2026-01-02T22:00", "2026-01-04T22:00"),
    ],
)
def test_with_sessions_currency_pairs_do_not_trade_at_weekends(friday: str, closed: str, open_again: str) -> None:
    market = SimulatedMarket(MarketSettings(("AAPL", "EUR/USD", "BTC/USD"), 1.0, 7, "us"))
    begin, first, second = (int(np.datetime64(text, "us").astype(np.int64)) for text in (friday, closed, open_again))
    every = range(begin, begin + 4 * DAY_US, HOUR_US)
    hours = market.bars("EUR/USD", begin, begin + 4 * DAY_US, HOUR_US).starts_us.tolist()
    assert hours == [hour for hour in every if not first <= hour < second]
    assert market.bars("BTC/USD", begin, begin + 4 * DAY_US, HOUR_US).starts_us.tolist() == [*every]
    assert not len(market.trades_of("EUR/USD", first, first + HOUR_US // 4).times_us)
