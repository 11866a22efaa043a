"""The contract of every indicator.

Values of a stream, a batch, parts of a batch, a peek and a rewind are bit-identical. Extreme bars give finite values.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analytics.support import FILES, batch, inputs_of, ohlcv, random_bars, streamed
from tickerplant.analytics.indicator import INDICATORS, parse
from tickerplant.analytics.indicator.declaration import BAR_INPUTS, Indicator
from tickerplant.analytics.realtime.indicator_state import CHECKPOINT_BARS, IndicatorState

EVERY = [parse(name) for name in INDICATORS]
EVERY += [parse(f"{name}@{dialect}") for name, kind in INDICATORS.items() for dialect in kind.DIALECTS[1:]]


@pytest.mark.parametrize("sliced", [False, True], ids=["rows", "slice"])
@pytest.mark.parametrize("indicator", EVERY, ids=str)
def test_the_stream_equals_a_batch_to_the_bit_on_real_prices(indicator: Indicator, sliced: bool) -> None:
    files = [{name: values[:1500] for name, values in ohlcv(file).items()} for file in FILES]
    side = {name: np.stack([file[name] for file in files], axis=1) for name in files[0]}
    made = streamed(indicator, side, sliced=sliced)
    for symbol, file in enumerate(files):
        assert np.ascontiguousarray(made[:, :, symbol]).tobytes() == batch(indicator, file).tobytes()


@pytest.mark.parametrize("indicator", EVERY, ids=str)
def test_values_of_many_symbols_together_equal_those_of_each_alone(indicator: Indicator) -> None:
    bars = random_bars(90, 150, seed=9)
    made = streamed(indicator, bars)
    assert streamed(indicator, bars, sliced=True).tobytes() == made.tobytes()
    for symbol in range(0, 150, 7):
        alone = batch(indicator, {name: values[:, symbol] for name, values in bars.items()})
        assert np.ascontiguousarray(made[:, :, symbol]).tobytes() == alone.tobytes()


@pytest.mark.parametrize("sliced", [False, True], ids=["rows", "slice"])
@pytest.mark.parametrize("indicator", EVERY, ids=str)
def test_a_peek_changes_no_state_and_returns_the_values_of_the_following_step(
    indicator: Indicator, sliced: bool
) -> None:
    series = inputs_of(indicator, random_bars(300, 3))
    state, rows = IndicatorState(indicator, 64, 3), slice(0, 3) if sliced else np.arange(3)
    for bar in range(300):
        before, count = state.state.tobytes(), bar if sliced else np.full(3, bar)
        one = tuple(values[bar] for values in series)
        peeked = np.array(state.step(rows, count, one, keep=False))
        assert state.state.tobytes() == before
        assert np.array(state.step(rows, count, one, keep=True)).tobytes() == peeked.tobytes()


@pytest.mark.parametrize("indicator", EVERY, ids=str)
def test_the_run_of_an_indicator_equals_the_run_of_the_base_class(indicator: Indicator) -> None:
    series = tuple(values[:, 0] for values in inputs_of(indicator, random_bars(450, 1, seed=2)))
    own, base = np.zeros(indicator.width), np.zeros(indicator.width)
    made, plain = indicator.run(own, 0, series), Indicator.run(indicator, base, 0, series)
    for due, values, others in zip(indicator.warmups, made.outputs, plain.outputs, strict=True):
        assert values[due - 1 :].tobytes() == others[due - 1 :].tobytes()
    assert own.tobytes() == base.tobytes()
    assert (made.trace is None) == (plain.trace is None)
    if made.trace is not None and plain.trace is not None:
        assert made.trace.tobytes() == plain.trace.tobytes()


@pytest.mark.parametrize("indicator", EVERY, ids=str)
def test_values_after_a_rewind_equal_the_values_before_it(indicator: Indicator) -> None:
    series = tuple(values[:, 0] for values in inputs_of(indicator, random_bars(300, 1, seed=3)))
    expected = IndicatorState(indicator, 0, 1).run(0, 0, series)
    for position in (299, 280, 251):
        state = IndicatorState(indicator, 96, 1)
        state.run(0, 0, series)
        start = state.rewind(0, position)
        assert position - max(CHECKPOINT_BARS, 2 * indicator.block) <= start <= position
        again = state.run(0, start, tuple(values[start:] for values in series))
        assert again[:, position - start :].tobytes() == expected[:, position:].tobytes()


prices = st.one_of(st.floats(0.01, 1000), st.sampled_from([1.0, 1e-300, 1e-12, 1e90, -37.63, 0.0, 1e100, 0.1, 1e-8]))
rows_of_bars = st.lists(
    st.tuples(prices, prices, prices, prices, st.sampled_from([0.0, 1.0, 250.0, 1e12, 0.5]), st.booleans()),
    min_size=1,
    max_size=80,
)


@given(rows_of_bars, st.sampled_from(EVERY), st.data())
def test_any_prices_give_equal_finite_values_in_a_stream_and_in_any_parts_of_a_batch(
    rows: list[tuple[float, float, float, float, float, bool]], indicator: Indicator, data: st.DataObject
) -> None:
    part = np.array([row[:5] for row in rows]).T
    low, high = part[:4].min(axis=0), part[:4].max(axis=0)
    vwap = high / 3 + low / 3 + part[3] / 3
    sessions = np.cumsum([row[5] for row in rows]).astype(float)
    columns = (part[0], high, low, part[3], part[4], vwap, sessions)
    bars = dict(zip(BAR_INPUTS, columns, strict=True))
    made = streamed(indicator, {name: values[:, None] for name, values in bars.items()})[:, :, 0]
    for due, values in zip(indicator.warmups, made, strict=True):
        assert np.isfinite(values[due - 1 :]).all()
        assert np.isnan(values[: due - 1]).all()
    series = inputs_of(indicator, bars)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(rows)), max_size=4)))
    state = IndicatorState(indicator, 64, 1)
    parts = [
        state.run(0, a, tuple(values[a:b] for values in series))
        for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)
    ]
    assert np.concatenate(parts, axis=1).tobytes() == made.tobytes()


@pytest.mark.parametrize("indicator", EVERY, ids=str)
def test_declarations_are_complete(indicator: Indicator) -> None:
    kind = type(indicator)
    assert kind.SOURCE
    assert kind.__doc__
    assert set(kind.INPUTS) <= set(BAR_INPUTS)
    assert (kind.OUTPUTS == ("",)) or all(kind.OUTPUTS)
    assert parse(str(indicator)) == indicator
    assert len(indicator.warmups) == len(kind.OUTPUTS)
    assert max(indicator.warmups) == indicator.warmup >= min(indicator.warmups) >= 1
    assert all(parameter.default is not None for parameter in kind.PARAMETERS)
    if not indicator.block:  # checkpoints contain the state of every symbol
        assert indicator.width <= 64
