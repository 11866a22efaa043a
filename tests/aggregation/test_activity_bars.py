"""Activity bars of trades, volume and turnover equal those of a plain loop over the ticks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.aggregation.plant import (
    PRICES,
    at,
    bars,
    continued,
    decoded,
    end,
    mark,
    run,
    start,
    ticks,
)  # fmt: skip
from tests.aggregation.plant import settings as settings_record
from tests.support.properties import examples
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import records, schemas
from tickerplant.core.flags import TickFlag
from tickerplant.core.interval import parse
from tickerplant.core.streams import Output
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US

OPEN = at("2026-01-05T14:30")
CLOSE = at("2026-01-05T21:00")
M, S = MINUTE_US, SECOND_US
NAMES = ("3t", "10v", "250d")
RULES = settings_record(activity_bars={"A*": ["3t", "10v"], "B*": ["250d"], "C*": ["3t", "250d"]})


def by_activity(steps: list[list[Output]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in bars(steps):
        if parse(row["interval"]).is_activity:
            assert row["state"] == "final"
            found.setdefault((row["interval"], row["symbol"]), []).append(row)
    for rows in found.values():
        rows.sort(key=lambda row: row["time"])
    return found


def by_hand(rows: list[Any], name: str) -> list[dict[str, Any]]:
    """Return the bars of one symbol and one session, computed tick by tick.

    Sums are exact because prices are whole cents and sizes are integers.
    """
    interval, total, made = parse(name), 0, []
    number, last = None, -1
    for time, _, price, size, flags in rows:
        counts = not flags & TickFlag.NO_VOLUME
        amount = {"t": 1.0, "v": size, "d": price * size}[interval.measure] if counts else 0.0
        bucket = round(total * 10**4) // (interval.amount * 10**4)
        if bucket != number:
            number, last = bucket, max(time, last + 1)
            made.append(
                {"time": last, "volume": 0.0, "trades": 0, "open": None, "high": None, "low": None, "close": None}
            )
        bar = made[-1]
        if not flags & TickFlag.NO_OHLC:
            bar["open"] = price if bar["open"] is None else bar["open"]
            bar["high"] = price if bar["high"] is None else max(bar["high"], price)
            bar["low"] = price if bar["low"] is None else min(bar["low"], price)
            bar["close"] = price
        bar["volume"] += size if counts else 0
        bar["trades"] += counts
        total = round(total + amount, 4)
    return made


def test_a_bar_of_trades_closes_after_its_last_trade_and_the_session_end_closes_a_partial_bar() -> None:
    rows = [(OPEN + i * S, "A", 10.0 + i, 1.0) for i in range(5)]
    raw = [RULES, start(start_us=OPEN - M, symbols=["A"]), ticks(rows, OPEN + 4 * S), mark(OPEN + 4 * S)]
    assert [r["close"] for r in by_activity(run(raw)).get(("3t", "A"), [])] == []
    raw.append(mark(OPEN + 4 * S + 1))
    assert [(r["open"], r["close"], r["trades"]) for r in by_activity(run(raw))["3t", "A"]] == [(10.0, 12.0, 3)]
    raw.append(mark(CLOSE + 4 * 3600 * S + 2 * S))
    found = by_activity(run(raw))["3t", "A"]
    assert [(r["time"], r["open"], r["close"], r["trades"], r["complete"]) for r in found] == [
        (OPEN, 10.0, 12.0, 3, True), (OPEN + 3 * S, 13.0, 14.0, 2, True),
    ]  # fmt: skip


def test_the_excess_of_a_large_trade_counts_toward_the_bars_after_it() -> None:
    rows = [(OPEN + i * S, "A", 10.0 + i, size) for i, size in enumerate([4.0, 25.0, 1.0, 9.0, 2.0])]
    raw = [RULES, start(start_us=OPEN - M, symbols=["A"]), ticks(rows, OPEN + 4 * S), end()]
    found = by_activity(run(raw))["10v", "A"]
    # The volume before each tick is 0, 4, 29, 30, 39.
    assert [(r["open"], r["volume"]) for r in found] == [(10.0, 29.0), (12.0, 1.0), (13.0, 11.0)]


def test_bars_that_start_at_one_time_get_distinct_times() -> None:
    raw = [RULES, start(start_us=OPEN - M, symbols=["A"])]
    raw += [ticks([(OPEN, "A", 10.0 + i, 1.0) for i in range(9)], OPEN), end()]
    assert [(r["time"] - OPEN, r["open"]) for r in by_activity(run(raw))["3t", "A"]] == [
        (0, 10.0),
        (1, 13.0),
        (2, 16.0),
    ]


def test_counts_restart_with_each_session_and_only_matching_symbols_have_activity_bars() -> None:
    rows = [(OPEN + day * DAY_US + i * S, name, 10.0, 1.0) for day in (0, 1) for i in range(4) for name in ("A", "X")]
    raw = [RULES, start(start_us=OPEN - M, symbols=["A", "X"]), ticks(rows, rows[-1][0]), end()]
    found = by_activity(run(raw))
    assert {key[1] for key in found} == {"A"}
    assert [r["trades"] for r in found["3t", "A"]] == [3, 1, 3, 1]


def test_the_largest_possible_amounts_do_not_overflow() -> None:
    rules = settings_record(activity_bars={"*": ["100000000000v", "999999999999999d"]})
    rows = [(OPEN + i * S, "A", 0.5, 4e10) for i in range(7)]
    raw = [rules, start(start_us=OPEN - M, symbols=["A"]), ticks(rows, OPEN + 6 * S), end()]
    found = by_activity(run(raw))
    # The volume before each tick is 0, 4, 8, 12, 16, 20, 24 times 1e10.
    assert [r["trades"] for r in found["100000000000v", "A"]] == [3, 2, 2]
    assert [r["trades"] for r in found["999999999999999d", "A"]] == [7]


def test_ticks_beyond_the_allowed_lateness_are_counted_as_too_late() -> None:
    raw = [RULES, start(start_us=OPEN - M, symbols=["A"]), ticks([(OPEN + M, "A", 1.0, 1.0)], OPEN + M)]
    steps = run([*raw, ticks([(OPEN, "A", 1.0, 1.0)], OPEN + M), end()])
    statuses = [r.header for r in decoded(steps, schemas.STATUS) if isinstance(r.header, records.FeedState)]
    assert [(s.reason, s.count) for s in statuses if s.state == "unsupported"] == [("too late for bars by activity", 1)]


def test_bars_of_an_interval_in_the_old_and_new_rules_continue_after_a_change() -> None:
    rows = [(OPEN + i * S, "A", 10.0, 1.0) for i in range(6)]
    raw = [RULES, start(start_us=OPEN - M, symbols=["A"]), ticks(rows[:2], OPEN + S)]
    raw += [settings_record(activity_bars={"*": ["3t"]}), ticks(rows[2:], OPEN + 10 * S), end()]
    assert [r["trades"] for r in by_activity(run(raw))["3t", "A"]] == [3, 3]


one = st.tuples(
    st.integers(0, 900).map(lambda second: OPEN + second * S // 2),
    st.sampled_from(["A", "AA", "B", "C", "X"]),
    st.integers(900, 1100).map(lambda cents: cents / 100),
    st.integers(0, 30).map(float),
    st.sampled_from([0, 0, 0, int(TickFlag.NO_OHLC), int(TickFlag.NO_VOLUME)]),
)


@given(
    st.lists(one, min_size=1, max_size=80).map(lambda rows: sorted(rows, key=lambda row: row[0])),
    st.lists(st.integers(0, 80), max_size=8),
    st.randoms(use_true_random=False),
    st.integers(0, 40),
)
@examples(100)
def test_any_order_within_the_allowed_lateness_gives_the_bars_of_a_plain_loop(
    rows: list[Any], cuts: list[int], random: Any, where: int
) -> None:
    delays = {time: random.randrange(2 * S) for time in {row[0] for row in rows}}
    shaken = sorted(rows, key=lambda row: row[0] + delays[row[0]])
    edges = sorted({0, len(rows), *(cut % (len(rows) + 1) for cut in cuts)})
    raw, newest = [RULES, start(start_us=OPEN, symbols=["A", "AA", "B", "C", "X"])], 0
    for begin, stop in pairwise(edges):
        newest = max(newest, *(row[0] for row in shaken[begin:stop]))
        raw.append(ticks(shaken[begin:stop], newest))
    raw.append(end())
    whole = AggregationStage(1)
    steps = run(raw, whole)
    found = by_activity(steps)
    for symbol in ("A", "AA", "B", "C", "X"):
        mine = [row for row in rows if row[1] == symbol]
        for name in NAMES:
            expected_names = {"A": NAMES[:2], "B": NAMES[2:], "C": ("3t", "250d"), "X": ()}[symbol[0]]
            expected = by_hand(mine, name) if name in expected_names else []
            have = found.get((name, symbol), [])
            names = ("time", *PRICES[:5], "volume")
            assert [[row[n] for n in names] for row in have] == [[row[n] for n in names] for row in expected]
    where %= len(raw)
    first = AggregationStage(1)
    run(raw[:where], first)
    second = AggregationStage(1, first.snapshot())
    assert [[bytes(o.value) for o in step] for step in continued(raw, second, where)] == [
        [bytes(o.value) for o in step] for step in steps[where:]
    ]
    assert second.snapshot() == whole.snapshot()


def test_rules_with_an_invalid_activity_interval_are_rejected() -> None:
    for wrong in ("5x", "5m"):
        steps = run([settings_record(activity_bars={"*": [wrong]})])
        assert len(decoded(steps, schemas.DEADLETTER)) == 1
    with pytest.raises(ValueError, match="100t"):
        parse("100t").floor(0)
