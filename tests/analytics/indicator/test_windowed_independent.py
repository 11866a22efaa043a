"""Windowed indicators that TA-Lib lacks equal plain derivations from their sources; tests of the kernels.

A derivation evaluates the printed formula on the window of one bar, in fractions or in decimals of forty digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analytics.support import FILES, batch, inputs_of, ohlcv, random_bars, streamed
from tickerplant.analytics import compute
from tickerplant.analytics.indicator import parse
from tickerplant.analytics.indicator.extremes import BlockExtreme
from tickerplant.analytics.realtime.indicator_state import IndicatorState
from tickerplant.core.errors import BadInput

Bars = dict[str, np.ndarray]
Window = dict[str, list[Fraction]]
"""Columns of the bars of a window by name, oldest first, as exact numbers."""


def window(bars: Bars, bar: int, length: int) -> Window:
    first = bar - length + 1
    assert first >= 0
    return {name: [Fraction(value) for value in column[first : bar + 1].tolist()] for name, column in bars.items()}


def mean(values: Sequence[Fraction | Decimal]) -> Fraction | Decimal:
    return sum(values[1:], values[0]) / len(values)


def sample_variance(values: Sequence[Decimal]) -> Decimal:
    middle = sum(values) / len(values)
    return sum((value - middle) ** 2 for value in values) / (len(values) - 1)  # type: ignore[return-value]


def decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def ln(price: Fraction, base: Fraction) -> Decimal:
    return (decimal(price) / decimal(base)).ln()


def logs(prices: Sequence[Fraction], bases: Sequence[Fraction]) -> list[Decimal]:
    return [ln(price, base) for price, base in zip(prices, bases, strict=True)]


def donchian(bars: Bars, bar: int) -> list[Fraction]:
    """Return highest high, middle and lowest low of 20 bars. Source: C. M. Faith, Way of the Turtle, ch. 10."""
    w = window(bars, bar, 20)
    upper, lower = max(w["high"]), min(w["low"])
    return [upper, (upper + lower) / 2, lower]


def ichimoku(ahead: int) -> Callable[[Bars, int], list[Fraction]]:
    """Return a function that computes conversion line, base line and both spans, which are shifted `ahead` bars.

    Each line is the middle of the extremes of 9, 26 or 52 bars. Source: StockCharts, Ichimoku Cloud.
    """

    def middle(bars: Bars, bar: int, length: int) -> Fraction:
        w = window(bars, bar, length)
        return (max(w["high"]) + min(w["low"])) / 2

    def values(bars: Bars, bar: int) -> list[Fraction]:
        then = bar - ahead
        a = (middle(bars, then, 9) + middle(bars, then, 26)) / 2
        return [middle(bars, bar, 9), middle(bars, bar, 26), a, middle(bars, then, 52)]

    return values


def close_to_close(bars: Bars, bar: int) -> list[Decimal]:
    """Return √(252 / (n − 1) · Σ(r − r̄)²) of n = 20 log returns r.

    Source: R package TTR, `volatility(calc = "close")`, whose n is the number of prices, 21.
    """
    w = window(bars, bar, 21)
    return [(252 * sample_variance(logs(w["close"][1:], w["close"][:-1]))).sqrt()]


def historical(bars: Bars, bar: int) -> list[Decimal]:
    """Return 100 · stdev(r) · √252 of 20 log returns r, with the population's standard deviation.

    Source: TradingView, Historical Volatility.
    """
    w = window(bars, bar, 21)
    return [100 * (252 * sample_variance(logs(w["close"][1:], w["close"][:-1])) * 19 / 20).sqrt()]


def parkinson(bars: Bars, bar: int) -> list[Decimal]:
    """Return √(252 / (4 n ln 2) · Σ ln(h / l)²) of n = 20 bars. Source: TTR, `volatility(calc = "parkinson")`."""
    w = window(bars, bar, 20)
    total = sum(value**2 for value in logs(w["high"], w["low"]))
    return [(252 / (4 * 20 * Decimal(2).ln()) * total).sqrt()]


def garman_klass(bars: Bars, bar: int) -> list[Decimal]:
    """Return √(252 / n · Σ(½ ln(h / l)² − (2 ln 2 − 1) ln(c / o)²)) of n = 20 bars.

    Source: TTR, `volatility(calc = "garman.klass")`.
    """
    w = window(bars, bar, 20)
    reach, body = logs(w["high"], w["low"]), logs(w["close"], w["open"])
    terms = [r**2 / 2 - (2 * Decimal(2).ln() - 1) * b**2 for r, b in zip(reach, body, strict=True)]
    return [(252 * sum(terms) / 20).sqrt()]


def yang_zhang(bars: Bars, bar: int) -> list[Decimal]:
    """Return `√(252 · (s²o + k s²c + (1 − k) s²rs))` of n = 20 bars.

    `k = 0.34 / (1.34 + (n + 1) / (n − 1))`. Source: Yang and Zhang (2000), eq. 7–10.
    """
    w = window(bars, bar, 21)
    opened, high, low, close = (w[name][1:] for name in ("open", "high", "low", "close"))
    reach = [
        hc * ho + lc * lo
        for hc, ho, lc, lo in zip(
            logs(high, close), logs(high, opened), logs(low, close), logs(low, opened), strict=True
        )
    ]
    k = Decimal("0.34") / (Decimal("1.34") + Decimal(21) / Decimal(19))
    gaps, bodies = sample_variance(logs(opened, w["close"][:-1])), sample_variance(logs(close, opened))
    return [(252 * (gaps + k * bodies + (1 - k) * sum(reach) / 20)).sqrt()]


def money_flow(bars: Bars, bar: int) -> list[Fraction]:
    """Return Σ(multiplier · volume) / Σ volume of 20 bars. Source: StockCharts ChartSchool, Chaikin Money Flow."""
    w = window(bars, bar, 20)
    flow = Fraction(0)
    for high, low, close, volume in zip(w["high"], w["low"], w["close"], w["volume"], strict=True):
        multiplier = ((close - low) - (high - close)) / (high - low) if high > low else Fraction(0)
        flow += multiplier * volume
    traded = sum(w["volume"])
    return [flow / traded if traded else Fraction(0)]


def bands(bars: Bars, bar: int) -> list[Decimal]:
    """Return upper, middle and lower band, %B and BandWidth of 20 bars and 2 deviations.

    %B = (close − lower) / (upper − lower), BandWidth = (upper − lower) / middle. Source: Bollinger (2001), ch. 8.
    """
    close = [decimal(value) for value in window(bars, bar, 20)["close"]]
    middle = sum(close) / 20
    deviation = (sum((value - middle) ** 2 for value in close) / Decimal(20)).sqrt()
    upper, lower = middle + 2 * deviation, middle - 2 * deviation
    percent_b = (close[-1] - lower) / (upper - lower) if upper > lower else Decimal("0.5")
    return [upper, middle, lower, percent_b, (upper - lower) / middle]


def metatrader(bars: Bars, bar: int) -> list[Fraction]:
    """Return %K and %D. %K = 100 · Σ(c − lowest) / Σ(highest − lowest) over 3 bars; %D is the mean of 3 %K.

    Source: MetaQuotes, Stochastic.
    """

    def k(at: int) -> Fraction:
        above = height = Fraction(0)
        for one in range(at - 2, at + 1):
            w = window(bars, one, 14)
            above += w["close"][-1] - min(w["low"])
            height += max(w["high"]) - min(w["low"])
        return 100 * above / height if height else Fraction(100)

    return [k(bar), (k(bar) + k(bar - 1) + k(bar - 2)) / 3]


DERIVED: dict[str, tuple[int, Callable[[Bars, int], Sequence[Fraction | Decimal]]]] = {
    "DONCHIAN(20)": (20, donchian),
    "ICHIMOKU(9,26,52,26)": (78, ichimoku(26)),
    "ICHIMOKU(9,26,52,26)@tradingview": (77, ichimoku(25)),
    "ICHIMOKU(9,26,52,0)": (52, ichimoku(0)),
    "VOLCC(20,252)": (21, close_to_close),
    "VOLCC(20,252)@tradingview": (21, historical),
    "VOLPARKINSON(20,252)": (20, parkinson),
    "VOLGK(20,252)": (20, garman_klass),
    "VOLYZ(20,252)": (21, yang_zhang),
    "CMF(20)": (20, money_flow),
    "BBANDS(20,2)": (20, bands),
    "STOCH(14,3,3)@metatrader": (18, metatrader),
}


@pytest.mark.parametrize("text", DERIVED)
@pytest.mark.parametrize("name", FILES)
def test_values_equal_those_derived_from_the_source(name: str, text: str) -> None:
    bars = {column: values for column, values in ohlcv(name).items() if column not in ("session", "vwap")}
    warmup, derive = DERIVED[text]
    made = np.array(list(compute(bars, text).values()))
    count = made.shape[1]
    assert parse(text).warmup == warmup
    assert np.isnan(made[:, : warmup - 1]).all()
    assert not np.isnan(made[:, warmup - 1 :]).any()
    with localcontext() as context:
        context.prec = 40
        for bar in [*range(warmup - 1, warmup + 60), *range(warmup + 60, count, count // 120), count - 1]:
            reference = [float(value) for value in derive(bars, bar)]
            np.testing.assert_allclose(made[:, bar], reference, rtol=1e-9, atol=1e-11)


OTHERS = ["STOCH(2,1,1)", "STOCH(5,4,7)", "STOCH(3,9,2)@metatrader", "STOCHF(4,1)", "ICHIMOKU(1,2,3,0)",
          "ICHIMOKU(4,4,5,1)@tradingview", "ICHIMOKU(3,11,17,40)", "DONCHIAN(2)", "WILLR(5)", "CCI(2)", "MFI(2)",
          "VOLCC(2,1)", "VOLYZ(3,1)", "VOLGK(2,365)", "CMF(3)", "AROON(3)", "WMA(2)", "ROC(1)"]  # fmt: skip


@pytest.mark.parametrize("text", OTHERS)
def test_other_parameters_give_bit_identical_values_in_a_stream_a_batch_and_after_a_rewind(text: str) -> None:
    indicator = parse(text)
    bars = random_bars(200, 70, seed=4)
    made = streamed(indicator, bars)
    assert streamed(indicator, bars, sliced=True).tobytes() == made.tobytes()
    one = {name: values[:, 5] for name, values in bars.items()}
    expected = batch(indicator, one)
    assert np.ascontiguousarray(made[:, :, 5]).tobytes() == expected.tobytes()
    series = inputs_of(indicator, one)
    for position in range(60, 200, 13):
        state = IndicatorState(indicator, 96, 1)
        state.run(0, 0, series)
        start = state.rewind(0, position)
        again = state.run(0, start, tuple(values[start:] for values in series))
        assert again[:, position - start :].tobytes() == expected[:, position:].tobytes()


@given(
    st.integers(2, 9),
    st.booleans(),
    st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, 1e100, -1e100, 1e-300]), min_size=1, max_size=60),
    st.integers(0, 20),
)
def test_extremes_equal_those_of_the_window_for_a_state_that_starts_anywhere(
    n: int, highest: bool, values: list[float], start: int
) -> None:
    kernel, x = BlockExtreme(n, highest=highest), np.array(values)
    state, stepped = np.zeros(kernel.width), np.zeros((kernel.width, 1))
    made = kernel.run(state, start, x)
    steps = [
        kernel.step(stepped, slice(0, 1), start + bar, x[bar : bar + 1], keep=True)[0] for bar in range(len(values))
    ]
    assert np.array(steps).tobytes() == made.tobytes()
    assert stepped[:, 0].tobytes() == state.tobytes()
    warm = n if start == 0 else 2 * n - 1
    extreme = max if highest else min
    for bar in range(warm - 1, len(values)):
        assert made[bar] == extreme(values[bar - n + 1 : bar + 1])


def test_bollinger_bands_of_zero_width_have_a_percent_b_of_one_half_and_a_bandwidth_of_zero() -> None:
    bands = compute(np.full(60, 0.1), "BBANDS(20,2)")
    assert (bands["bbands_20_2_percent_b"][19:] == 0.5).all()
    assert (bands["bbands_20_2_bandwidth"][19:] == 0.0).all()
    around_zero = compute(np.array([1.0, -1.0] * 20), "BBANDS(20,2)")
    assert (around_zero["bbands_20_2_bandwidth"][19:] == 0.0).all()
    assert (around_zero["bbands_20_2_percent_b"][20:22] == [0.75, 0.25]).all()


def test_a_price_that_is_not_positive_counts_as_no_change() -> None:
    bars = {name: values[:, 0] for name, values in random_bars(60, 1).items()}
    for column in ("open", "high", "low", "close"):
        bars[column][30] = -37.63
    for name, left in (("VOLPARKINSON", 19), ("VOLGK", 19)):
        made = next(iter(compute(bars, f"{name}(20,1)").values()))
        others = {column: np.delete(values, 30) for column, values in bars.items()}
        without = next(iter(compute(others, f"{name}({left},1)").values()))
        np.testing.assert_allclose(made[49], without[48] * np.sqrt(19 / 20), rtol=1e-12)
    closes = bars["close"].copy()
    closes[30] = np.nan
    returns = np.log(closes[1:] / closes[:-1])
    returns[29:31] = 0.0
    made = compute(bars, "VOLCC(20,1)")["volcc_20_1"]
    np.testing.assert_allclose(made[45], np.std(returns[25:45], ddof=1), rtol=1e-12)


def test_money_flow_is_zero_without_volume_and_for_bars_without_a_range() -> None:
    bars = {name: values[:, 0] for name, values in random_bars(60, 1).items()}
    assert (compute({**bars, "volume": np.zeros(60)}, "CMF(20)")["cmf_20"][19:] == 0.0).all()
    assert (compute({**bars, "volume": np.zeros(60)}, "MFI(14)")["mfi_14"][14:] == 0.0).all()
    same = {**bars, "high": bars["close"], "low": bars["close"]}
    assert (compute(same, "CMF(20)")["cmf_20"][19:] == 0.0).all()


def test_money_flow_is_1_for_closes_at_the_high_and_minus_1_for_closes_at_the_low() -> None:
    bars = {name: values[:, 0] for name, values in random_bars(60, 1).items()}
    np.testing.assert_allclose(compute({**bars, "close": bars["high"]}, "CMF(20)")["cmf_20"][19:], 1.0, rtol=1e-12)
    np.testing.assert_allclose(compute({**bars, "close": bars["low"]}, "CMF(20)")["cmf_20"][19:], -1.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ICHIMOKU(26,9,52)", "must be in ascending order"),
        ("ICHIMOKU(9,26,20)", "must be in ascending order"),
        ("STOCH(1,3,3)", r"fastk is 1; it must be in 2\.\.1000"),
        ("STOCH(14,0,3)", r"slowk is 0; it must be in 1\.\.100"),
        ("STOCH(14,3,3)@tradingview", "no dialect 'tradingview'"),
        ("VOLCC(20,0)", "per_year is 0"),
        ("VOLCC(1)", "period is 1"),
    ],
)
def test_invalid_parameters_are_refused(text: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        parse(text)
