from __future__ import annotations

import itertools

import numpy as np
import pytest

from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US
from tickerplant.market_data.sandbox.model import Market, MarketSettings, symbol_names

NOON = 1_790_000_000_000_000 // DAY_US * DAY_US + DAY_US // 2


@pytest.mark.parametrize(("count", "rate"), [(12, 50.0), (12, 7.3), (3, 1.0), (1000, 333.0)])
def test_the_stream_and_the_bars_of_history_agree(count: int, rate: float) -> None:
    market = Market(MarketSettings(symbol_names(count), rate))
    before = market.prints(NOON - MINUTE_US, NOON)
    prints = market.prints(NOON, NOON + MINUTE_US)
    for symbol in market.symbols[:20]:
        mine = prints.codes == market.code[symbol]
        bars = market.bars(symbol, NOON, NOON + MINUTE_US, MINUTE_US)
        if not mine.any():
            assert len(bars.starts_us) == 0
            continue
        prices = prints.prices[mine]
        assert [bars.open[0], bars.high[0], bars.low[0], bars.close[0]] == [
            prices[0],
            prices.max(),
            prices.min(),
            prices[-1],
        ]
        former = before.day_volumes[before.codes == market.code[symbol]]
        if len(former):
            assert bars.volume[0] == prints.day_volumes[mine][-1] - former[-1]


def test_prints_do_not_depend_on_how_they_are_asked_for() -> None:
    market = Market(MarketSettings(symbol_names(5), 97.0))
    whole = market.prints(NOON, NOON + 10 * SECOND_US)
    cuts = [NOON, NOON + 1, NOON + 333_333, NOON + 5_000_000, NOON + 10 * SECOND_US]
    parts = [market.prints(a, b) for a, b in itertools.pairwise(cuts)]
    assert len(whole.codes) == 970
    for name in ("codes", "times_us", "prices", "day_volumes"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
    assert (np.diff(whole.times_us) >= 0).all()


def test_the_volume_of_the_day_grows_and_begins_again_at_midnight() -> None:
    market = Market(MarketSettings(symbol_names(3), 3.0))
    midnight = NOON // DAY_US * DAY_US
    prints = market.prints(midnight - 10 * SECOND_US, midnight + 10 * SECOND_US)
    for code in range(3):
        mine = prints.codes == code
        old, new = mine & (prints.times_us < midnight), mine & (prints.times_us >= midnight)
        assert (np.diff(prints.day_volumes[old]) > 0).all()
        assert (np.diff(prints.day_volumes[new]) > 0).all()
        assert 0 < prints.day_volumes[new][0] < prints.day_volumes[old][0]
        first_lots = np.diff(prints.day_volumes[new]).max() * 2
        assert prints.day_volumes[new][0] <= first_lots + 1


def test_a_seed_is_a_market() -> None:
    def prices(seed: int) -> list[float]:
        return Market(MarketSettings(symbol_names(3), 10.0, seed)).prints(NOON, NOON + SECOND_US).prices.tolist()

    assert prices(1) == prices(1)
    assert prices(1) != prices(2)


def test_prices_move_like_a_market_and_not_like_noise() -> None:
    market = Market(MarketSettings(("AAPL",), 1.0))
    daily = market.bars("AAPL", NOON - 500 * DAY_US, NOON, DAY_US)
    assert 0.05 < np.diff(np.log(daily.close)).std() * np.sqrt(365) < 1.0
    assert ((daily.low <= daily.open) & (daily.open <= daily.high)).all()
    assert daily.close.min() > 20


def test_us_sessions_leave_stocks_alone_at_night_and_on_weekends() -> None:
    market = Market(MarketSettings(("AAPL", "BTC/USD"), 2.0, sessions="us"))
    saturday = 1_790_380_800_000_000  # 2026-09-26
    assert set(market.prints(saturday, saturday + MINUTE_US).codes.tolist()) == {1}
    assert len(market.bars("AAPL", saturday, saturday + DAY_US, MINUTE_US).starts_us) == 0
    friday = market.bars("AAPL", saturday - DAY_US, saturday, MINUTE_US)
    assert len(friday.starts_us) == 390
    assert len(market.bars("AAPL", saturday - 7 * DAY_US, saturday, DAY_US).starts_us) == 5
