"""Stream, batch and TA-Lib agree; odd prices make no odd values."""

from __future__ import annotations

import numpy as np
import pytest
import talib
from hypothesis import given
from hypothesis import strategies as st

from tests.analytics.support import closes
from tickerplant.analytics import compute
from tickerplant.analytics.indicator import INDICATORS, parse
from tickerplant.analytics.indicator.declaration import BAR_INPUTS, Indicator
from tickerplant.analytics.study import Study
from tickerplant.core.errors import BadInput

FILES = ["msft_daily_1990_2022.csv", "spy_like_1m_2020_12.csv", "btc_perp_1m_2022_01.csv.gz"]
TEXTS = ["SMA(2)", "SMA(20)", "SMA(200)", "EMA(2)", "EMA(12)", "EMA(200)", "RSI(2)", "RSI(14)", "BBANDS(20,2)",
         "BBANDS(5,1.5)"]  # fmt: skip


def expected(indicator: Indicator, x: np.ndarray) -> list[np.ndarray]:
    n = int(indicator.values[0])
    if indicator.NAME == "BBANDS":
        return list(talib.BBANDS(x, n, indicator.values[1], indicator.values[1]))
    return [getattr(talib, indicator.NAME)(x, n)]


def streamed(indicator: Indicator, series: np.ndarray) -> np.ndarray:
    """Values of float64[bars, symbols], bar by bar for all symbols: float64[outputs, bars, symbols]."""
    bars, symbols = series.shape
    study = Study(indicator, 64, symbols)
    rows = np.arange(symbols)
    made = [study.step(rows, np.full(symbols, bar), (series[bar],), keep=True) for bar in range(bars)]
    return np.array(made).transpose(1, 0, 2)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", FILES)
def test_batch_is_talib_with_nulls_in_the_same_places(name: str, text: str) -> None:
    x = closes(name)
    made = list(compute(x, text).values())
    for ours, theirs in zip(made, expected(parse(text), x), strict=True):
        assert (np.isnan(ours) == np.isnan(theirs)).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("text", TEXTS)
def test_stream_is_batch_to_the_bit_on_real_prices(text: str) -> None:
    x = np.stack([closes(FILES[0])[:3000], closes(FILES[2])[:3000]], axis=1)
    made = streamed(parse(text), x)
    for symbol in range(2):
        batch = np.stack(list(compute(x[:, symbol], text).values()))
        assert made[:, :, symbol].tobytes() == batch.tobytes()


prices = st.one_of(
    st.floats(0.01, 1000), st.sampled_from([1.0, 1e-300, 1e-12, 5e-324, 1e90, -37.63, 0.0, 1e100, 0.1, 1e-8])
)


@given(st.lists(prices, min_size=1, max_size=60), st.sampled_from([t for t in TEXTS if "200" not in t]), st.data())
def test_any_prices_stream_as_batch_in_any_cuts_without_nan_or_warning(
    series: list[float], text: str, data: st.DataObject
) -> None:
    x, indicator = np.array(series), parse(text)
    made = streamed(indicator, x[:, None])[:, :, 0]
    assert np.isfinite(made[:, indicator.warmup - 1 :]).all()
    assert np.isnan(made[:, : indicator.warmup - 1]).all()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(x)), max_size=4)))
    study = Study(indicator, 64, 1)
    parts = [study.run(0, a, (x[a:b],)) for a, b in zip([0, *cuts], [*cuts, len(x)], strict=True)]
    assert np.concatenate(parts, axis=1).tobytes() == made.tobytes()


@pytest.mark.parametrize("price", [0.1, 1 / 3, 123.456, 1e-12, 1e12])
def test_constant_prices_have_no_deviation_at_all(price: float) -> None:
    bands = compute(np.full(500, price), "BBANDS(20,2)")
    assert all((values[19:] == price).all() for values in bands.values())
    assert (compute(np.full(500, price), "SMA(200)")["sma_200"][199:] == price).all()
    np.testing.assert_array_equal(compute(np.full(50, price), "RSI(14)")["rsi_14"], talib.RSI(np.full(50, price), 14))


def test_a_spike_leaves_nothing_behind() -> None:
    x = np.full(100, 0.1)
    x[30] = 1e9
    bands = compute(x, "BBANDS(20,2)")
    assert bands["bbands_20_2_upper"][60] == bands["bbands_20_2_lower"][60] == 0.1


@pytest.mark.parametrize("text", TEXTS)
def test_peek_changes_nothing_and_then_close_gives_the_same(text: str) -> None:
    indicator = parse(text)
    x = np.random.default_rng(1).uniform(90, 110, (450, 3))
    study, rows = Study(indicator, 64, 3), np.arange(3)
    for bar in range(450):
        before = study.state.tobytes()
        peeked = study.step(rows, np.full(3, bar), (x[bar],), keep=False)
        assert study.state.tobytes() == before
        closed = study.step(rows, np.full(3, bar), (x[bar],), keep=True)
        assert np.array(peeked).tobytes() == np.array(closed).tobytes()


@pytest.mark.parametrize("text", TEXTS)
def test_run_left_to_the_base_class_is_the_run_of_the_indicator(text: str) -> None:
    indicator, x = parse(text), np.random.default_rng(2).uniform(90, 110, 450)
    own, base = np.zeros(indicator.width), np.zeros(indicator.width)
    cold = indicator.warmup - 1
    made, plain = indicator.run(own, 0, (x,)), Indicator.run(indicator, base, 0, (x,))
    assert made.outputs[:, cold:].tobytes() == plain.outputs[:, cold:].tobytes()
    assert own.tobytes() == base.tobytes()
    assert (made.trace is None) == (plain.trace is None)
    if made.trace is not None and plain.trace is not None:
        assert made.trace.tobytes() == plain.trace.tobytes()


def test_many_symbols_at_once_are_each_alone() -> None:
    x = np.random.default_rng(9).uniform(90, 110, (90, 150))
    for text in ("SMA(20)", "BBANDS(20,2)", "EMA(12)", "RSI(14)"):
        made = streamed(parse(text), x)
        for symbol in range(0, 150, 7):
            alone = np.stack(list(compute(x[:, symbol], text).values()))
            assert np.ascontiguousarray(made[:, :, symbol]).tobytes() == alone.tobytes()


def test_columns_are_named_after_the_call() -> None:
    assert parse(" sma ( 20 ) ").columns == ("sma_20",)
    assert parse("BBANDS(20,2)").columns == ("bbands_20_2_upper", "bbands_20_2_middle", "bbands_20_2_lower")
    assert parse("BBANDS(20,2.5)").columns[0] == "bbands_20_2p5_upper"
    assert parse("bbands(20.0,2)") == parse("BBANDS(20,2)")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SMA", "no indicator"),
        ("", "no indicator"),
        ("SMA(20", "no indicator"),
        ("FOO(3)", "unknown indicator 'FOO'"),
        ("SMA()", "takes"),
        ("SMA(20,3)", "takes"),
        ("SMA(1)", "2..1000"),
        ("EMA(-3)", "2..1000"),
        ("SMA(20.5)", "whole"),
        ("SMA(x)", "'x' is no number"),
        ("SMA(nan)", "'nan' is no number"),
        ("BBANDS(20,)", "'' is no number"),
        ("BBANDS(20,0)", "deviations"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(text: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason.replace("(", r"\(").replace(".", r"\.")):
        parse(text)


def test_declarations_are_whole() -> None:
    for name, kind in INDICATORS.items():
        assert name == kind.NAME
        assert kind.SOURCE
        assert kind.PARAMETERS
        assert set(kind.INPUTS) <= set(BAR_INPUTS)
        assert (kind.OUTPUTS == ("",)) or all(kind.OUTPUTS)
