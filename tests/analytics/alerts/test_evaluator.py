"""Alert rules fire once per crossing, despite revisions, restarts and forming bars."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analytics.support import T0, Bar, consumed, consumed_bars
from tests.analytics.support import bars as rows_of
from tests.support.properties import examples
from tickerplant.analytics import compute
from tickerplant.analytics.alerts.rule_operands import check_rule
from tickerplant.analytics.alerts.rule_state import UNKNOWN, RuleState
from tickerplant.analytics.alerts.rule_table import make_table
from tickerplant.analytics.realtime.engine import FINAL
from tickerplant.analytics.realtime.interval_engine import Chunk
from tickerplant.analytics.realtime.series import Series
from tickerplant.analytics.stage import AnalyticsStage
from tickerplant.core import records, schemas
from tickerplant.core.alerts import Rule
from tickerplant.core.errors import BadInput
from tickerplant.core.times import DAY_US, MINUTE_US

NO_SET = {"indicators": {}, "forming_indicators": []}


def rule(left: str, operator: str, right: str, **more: Any) -> Rule:
    return Rule(
        **{"id": "r", "symbol": "A", "interval": "1m", "left": left, "operator": operator, "right": right} | more
    )


def stage(*rules: Rule, values: dict[str, Any] | None = None) -> AnalyticsStage:
    made = AnalyticsStage()
    made.step(consumed(records.Settings(sent_at_us=T0, values=NO_SET if values is None else values)))
    for one in rules:
        apply_rule(made, one)
    return made


def apply_rule(made: AnalyticsStage, one: Rule, *, removed: bool = False) -> None:
    assert made.step(consumed(records.AlertRule(sent_at_us=T0, rule=one, removed=removed))) == []


def minute(i: int) -> int:
    return T0 + i * MINUTE_US


def closes(*prices: float, first: int = 0, symbol: str = "A") -> list[Bar]:
    return [Bar(minute(first + i), symbol, price) for i, price in enumerate(prices)]


def fired(made: AnalyticsStage, *batches: list[Bar], first: int = 0, feed: str = "f") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, batch in enumerate(batches, first):
        for output in made.step(consumed_bars(batch, number, feed)):
            if output.topic == schemas.ALERTS:
                rows += records.decode(output.value).batch.to_pylist()
    return rows


def at(rows: list[dict[str, Any]]) -> list[int]:
    return [(int(row["time"].timestamp() * 1_000_000) - T0) // MINUTE_US for row in rows]


@pytest.mark.parametrize("together", [False, True], ids=["bar by bar", "in one record"])
@pytest.mark.parametrize(
    ("operator", "expected_bars"),
    [("crosses_above", [2, 6]), ("crosses_below", [4]), ("greater", [2, 6]), ("less", [0, 4])],
)
def test_a_rule_fires_when_it_becomes_true_and_not_while_it_stays_true(
    operator: str, expected_bars: list[int], together: bool
) -> None:
    bars = closes(9, 10, 11, 12, 9, 9, 11, 10)
    made = stage(rule("close", operator, "10"))
    rows = fired(made, *([bars] if together else [[bar] for bar in bars]))
    assert at(rows) == expected_bars
    assert len({row["alert_id"] for row in rows}) == len(expected_bars)
    assert not any(row["revised"] for row in rows)


def test_a_fired_alert_contains_rule_bar_both_values_and_cause() -> None:
    made = stage(rule("close", "crosses_above", "SMA(2)", revision=3))
    (row,) = fired(made, [Bar(minute(0), "A", 2.0)], [Bar(minute(1), "A", 1.0)], [Bar(minute(2), "A", 4.0, version=9)])
    assert row.pop("time").timestamp() * 1_000_000 == minute(2)
    assert row == {
        "alert_id": f"r.3.{minute(2)}.0", "rule_id": "r", "rule_revision": 3, "symbol": "A", "interval": "1m",
        "rule": "close crosses_above SMA(2)", "left": 4.0, "right": 2.5, "state": "final", "revised": False,
        "version": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("percent", "expected_bars"), [("50", [3]), ("-50", [5]), ("49.9", [3]), ("100", [])]
)  # percent changes over 2 bars of the prices below: 20, 50, 25, -50
def test_a_percent_change_spans_the_given_bars_and_includes_the_threshold(
    percent: str, expected_bars: list[int]
) -> None:
    made = stage(rule("close", "percent_change", percent, bars=2))
    assert at(fired(made, *([bar] for bar in closes(10, 10, 12, 15, 15, 7.5)))) == expected_bars


@pytest.mark.parametrize(
    ("prices", "percent", "expected_bars"),
    [
        ((-37, -40, -30), "25", [2]),  # WTI crude on 2020-04-20 settled at -37.63: from -40 to -30 is a rise
        ((-37, -40, -30), "-25", []),
        ((-40, -30, -37.5), "-25", [2]),
        ((-10, 5), "150", [1]),
        ((10, -5), "-150", [1]),
        ((0, 5, 5), "0.1", []),
    ],
)
def test_a_percent_change_of_a_negative_price_is_relative_to_its_absolute_value(
    prices: tuple[float, ...], percent: str, expected_bars: list[int]
) -> None:
    made = stage(rule("close", "percent_change", percent))
    assert at(fired(made, *([bar] for bar in closes(*prices)))) == expected_bars


def test_a_percent_change_of_an_indicator_uses_its_values() -> None:
    prices = 100 + np.cumsum(np.random.default_rng(3).normal(0, 1, 300))
    sma = compute(prices, "SMA(5)")["sma_5"]
    change = 100 * (sma[7:] / sma[:-7] - 1)
    true = np.concatenate([np.zeros(7, bool), change >= 0.5])
    expected_bars = np.flatnonzero(true[1:] & ~true[:-1]) + 1
    made = stage(rule("SMA(5)", "percent_change", "0.5", bars=7))
    assert at(fired(made, *([bar] for bar in closes(*prices)))) == expected_bars.tolist()


@given(
    prices=st.lists(st.integers(1, 20), min_size=2, max_size=60),
    cut=st.integers(0, 60),
    operator=st.sampled_from(["crosses_above", "crosses_below", "greater", "less"]),
    when=st.sampled_from(["bar", "update"]),
)
@examples(60)
def test_a_snapshot_anywhere_changes_nothing(prices: list[int], cut: int, operator: str, when: str) -> None:
    batches: list[list[Bar]] = []
    for i, price in enumerate(prices):
        batches.append([Bar(minute(i), "A", 21.0 - price, "forming"), Bar(minute(i), "B", 1.0 * price)])
        batches.append(closes(price, first=i))
        if i % 5 == 4:
            batches.append([Bar(minute(i - 2), "A", 1.0 * prices[i - 3], version=2)])
    rules = [rule("close", operator, "RSI(3)", when=when), rule("SMA(2)", operator, "10", id="s", symbol="B")]
    one, other = stage(*rules), stage(*rules)
    expected = fired(one, *batches)
    found = fired(other, *batches[:cut])
    snapshot = other.snapshot()
    other = AnalyticsStage(snapshot)
    assert other.snapshot() == snapshot
    assert found + fired(other, *batches[cut:], first=min(cut, len(batches))) == expected
    assert one.snapshot() == other.snapshot()


@given(
    prices=st.lists(st.integers(1, 4), min_size=2, max_size=40),
    changes=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 4)), max_size=12),
)
@examples(150)
def test_every_crossing_of_the_revised_bars_fires_exactly_once(
    prices: list[int], changes: list[tuple[int, int]]
) -> None:
    """Change random bars, and compare the fired alerts with the crossings of the resulting series.

    A price of 0 withdraws the bar. The first bar is below 2, so that the next bar above 2 is a crossing.
    """
    made = stage(rule("close", "crosses_above", "2"))
    now = {0: 1.0} | {i: float(price) for i, price in enumerate(prices, start=1)}
    rows = fired(made, *([Bar(minute(i), "A", price)] for i, price in now.items()))
    for version, (bar_number, price) in enumerate(changes, start=2):
        if 0 < bar_number <= len(prices):
            state = "final" if price else "withdrawn"
            rows += fired(made, [Bar(minute(bar_number), "A", float(price) if price else None, state, version=version)])
            now.pop(bar_number, None)
            if price:
                now[bar_number] = float(price)
    times = sorted(now)
    expected_bars = {b for a, b in itertools.pairwise(times) if now[a] <= 2 < now[b]}
    ids = [row["alert_id"] for row in rows]
    assert len(ids) == len(set(ids))
    assert expected_bars <= set(at(rows))


def test_a_revision_fires_only_new_crossings_marked_as_revised() -> None:
    made = stage(rule("close", "crosses_above", "10"))
    fired(made, *([bar] for bar in closes(9, 9, 9, 9)))
    (row,) = fired(made, [Bar(minute(2), "A", 11.0, version=2)])
    assert (at([row]), row["revised"], row["version"]) == ([2], True, 2)
    assert fired(made, [Bar(minute(2), "A", 9.0, version=3)], [Bar(minute(2), "A", 12.0, version=4)]) == []
    assert at(fired(made, [Bar(minute(4), "A", 12.0)])) == [4]


def test_a_rule_on_updates_fires_at_each_crossing_within_a_bar_but_not_again_at_the_close() -> None:
    made = stage(rule("close", "crosses_above", "10", when="update"))
    states = [
        (9.0, "final"),
        (11.0, "forming"),
        (11.5, "forming"),
        (9.5, "forming"),
        (12.0, "forming"),
        (12.0, "final"),
    ]
    bars = [[Bar(minute(min(i, 1)), "A", price, state)] for i, (price, state) in enumerate(states)]
    rows = fired(made, *bars)
    assert [(row["alert_id"][-2:], row["state"]) for row in rows] == [(".0", "forming"), (".1", "forming")]
    assert fired(made, [Bar(minute(2), "A", 11.0, "forming")], [Bar(minute(2), "A", 9.0)]) == []
    assert at(fired(made, [Bar(minute(3), "A", 10.5)])) == [3]


def test_a_withdrawn_forming_bar_resets_the_state_of_the_condition() -> None:
    made = stage(rule("close", "crosses_above", "10", when="update"))
    fired(made, [Bar(minute(0), "A", 9.0)])
    assert len(fired(made, [Bar(minute(1), "A", 11.0, "forming")], [Bar(minute(1), "A", None, "withdrawn")])) == 1
    assert at(fired(made, [Bar(minute(2), "A", 11.0, "forming")])) == [2]


def test_forming_bars_of_several_times_are_evaluated_separately() -> None:
    made = stage(
        rule("close", "greater", "10", when="update"), rule("close", "greater", "10", id="s", symbol="B", when="update")
    )
    rows = fired(made, [Bar(minute(1), "A", 11.0, "forming"), Bar(minute(2), "B", 12.0, "forming")])
    assert [(row["symbol"], row["state"], row["left"]) for row in rows] == [
        ("A", "forming", 11.0),
        ("B", "forming", 12.0),
    ]
    assert at(rows) == [1, 2]
    assert fired(made, [Bar(minute(0), "A", 9.0), Bar(minute(0), "B", 9.0)]) == []


def test_a_rule_on_closed_bars_ignores_forming_bars() -> None:
    made = stage(rule("close", "crosses_above", "10"))
    assert fired(made, [Bar(minute(0), "A", 9.0)], [Bar(minute(1), "A", 11.0, "forming")]) == []
    assert at(fired(made, [Bar(minute(1), "A", 11.0)])) == [1]


def test_a_once_rule_fires_once_until_it_is_changed() -> None:
    made = stage(rule("close", "crosses_above", "10", once=True))
    assert at(fired(made, *([bar] for bar in closes(9, 11, 9, 11)))) == [1]
    made = AnalyticsStage(made.snapshot())
    assert fired(made, *([bar] for bar in closes(9, 11, first=4))) == []
    apply_rule(made, rule("close", "crosses_above", "10", once=True, revision=2))
    assert at(fired(made, *([bar] for bar in closes(9, 11, 9, 11, first=6)))) == [7]


def test_an_old_rule_revision_is_ignored_and_a_pause_or_removal_ends_the_rule() -> None:
    first = rule("close", "crosses_above", "10", revision=2)
    made = stage(first)
    fired(made, closes(9))
    apply_rule(made, first)
    apply_rule(made, rule("close", "crosses_above", "1000", revision=1))
    assert at(fired(made, closes(11, first=1))) == [1]
    apply_rule(made, rule("close", "crosses_above", "10", revision=3, active=False))
    assert fired(made, *([bar] for bar in closes(9, 11, first=2))) == []
    apply_rule(made, rule("close", "crosses_above", "10", revision=4))
    assert at(fired(made, *([bar] for bar in closes(12, 9, 11, first=4)))) == [6]
    apply_rule(made, rule("close", "crosses_above", "10", revision=5), removed=True)
    assert fired(made, *([bar] for bar in closes(9, 11, first=7))) == []
    assert made.alerts.rule_states == {}


def test_a_rule_starts_with_the_retained_bars_of_the_engine() -> None:
    made = stage(values={"indicators": {"1m": ["SMA(3)"]}})
    fired(made, *([bar] for bar in closes(*range(20, 10, -1))))
    apply_rule(made, rule("close", "crosses_above", "SMA(5)"))
    assert at(fired(made, closes(20, first=10))) == [10], "the rule ignored the retained bars"
    apply_rule(made, rule("close", "greater", "10", id="already"))
    assert [row["rule_id"] for row in fired(made, closes(20, first=11))] == ["already"]


def test_history_bars_update_the_state_but_fire_nothing() -> None:
    made = stage(rule("close", "crosses_above", "10"), rule("close", "greater", "5", id="once", once=True))
    batch = consumed_bars(closes(9, 11, 9))
    record = records.decode(batch.value)
    column = record.batch.schema.get_field_index("history")
    history = record.batch.set_column(column, schemas.BARS.field("history"), pa.array([True] * 3))
    for output in made.step(consumed(record.header, history.replace_schema_metadata(None))):
        assert output.topic == schemas.ANALYTICS
    assert [row["rule_id"] for row in fired(made, *([bar] for bar in closes(4, 12, first=3)))] == ["once", "r"]


def test_each_of_many_rules_fires_as_it_does_alone() -> None:
    rng = np.random.default_rng(5)
    symbols = [f"S{i}" for i in range(20)]
    texts = [("close", "crosses_above", "SMA(3)"), ("RSI(4)", "less", "40"), ("EMA(3)", "crosses_below", "EMA(6)"),
             ("high", "greater", "101"), ("close", "percent_change", "2")]  # fmt: skip
    rules = [rule(*texts[i % 5], id=f"r{i}", symbol=symbols[i % 20], when=("bar", "update")[i % 2]) for i in range(100)]
    prices = 100 + np.cumsum(rng.normal(0, 1, (40, 20)), axis=0)
    batches = [
        [Bar(minute(i), s, float(prices[i, j]) + drift, state) for j, s in enumerate(symbols)]
        for i in range(40)
        for state, drift in (("forming", float(rng.normal())), ("final", 0.0))
    ]
    together = stage(*rules)
    found = fired(together, *batches)
    assert len(found) > 300
    for one in rules[:25]:
        alone = fired(stage(one), *batches)
        assert alone == [row for row in found if row["rule_id"] == one.id]


def test_without_rules_bars_are_not_processed() -> None:
    made = stage()
    fired(made, closes(1, 2))
    assert made.alerts.watch.counters.bars == 0
    assert made.alerts.watch.symbols == []


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (rule("10", "greater", "5"), "must be a price or an indicator"),
        (rule("close", "above", "5"), "crosses_above, crosses_below"),
        (rule("close", "greater", "FOO(3)"), "unknown indicator"),
        (rule("BBANDS(20,2)", "greater", "5"), r"BBANDS\(20,2\).upper"),
        (rule("RSI(14).upper", "greater", "5"), r"use RSI\(14\)"),
        (rule("close", "greater", "close"), "both operands are"),
        (rule("rsi(14)", "greater", "RSI( 14 )"), "both operands are"),
        (rule("close", "percent_change", "SMA(3)"), "a percentage other than 0"),
        (rule("close", "percent_change", "0"), "other than 0"),
        (rule("close", "percent_change", "5", bars=0), r"1\.\.500"),
        (rule("close", "greater", "5", bars=2), "leave it out"),
        (rule("close", "greater", "5", interval="15m"), "no alerts on bars of 15m"),
        (rule("close", "greater", "5", when="tick"), "bar, update"),
        (rule("close", "greater", "5", id="a.b"), "not a rule id"),
        (rule("close", "greater", "1e999"), "1e100"),
    ],
)
def test_an_invalid_rule_becomes_a_dead_letter(bad: Rule, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        check_rule(bad)
    made = stage()
    before = made.snapshot()
    (output,) = made.step(consumed(records.AlertRule(sent_at_us=T0, rule=bad)))
    assert output.topic == schemas.DEADLETTER
    assert made.snapshot() == before


def test_operands_have_one_canonical_form() -> None:
    one = check_rule(rule("bbands( 20, 2.5 ).Upper", "crosses_above", "  CLOSE "))
    assert (one.left, one.right) == ("BBANDS(20,2.5).upper", "close")
    other = check_rule(rule("ema( 20)@talib", "less", "70.0", symbol="eur/usd"))
    assert (other.symbol, other.left, other.right) == ("EUR/USD", "EMA(20)", "70")


def test_changes_over_different_spans_are_separate_and_survive_a_snapshot() -> None:
    rules = [
        rule("close", "percent_change", "5", id="z", bars=1),
        rule("close", "percent_change", "5", id="a", bars=3),
        rule("volume", "percent_change", "50", id="v", bars=1),
        rule("close", "greater", "1000000", id="c"),
    ]
    prices = [100.0, 103.0, 106.0, 109.0, 110.0, 120.0]
    made = stage(*rules)
    found = fired(made, closes(*prices[:3]))
    again = AnalyticsStage(made.snapshot())
    assert again.snapshot() == made.snapshot()
    found += fired(again, closes(*prices[3:], first=3), first=1)
    assert [(row["rule_id"], time) for row, time in zip(found, at(found), strict=True)] == [("a", 3), ("z", 5)]


def test_parameters_that_differ_in_the_seventh_digit_are_two_indicators() -> None:
    one, other = compute(np.arange(1.0, 30.0), ["BBANDS(5,2)", "BBANDS(5,2.0000001)"]).keys(), 10
    assert len(one) == other


@pytest.mark.parametrize("columns", [("SMA(2)",), ("other", "another"), ()])
def test_an_operand_without_its_column_is_unknown(columns: tuple[str, ...]) -> None:
    some = [RuleState(rule("close", "greater", "open")), RuleState(rule("close", "less", "5", id="s"))]
    table, which, at_row = make_table(some, np.zeros(2, np.int64)), np.arange(2), np.zeros(2, np.int64)
    one = np.zeros(1, np.int64)
    chunk = Chunk(one, one, FINAL, one, np.arange(1.0, len(columns) + 1)[:, None])
    left, right = table.values(columns, chunk, which, at_row)
    assert np.isnan(left).all()
    assert np.isnan(right[0])
    assert right[1] == 5
    assert table.truths(which, left, right).tolist() == [UNKNOWN, UNKNOWN]


def test_a_bar_that_is_withdrawn_and_closes_again_does_not_fire_again() -> None:
    made = stage(rule("close", "crosses_above", "10"))
    prices = [
        (9.0, 0),
        (11.0, 1),
        (None, 1),
        (11.0, 1),
        (None, 1),
        (12.0, 1),
        (9.0, 2),
        (None, 2),
        (None, 1),
        (13.0, 1),
    ]
    bars = [
        [Bar(minute(i), "A", price, "withdrawn" if price is None else "final", version=version)]
        for version, (price, i) in enumerate(prices, 1)
    ]
    assert [row["alert_id"] for row in fired(made, *bars)] == [f"r.1.{minute(1)}.0"]
    made = AnalyticsStage(made.snapshot())
    assert fired(made, [Bar(minute(1), "A", None, "withdrawn", version=20)], closes(11, first=1)) == []
    assert at(fired(made, closes(9, first=2), closes(11, first=3))) == [3]


def test_a_withdrawn_bar_that_had_not_fired_fires_as_revised() -> None:
    made = stage(rule("close", "crosses_above", "10"))
    assert fired(made, closes(9), closes(8, first=1), [Bar(minute(1), "A", None, "withdrawn", version=2)]) == []
    (row,) = fired(made, [Bar(minute(1), "A", 11.0, version=3)])
    assert (at([row]), row["revised"]) == ([1], True)


@given(
    moves=st.lists(
        st.tuples(st.integers(-3, 1), st.integers(0, 4), st.sampled_from(["final", "final", "forming"])), max_size=80
    ),
    operator=st.sampled_from(["crosses_above", "crosses_below", "greater", "less"]),
    when=st.sampled_from(["bar", "update"]),
    cut=st.integers(0, 80),
)
@examples(200)
def test_a_closed_bar_fires_at_most_once_under_any_withdrawals_and_revisions(
    moves: list[tuple[int, int, str]], operator: str, when: str, cut: int
) -> None:
    """Apply random bars, and check that no closed bar fires twice.

    A move is (bar relative to the newest bar, price, state). A price of 0 withdraws the bar.
    """
    made = stage(rule("close", operator, "2", when=when))
    newest, closed, had = 0, set[int](), set[int]()
    ids: list[str] = []
    for version, (back, price, state) in enumerate(moves, 1):
        if version == cut:
            made = AnalyticsStage(made.snapshot())
        bar_number = max(newest + back, 0)
        newest = max(newest, bar_number)
        bar = Bar(minute(bar_number), "A", float(price) or None, state if price else "withdrawn", version=version)
        rows = fired(made, [bar])
        for row, number in zip(rows, at(rows), strict=True):
            if row["state"] == "final" or number in closed:
                assert number not in had or number not in closed, "a bar that was already closed fires again"
        had |= set(at(rows))
        ids += [row["alert_id"] for row in rows]
        if price and state == "final":
            closed.add(bar_number)
    assert len(ids) == len(set(ids))
    if when == "bar":
        assert all(one.endswith(".0") for one in ids)


def test_a_bar_beyond_the_remembered_firings_does_not_fire_again() -> None:
    made = stage(rule("close", "greater", "10"), values=NO_SET | {"memory_sessions": 2})
    version = 1
    for i in range(80):
        version += 2
        rows = fired(made, closes(11, first=i), [Bar(minute(i), "A", None, "withdrawn", version=version)])
        assert at(rows) == [i]
    assert fired(made, closes(11, first=3)) == []


def made_at(one: Rule, i: float, values: dict[str, Any] | None = None) -> AnalyticsStage:
    """Return a stage with a rule created `i` minutes after T0."""
    made = stage(values=values)
    assert made.step(consumed(records.AlertRule(sent_at_us=T0 + int(i * MINUTE_US), rule=one))) == []
    return made


@pytest.mark.parametrize("together", [False, True], ids=["bar by bar", "in one record"])
@pytest.mark.parametrize("when", ["bar", "update"])
@pytest.mark.parametrize(
    ("operator", "prices", "expected_bars"),
    [
        ("crosses_above", (9, 11, 9, 11, 9, 11, 12), [5]),
        ("crosses_above", (9, 11, 9, 9, 11, 12), [4]),  # the previous bar ended before the rule was created
        ("crosses_above", (9, 11, 12, 12, 12, 9, 11), [6]),
        ("greater", (9, 11, 12, 12, 12, 12), [4]),  # the first bar that ends after the rule was created
        ("less", (9, 11, 12, 9, 12, 9), [5]),
    ],
)
def test_a_bar_that_ended_before_the_rule_was_created_fires_nothing(
    operator: str, prices: tuple[float, ...], expected_bars: list[int], when: str, *, together: bool
) -> None:
    """Create the rule in minute 4, then send bars from minute 0 on, as a backfill does."""
    bars = closes(*prices)
    batches = [bars] if together else [[bar] for bar in bars]
    made = made_at(rule("close", operator, "10", when=when), 4.5)
    assert at(fired(made, *batches)) == expected_bars
    made = AnalyticsStage(made.snapshot())
    assert fired(made, [Bar(minute(2), "A", 20.0, version=9)], [Bar(minute(2), "A", 1.0, version=10)]) == []
    once = made_at(rule("close", operator, "10", when=when, once=True), 4.5)
    assert at(fired(once, *batches)) == expected_bars[:1]


def test_a_bar_that_ends_at_the_creation_of_the_rule_fires_nothing() -> None:
    assert at(fired(made_at(rule("close", "greater", "10"), 2), *([bar] for bar in closes(11, 11, 11)))) == [2]
    made = made_at(rule("close", "greater", "10", interval="100t"), 1.5)
    bars = [Bar(minute(i), "A", 11.0, interval="100t") for i in range(3)]
    assert at(fired(made, *([bar] for bar in bars))) == [2]


def test_bars_of_a_file_fire_at_any_time() -> None:
    made = made_at(rule("close", "crosses_above", "10"), 1_000_000)
    assert at(fired(made, *([bar] for bar in closes(9, 11, 9, 11)), feed="file:abc-1")) == [1, 3]
    assert fired(made, *([bar] for bar in closes(9, 11, first=4)), feed="backfill:abc") == []


def test_a_removal_needs_only_the_id_and_ignores_unknown_rules() -> None:
    made = stage(rule("close", "greater", "10"))
    apply_rule(made, rule("close", "greater", "10", symbol="B", revision=2), removed=True)
    assert made.alerts.rule_states == {}
    assert fired(made, closes(9), closes(11, first=1)) == []
    before = made.snapshot()
    apply_rule(made, rule("close", "greater", "10", id="elsewhere"), removed=True)
    assert made.snapshot() == before


MIDNIGHT = T0 // DAY_US * DAY_US + DAY_US


def split(made: AnalyticsStage, session_us: int, ratio: float) -> None:
    """Apply a split of A that takes effect immediately."""
    rows = {"time": [session_us], "symbol": ["A"], "numerator": [ratio], "denominator": [1.0], "source": ["test"]}
    batch = pa.RecordBatch.from_pydict(rows, schema=schemas.SPLITS)
    made.step(consumed(records.Splits(sent_at_us=max(session_us, T0), feed="f"), batch))


def around_midnight(before: list[float], after: list[float]) -> list[list[Bar]]:
    first = MIDNIGHT - len(before) * MINUTE_US
    return [[Bar(first + i * MINUTE_US, "A", price)] for i, price in enumerate(before + after)]


IN_THE_SET = {"indicators": {"1m": ["SMA(3)"]}, "forming_indicators": [], "calendars": {"*": "24/7"}}
OUTSIDE = {"indicators": {}, "forming_indicators": [], "calendars": {"*": "24/7"}}


@pytest.mark.parametrize("values", [IN_THE_SET, OUTSIDE], ids=["indicator in the rules", "indicator of the alert only"])
def test_after_a_split_nothing_fires_until_the_series_is_recomputed(values: dict[str, Any]) -> None:
    made = stage(rule("close", "crosses_below", "SMA(3)"), rule("close", "less", "60", id="s"), values=values)
    before = around_midnight([100.0, 101.0, 102.0, 103.0, 104.0], [])
    assert fired(made, *before) == []
    split(made, MIDNIGHT, 2.0)
    made = AnalyticsStage(made.snapshot())
    apply_rule(made, rule("close", "crosses_below", "SMA(3)", revision=2))
    after = around_midnight([], [52.5, 53.0, 53.5])
    assert fired(made, *after[:2]) == [], "the split, which halves the price, fired an alert"
    assert fired(made, [before[-1][0]._replace(close=104.5, version=9)]) == []
    snapshot = made.snapshot()
    made = AnalyticsStage(snapshot)
    assert made.snapshot() == snapshot
    history = rows_of([row for batch in before + after[:2] for row in batch])
    for _ in made.recompute(Series("1m", "A"), history):
        pass
    assert made.alerts.stale == set()
    assert fired(made, after[2]) == []
    [row] = fired(made, [Bar(MIDNIGHT + 3 * MINUTE_US, "A", 50.0)])
    assert (row["rule_id"], row["left"], row["right"]) == ("r", 50.0, (53.0 + 53.5 + 50.0) / 3)


@pytest.mark.parametrize("values", [IN_THE_SET, OUTSIDE], ids=["indicator in the rules", "indicator of the alert only"])
def test_a_split_before_all_retained_bars_changes_nothing(values: dict[str, Any]) -> None:
    batches = [
        *([bar] for bar in closes(9, 11, 12, 12, 12)),
        [Bar(minute(3), "A", 9.5, version=7)],
        *[closes(12, first=5)],
    ]
    one, other = (stage(rule("close", "crosses_above", "10"), values=values) for _ in range(2))
    expected = fired(one, *batches)
    assert at(expected) == [1, 4]
    found = fired(other, *batches[:5])
    split(other, MIDNIGHT - 2 * DAY_US, 2.0)
    assert found + fired(other, *batches[5:], first=5) == expected
