"""Comparison of the bars of two sources. The verdict is same, stamped at end, adjusted, different, or too few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.market_data.vendors.support import bars_batch
from tests.support.properties import examples
from tickerplant.core.times import DAY_US, MINUTE_US
from tickerplant.market_data.vendors.comparison import ADJUSTED, DIFFERENT, SAME, STAMPED_AT_END, TOO_FEW, Bars, compare

OPEN_US = 1_773_063_000_000_000  # 2026-03-09T13:30:00Z


def market(
    n: int = 120,
    *,
    seed: int = 1,
    interval_us: int = MINUTE_US,
    price: float = 180.0,
    sigma: float = 5e-4,
    decimals: int = 2,
) -> Bars:
    """Return n bars of a random walk, with prices rounded to `decimals`. `sigma` is the deviation of a log return."""
    random = np.random.default_rng(seed)
    closes = price * np.exp(np.cumsum(random.normal(0, sigma, n)))
    opens = np.concatenate([[price], closes[:-1]]) * np.exp(random.normal(0, sigma / 5, n))
    highs = np.maximum(opens, closes) * np.exp(np.abs(random.normal(0, sigma / 2, n)))
    lows = np.minimum(opens, closes) * np.exp(-np.abs(random.normal(0, sigma / 2, n)))
    times = OPEN_US + np.arange(n, dtype=np.int64) * interval_us
    volumes = np.rint(random.lognormal(8, 1, n))
    return Bars(times, np.round(np.stack([opens, highs, lows, closes]), decimals), volumes)


def changed(bars: Bars, *, ratio: object = 1.0, later_us: int = 0, decimals: int = 6, volumes: float = 1.0) -> Bars:
    return Bars(bars.times + later_us, np.round(bars.prices * ratio, decimals), bars.volumes * volumes)


def test_bars_with_equal_prices_are_the_same_with_any_volumes() -> None:
    bars = market()
    assert compare(bars, bars, MINUTE_US).verdict == SAME
    found = compare(bars, changed(bars, volumes=0.03), MINUTE_US)
    assert (found.verdict, found.usable, found.bars) == (SAME, True, 120)
    assert found.volume_ratio == pytest.approx(0.03)
    assert compare(bars, changed(bars, volumes=0.0), MINUTE_US).volume_ratio == 0.0


@pytest.mark.parametrize("decimals", [2, 3, 4])
@pytest.mark.parametrize("price", [3.0, 180.0, 4_000.0])
def test_rounding_is_no_difference(price: float, decimals: int) -> None:
    bars = market(price=price, decimals=5)
    assert compare(bars, changed(bars, decimals=decimals), MINUTE_US).verdict in (SAME, TOO_FEW)
    assert compare(bars, changed(bars, decimals=4), MINUTE_US).verdict == SAME


def test_a_few_deviating_bars_and_small_noise_are_no_difference() -> None:
    bars, random = market(), np.random.default_rng(5)
    noise = np.exp(random.normal(0, 1e-4, bars.prices.shape))
    odd = np.where(random.random(120) < 0.05, 1.004, 1.0)
    found = compare(bars, changed(bars, ratio=noise * odd), MINUTE_US)
    assert found.verdict == SAME
    assert 0 < found.share <= 0.1
    assert found.worst > 0.003


@pytest.mark.parametrize("interval_us", [MINUTE_US, DAY_US])
@pytest.mark.parametrize("sigma", [3e-5, 5e-4, 1e-2])
def test_bars_stamped_at_the_end_are_detected_by_their_price_changes(interval_us: int, sigma: float) -> None:
    bars = market(interval_us=interval_us, sigma=sigma, decimals=5)
    for sign in (1, -1):
        found = compare(bars, changed(bars, later_us=sign * interval_us), interval_us)
        assert (found.verdict, found.shift, found.usable) == (STAMPED_AT_END, sign, False)
        assert found.bars == 120
    assert "end" in str(compare(bars, changed(bars, later_us=interval_us), interval_us))


def test_a_shift_is_detected_despite_noise_and_gaps() -> None:
    bars, random = market(300, sigma=1e-3), np.random.default_rng(2)
    keep = random.random(300) < 0.8
    noisy = changed(bars, ratio=np.exp(random.normal(0, 5e-5, bars.prices.shape)), later_us=MINUTE_US)
    found = compare(bars, Bars(noisy.times[keep], noisy.prices[:, keep], noisy.volumes[keep]), MINUTE_US)
    assert found.verdict == STAMPED_AT_END


@pytest.mark.parametrize("ratio", [4.0, 0.25, 0.1, 20.0, 0.995, 1.0025])
def test_a_constant_ratio_is_an_adjustment(ratio: float) -> None:
    bars = market(interval_us=DAY_US, sigma=1e-2)
    found = compare(bars, changed(bars, ratio=ratio, volumes=1 / ratio), DAY_US)
    assert found.verdict == ADJUSTED
    assert found.ratio == pytest.approx(ratio, rel=1e-3)
    assert not found.usable
    assert f"{ratio:.6g}"[:3] in str(found)


@pytest.mark.parametrize("before", [0.25, 0.995])
@pytest.mark.parametrize("at", [10, 60, 110])
def test_a_split_or_dividend_in_between_adjusts_the_earlier_prices(before: float, at: int) -> None:
    bars = market(interval_us=DAY_US, sigma=1e-2)
    found = compare(bars, changed(bars, ratio=np.where(np.arange(120) < at, before, 1.0)), DAY_US)
    assert found.verdict == ADJUSTED
    assert found.ratio == pytest.approx(before, rel=1e-3)


def test_bars_that_are_adjusted_and_shifted_have_the_verdict_adjusted_and_a_shift() -> None:
    bars = market(sigma=1e-3)
    found = compare(bars, changed(bars, ratio=0.5, later_us=MINUTE_US), MINUTE_US)
    assert found.verdict == ADJUSTED
    assert found.shift == 1


def test_another_instrument_is_different() -> None:
    for other in (market(seed=2), market(seed=2, price=40.0)):
        found = compare(market(), other, MINUTE_US)
        assert found.verdict == DIFFERENT
        assert not found.usable
        assert found.share > 0.5
        assert found.worst > 5e-4
        assert "differ" in str(found)


def test_a_difference_of_highs_alone_is_different() -> None:
    bars = market()
    prices = bars.prices.copy()
    prices[1] *= 1.003
    found = compare(bars, Bars(bars.times, prices, bars.volumes), MINUTE_US)
    assert found.verdict == DIFFERENT
    assert found.worst == pytest.approx(0.003, rel=0.05)


def test_flat_prices_have_the_verdict_too_few() -> None:
    bars = market()
    flat = Bars(bars.times, np.full_like(bars.prices, 100.0), bars.volumes)
    assert compare(flat, flat, MINUTE_US).verdict == TOO_FEW
    assert compare(flat, changed(flat, later_us=MINUTE_US), MINUTE_US).verdict == TOO_FEW
    # Prices are flat except for one step, so a single bar shows the shift.
    stepped = flat.prices.copy()
    stepped[:, 60:] = 101.0
    step = Bars(bars.times, stepped, bars.volumes)
    found = compare(step, changed(step, later_us=MINUTE_US), MINUTE_US)
    assert (found.verdict, found.usable) == (TOO_FEW, True)
    # Prices near five cents, rounded to cents, do not change.
    penny = Bars(bars.times, np.round(0.05 + 0.002 * np.sin(np.arange(120)) * np.ones((4, 1)), 2), bars.volumes)
    assert compare(penny, penny, MINUTE_US).verdict == TOO_FEW


@pytest.mark.parametrize("n", [0, 1, 5, 19])
def test_fewer_than_20_bars_have_the_verdict_too_few(n: int) -> None:
    bars = market(n)
    assert compare(bars, bars, MINUTE_US).verdict == TOO_FEW
    assert compare(market(), bars, MINUTE_US).verdict == TOO_FEW
    apart = changed(market(), later_us=DAY_US)
    assert compare(market(), apart, MINUTE_US).bars == 0


def test_bars_without_prices_are_dropped() -> None:
    bars = market()
    prices = bars.prices.copy()
    prices[0, 3], prices[3, 5], prices[:, 7] = np.nan, 0.0, -1.0
    found = compare(bars, Bars(bars.times, prices, bars.volumes), MINUTE_US)
    assert (found.verdict, found.bars) == (SAME, 117)


@examples(60)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 200),
    sigma=st.sampled_from([0.0, 1e-5, 3e-4, 2e-2]),
    ratio=st.floats(0.01, 100),
    later=st.integers(-3, 3),
    decimals=st.integers(0, 8),
)
def test_a_comparison_always_has_a_verdict(
    seed: int, n: int, sigma: float, ratio: float, later: int, decimals: int
) -> None:
    bars = market(n, seed=seed, sigma=sigma)
    found = compare(bars, changed(bars, ratio=ratio, later_us=later * MINUTE_US, decimals=decimals), MINUTE_US)
    assert found.verdict in (SAME, STAMPED_AT_END, ADJUSTED, DIFFERENT, TOO_FEW)
    assert np.isfinite([found.ratio, found.share, found.worst, found.volume_ratio]).all()
    if abs(later) > 1 and sigma >= 3e-4:
        assert found.verdict in (DIFFERENT, TOO_FEW)


def test_columns_are_read_from_a_batch() -> None:
    batch = bars_batch("AAPL", OPEN_US, 30)
    bars = Bars.of(batch)
    assert bars.prices.shape == (4, 30)
    assert compare(bars, bars, MINUTE_US).verdict == SAME
    assert Bars.of(batch.slice(0, 0)).prices.shape == (4, 0)
