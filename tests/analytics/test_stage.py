"""Values, revisions, snapshots and dead letters of the analytics stage."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analytics.support import T0, Bar, Table, bars, consumed, consumed_bars
from tests.core.samples import no_rows
from tests.support.properties import examples
from tickerplant.analytics import compute
from tickerplant.analytics.stage import AnalyticsStage
from tickerplant.core import records, schemas
from tickerplant.core.errors import SnapshotRefused
from tickerplant.core.rules import SEED_INDICATORS
from tickerplant.core.streams import ConsumedRecord
from tickerplant.core.times import DAY_US, MINUTE_US

SMALL = {"indicators": {"1m": ["SMA(3)", "EMA(4)", "RSI(3)", "BBANDS(4,2)"]}, "forming_indicators": ["RSI(3)"]}


def stage(values: dict | None = None) -> AnalyticsStage:
    made = AnalyticsStage()
    if values is not None:
        assert made.step(consumed(records.Settings(sent_at_us=T0, values=values))) == []
    return made


def minute(i: int) -> int:
    return T0 + i * MINUTE_US


def batch_of(series: dict[int, float], texts: list[str] | tuple[str, ...]) -> dict[int, dict[str, float | None]]:
    times = sorted(series)
    x = np.array([series[time] for time in times])
    bars = {**dict.fromkeys(("open", "high", "low", "close"), x), "volume": np.ones(len(x))}
    columns = {name: values for text in texts for name, values in compute(bars, text).items()}
    return {
        time: {name: None if np.isnan(values[i]) else float(values[i]) for name, values in columns.items()}
        for i, time in enumerate(times)
    }


def values_of(table: Table, symbol: str, interval: str = "1m") -> dict[int, dict[str, float | None]]:
    return {time: row for (name, at, time), row in table.closed.items() if (name, at) == (symbol, interval)}


def test_values_have_the_key_and_version_of_the_bars() -> None:
    made = AnalyticsStage().step(
        consumed_bars([Bar(minute(0), "B", 2.0, interval="5m", version=7), Bar(minute(0), "A", 1.0, interval="5m")], 6)
    )
    assert [output.topic for output in made] == [schemas.ANALYTICS]
    record = records.decode(made[0].value)
    assert record.header == records.Values(sent_at_us=T0, feed="f", cause=7)
    assert record.batch.schema.names[5:] == [
        "sma_20", "sma_50", "sma_200", "ema_12", "ema_26", "ema_50", "ema_200", "rsi_14",
        "macd_12_26_9_line", "macd_12_26_9_signal", "macd_12_26_9_histogram", "stoch_14_3_3_k", "stoch_14_3_3_d",
        "bbands_20_2_upper", "bbands_20_2_middle", "bbands_20_2_lower",
        "bbands_20_2_percent_b", "bbands_20_2_bandwidth", "atr_14", "stddev_20",
    ]  # fmt: skip
    rows = record.batch.to_pylist()
    assert [(row["symbol"], row["version"], row["state"]) for row in rows] == [("B", 7, "final"), ("A", 1, "final")]
    assert all(row["rsi_14"] is None for row in rows)


def test_marks_and_ends_are_forwarded_and_settings_and_splits_are_not() -> None:
    made = stage({})
    mark = records.Mark(sent_at_us=T0, feed="f", cause=5, watermark_us=T0)
    end = records.End(sent_at_us=T0, feed="f", cause=6, whole=True)
    for header in (mark, end):
        (output,) = made.step(consumed(header))
        assert output.topic == schemas.ANALYTICS
        assert records.decode(output.value).header == header
    assert made.step(consumed(records.Splits(sent_at_us=T0), no_rows(records.Splits))) == []


@pytest.mark.parametrize(
    "value",
    [
        b"garbage",
        records.encode(records.Settings(sent_at_us=T0, values={"indicators": {"1m": ["FOO(1)"]}})),
        records.encode(records.Settings(sent_at_us=T0, values={"unknown": 1})),
        records.encode(records.Settings(sent_at_us=T0, values={"indicators": {"7m": []}})),
        records.encode(records.Down(sent_at_us=T0, since_us=T0)),
    ],
)
def test_an_unreadable_record_becomes_a_dead_letter_and_changes_nothing(value: bytes) -> None:
    made = stage(SMALL)
    before = made.snapshot()
    (output,) = made.step(ConsumedRecord(schemas.OHLCV, 3, 17, T0, value))
    assert output.topic == schemas.DEADLETTER
    (row,) = records.decode(output.value).batch.to_pylist()
    assert (row["topic"], row["partition"], row["offset"]) == (schemas.OHLCV, 3, 17)
    assert row["payload"] == bytes(value)
    assert row["reason"]
    assert made.snapshot() == before


def test_forming_bars_have_the_forming_columns_and_change_no_state() -> None:
    with_forming, without = stage(SMALL), stage(SMALL)
    x = np.random.default_rng(3).uniform(90, 110, 30)
    for i, price in enumerate(x):
        table = Table()
        forming = with_forming.step(consumed_bars([Bar(minute(i), "A", price, "forming")]))
        assert records.decode(forming[0].value).batch.schema.names[5:] == ["rsi_3"]
        table.apply(forming)
        closed = with_forming.step(consumed_bars([Bar(minute(i), "A", price)]))
        table.apply(closed)
        assert table.forming["A", "1m", minute(i)]["rsi_3"] == table.closed["A", "1m", minute(i)]["rsi_3"]
        without.step(consumed_bars([Bar(minute(i), "A", price)]))
    assert with_forming.snapshot() == without.snapshot()


def test_a_withdrawal_removes_values_and_later_values_equal_a_batch_over_the_remaining_bars() -> None:
    x = np.random.default_rng(8).uniform(90, 110, 60)
    series = {minute(i): float(price) for i, price in enumerate(x)}
    made, table = stage(SMALL), Table()
    table.apply(made.step(consumed_bars([Bar(time, "A", price) for time, price in series.items()])))
    for offset, at in enumerate((30, 59, 0), start=2):  # a middle bar, the newest, the first
        table.apply(made.step(consumed_bars([Bar(minute(at), "A", None, "withdrawn", version=offset)], offset)))
        del series[minute(at)]
        assert values_of(table, "A") == batch_of(series, SMALL["indicators"]["1m"])
    # The values of the next forming and closed bars continue from the remaining bars.
    forming = made.step(consumed_bars([Bar(minute(59), "A", 95.0, "forming", version=5)], 5))
    table.apply(forming)
    expected = batch_of(series | {minute(59): 95.0}, SMALL["indicators"]["1m"])[minute(59)]
    assert table.forming["A", "1m", minute(59)] == {"rsi_3": pytest.approx(expected["rsi_3"], rel=1e-12)}
    table.apply(made.step(consumed_bars([Bar(minute(59), "A", 96.0, version=6)], 6)))
    series[minute(59)] = 96.0
    assert values_of(table, "A") == batch_of(series, SMALL["indicators"]["1m"])


def test_the_withdrawal_of_a_forming_bar_is_published_and_changes_no_state() -> None:
    made = stage(SMALL)
    made.step(consumed_bars([Bar(minute(i), "A", 100.0 + i) for i in range(9)]))
    before = made.snapshot()
    made.step(consumed_bars([Bar(minute(9), "A", 120.0, "forming", version=2)], 2))
    (output,) = made.step(consumed_bars([Bar(minute(9), "A", None, "withdrawn", version=3)], 3))
    (row,) = records.decode(output.value).batch.to_pylist()
    assert (row["state"], row["version"], row["rsi_3"], row["sma_3"]) == ("withdrawn", 3, None, None)
    assert made.snapshot() == before


def test_activity_bars_are_processed_if_the_rules_contain_their_interval() -> None:
    assert stage(SMALL).step(consumed_bars([Bar(T0 + 17, "A", 1.0, interval="100t")])) == []
    indicators = ["SMA(3)", "RSI(3)"]
    rules = {"indicators": {"100t": indicators, "5m": indicators}, "forming_indicators": ["RSI(3)"]}
    made, table = stage(rules), Table()
    x = np.random.default_rng(9).uniform(90, 110, 2_000)
    # Some bars follow within a millisecond, others after an hour.
    times = T0 + np.cumsum(np.random.default_rng(9).choice([1, 17, 3_600_000_000], len(x)))
    series = dict(zip(times.tolist(), x.tolist(), strict=True))
    rows = [Bar(time, "A", price, interval="100t") for time, price in series.items()]
    for some in (rows[:700], rows[700:701], rows[701:]):
        table.apply(made.step(consumed_bars(some)))
    assert values_of(table, "A", "100t") == batch_of(series, indicators)
    withdrawn_us = times[-600].item()
    table.apply(made.step(consumed_bars([Bar(withdrawn_us, "A", None, "withdrawn", "100t", 2)], 2)))
    del series[withdrawn_us]
    assert values_of(table, "A", "100t") == batch_of(series, indicators)
    again = AnalyticsStage(made.snapshot())
    assert again.snapshot() == made.snapshot()
    following = consumed_bars([Bar(times[-1].item() + 1, "A", 99.0, "forming", "100t", 3)], 3)
    assert [out.value for out in again.step(following)] == [out.value for out in made.step(following)]


def test_a_bar_without_prices_is_skipped() -> None:
    made = stage(SMALL)
    table = Table()
    table.apply(made.step(consumed_bars([Bar(minute(i), "A", None if i == 4 else 1.0 + i) for i in range(9)])))
    assert values_of(table, "A") == batch_of(
        {minute(i): 1.0 + i for i in range(9) if i != 4}, SMALL["indicators"]["1m"]
    )
    assert made.engine.counters.without_prices == 1


def test_thousands_of_bars_in_one_record_equal_single_records() -> None:
    x = np.random.default_rng(4).uniform(90, 110, 2500)
    rows = [Bar(i * DAY_US, "A", float(price), interval="1d") for i, price in enumerate(x)]
    bulk, single, table, other = AnalyticsStage(), AnalyticsStage(), Table(), Table()
    table.apply(bulk.step(consumed_bars(rows)))
    for row in rows:
        other.apply(single.step(consumed_bars([row])))
    assert values_of(table, "A", "1d") == batch_of({row.time: row.close for row in rows}, SEED_INDICATORS)
    assert table.closed == other.closed
    assert bulk.snapshot() == single.snapshot()


def test_a_revision_deep_in_a_long_history_equals_a_batch_over_the_revised_bars() -> None:
    x = np.random.default_rng(5).uniform(90, 110, 2600)
    series = {minute(i): float(price) for i, price in enumerate(x)}
    made, table = stage({"indicators": {"1m": list(SEED_INDICATORS)}}), Table()
    table.apply(made.step(consumed_bars([Bar(time, "A", price) for time, price in series.items()])))
    for offset, (at, price) in enumerate([(2599, 50.0), (1500, 70.0), (2000, None), (1160, 60.0)], start=2):
        state = "final" if price is not None else "withdrawn"
        produced = made.step(consumed_bars([Bar(minute(at), "A", price, state, version=offset)], offset))
        table.apply(produced)
        if price is None:
            del series[minute(at)]
        else:
            series[minute(at)] = price
        assert values_of(table, "A") == batch_of(series, SEED_INDICATORS)
        assert table.versions["A", "1m", minute(2599)] == offset
    assert made.step(consumed_bars([Bar(minute(100), "A", 1.0, version=9)])) == []
    assert made.engine.counters.beyond_memory == 1
    following = series | {minute(2600): 99.0}
    table.apply(made.step(consumed_bars([Bar(minute(2600), "A", 99.0, version=10)])))
    assert values_of(table, "A") == batch_of(following, SEED_INDICATORS)


def test_a_revision_without_a_price_change_publishes_only_its_bar() -> None:
    made = stage(SMALL)
    made.step(consumed_bars([Bar(minute(i), "A", 1.0 + i % 3) for i in range(20)]))
    (output,) = made.step(consumed_bars([Bar(minute(10), "A", 1.0 + 10 % 3, version=5)]))
    rows = records.decode(output.value).batch.to_pylist()
    assert [(row["version"], row["state"]) for row in rows] == [(5, "final")]


def test_a_backfill_may_precede_and_interleave_known_bars() -> None:
    made, table = AnalyticsStage(), Table()
    x = np.random.default_rng(6).uniform(90, 110, 1800)
    day = {i * DAY_US: float(price) for i, price in enumerate(x)}
    table.apply(made.step(consumed_bars([Bar(1799 * DAY_US, "A", day[1799 * DAY_US], interval="1d")])))
    for part, start in enumerate(range(0, 1799, 600), start=2):
        rows = [Bar(t, "A", day[t], interval="1d", version=part) for t in sorted(day)[start : min(start + 600, 1799)]]
        table.apply(made.step(consumed_bars(rows)))
    assert values_of(table, "A", "1d") == batch_of(day, SEED_INDICATORS)
    assert made.engine.counters.beyond_memory == 0


def test_values_are_independent_of_order_and_grouping() -> None:
    rng = np.random.default_rng(7)
    rows = [Bar(minute(i), s, float(rng.uniform(90, 110))) for i in range(60) for s in "ABCDE" if rng.random() < 0.8]
    tables = []
    for grouping in ("time", "symbol", "all"):
        made, table = stage(SMALL), Table()
        key = {"time": lambda row: row.time, "symbol": lambda row: row.symbol, "all": lambda row: 0}[grouping]
        for value in sorted({key(row) for row in rows}):
            part = [row for row in rows if key(row) == value]
            rng.shuffle(part)
            table.apply(made.step(consumed_bars(part)))
        tables.append(table.closed)
    assert tables[0] == tables[1] == tables[2]


def test_changed_settings_keep_states_and_start_new_indicators_on_retained_bars() -> None:
    made, table = stage({"indicators": {"1m": ["EMA(4)"]}}), Table()
    x = np.random.default_rng(8).uniform(90, 110, 5000)
    series = {minute(i): float(price) for i, price in enumerate(x)}
    rows = [Bar(time, "A", price) for time, price in series.items()]
    made.step(consumed_bars(rows[:4990]))
    made.step(consumed(records.Settings(sent_at_us=T0, values={"indicators": {"1m": ["SMA(200)", "EMA(4)"]}})))
    table.apply(made.step(consumed_bars(rows[4990:])))
    expect = batch_of(series, ["EMA(4)"])
    for time, row in values_of(table, "A").items():
        assert row["ema_4"] == expect[time]["ema_4"]
        assert row["sma_200"] == pytest.approx(batch_of(series, ["SMA(200)"])[time]["sma_200"], rel=1e-12)
    table.apply(made.step(consumed_bars([Bar(minute(4500), "A", 42.0, version=2)])))
    series[minute(4500)] = 42.0
    assert values_of(table, "A")[minute(4999)]["ema_4"] == batch_of(series, ["EMA(4)"])[minute(4999)]["ema_4"]
    restored = AnalyticsStage(made.snapshot())
    assert restored.snapshot() == made.snapshot()


def test_bytes_that_are_no_snapshot_are_refused() -> None:
    for data in (b"", b"nonsense", b"\x94\x00\x80\x90\x91\x90"):
        with pytest.raises(SnapshotRefused):
            AnalyticsStage(data)


def test_an_empty_record_gives_no_output() -> None:
    assert AnalyticsStage().step(consumed(records.Bars(sent_at_us=T0), no_rows(records.Bars))) == []


def test_compute_reads_an_arrow_table_by_symbol() -> None:
    rows = [Bar(minute(i), s, float(i + ord(s))) for i in range(10) for s in "AB"]
    made = compute(pa.Table.from_batches([bars(rows)]), "SMA(3)")["sma_3"].to_numpy()
    for offset, symbol in enumerate("AB"):
        alone = compute(np.array([row.close for row in rows if row.symbol == symbol]), "SMA(3)")["sma_3"]
        np.testing.assert_array_equal(made[offset::2], alone)


steps = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 40),
            st.sampled_from("ABC"),
            st.one_of(st.none(), st.floats(1, 100)),
            st.sampled_from(["final", "final", "final", "forming", "withdrawn"]),
        ),
        max_size=8,
        unique_by=lambda row: row[:2],
    ),
    max_size=25,
)


@examples(150)
@given(steps, st.data())
def test_any_bars_equal_a_batch_and_a_snapshot_anywhere_changes_nothing(
    many: list[list[tuple[int, str, float | None, str]]], data: st.DataObject
) -> None:
    made, table = stage(SMALL), Table()
    left: dict[str, dict[int, float]] = {"A": {}, "B": {}, "C": {}}
    cut = data.draw(st.integers(0, len(many)))
    other = None
    for offset, rows in enumerate(many):
        if offset == cut:
            other = AnalyticsStage(made.snapshot())
        step = consumed_bars([Bar(minute(i), s, p, state, version=offset + 1) for i, s, p, state in rows], offset)
        produced = made.step(step)
        table.apply(produced)
        if other is not None:
            assert [bytes(output.value) for output in other.step(step)] == [bytes(o.value) for o in produced]
        for i, symbol, price, state in rows:
            if state == "withdrawn" or (state == "final" and price is None):
                left[symbol].pop(minute(i), None)
            elif state == "final" and price is not None:
                left[symbol][minute(i)] = price
    for symbol, series in left.items():
        assert values_of(table, symbol) == batch_of(series, SMALL["indicators"]["1m"])
    if other is not None:
        assert other.snapshot() == made.snapshot()


def test_a_revision_within_a_long_warm_up_equals_a_batch_over_the_revised_bars() -> None:
    made = stage({"indicators": {"1m": ["EMA(200)"]}, "forming_indicators": []})
    prices = {minute(i): 100.0 + (i * 7) % 11 for i in range(300)}
    table = Table()
    first = [Bar(time, "A", price) for time, price in prices.items()][:100]
    table.apply(made.step(consumed_bars(first, 1)))
    prices[minute(70)] = 250.0
    table.apply(made.step(consumed_bars([Bar(minute(70), "A", 250.0, version=2)], 2)))
    for offset, time in enumerate(list(prices)[100:], start=3):
        table.apply(made.step(consumed_bars([Bar(time, "A", prices[time], version=offset)], offset)))
    assert values_of(table, "A") == batch_of(prices, ["EMA(200)"])
