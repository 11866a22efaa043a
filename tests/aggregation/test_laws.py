"""Invariants of aggregation.

Some changes of the input must not change bars or output bytes. Other tests compute sums and bars in another way.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.aggregation.plant import (
    SENT,
    at,
    bars,
    consumed,
    continued,
    down,
    end,
    last,
    mark,
    rebuild,
    run,
    same_bars,
    start,
    ticks,
    vendor,
)  # fmt: skip
from tests.aggregation.plant import settings as settings_record
from tests.support import data
from tests.support.properties import examples
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core.flags import TickFlag
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import MINUTE_US, SECOND_US

OPEN = at("2026-01-05T20:50")
SYMBOLS = ["AAPL", "MSFT", "BTC-USD", "X", "YY"]
FLAGS = [0, 0, 0, int(TickFlag.NO_OHLC), int(TickFlag.NO_VOLUME), int(TickFlag.CLOSING_AUCTION)]

tick = st.tuples(
    st.integers(0, 15 * 60 * 4).map(lambda quarter: OPEN + quarter * SECOND_US // 4),
    st.sampled_from(SYMBOLS),
    st.integers(9_900, 10_100).map(lambda cents: cents / 100),
    st.integers(0, 1_000).map(float),
    st.sampled_from(FLAGS),
)
feed_ticks = st.lists(tick, min_size=1, max_size=60).map(lambda rows: sorted(rows, key=lambda row: row[0]))


def in_batches(rows: list[Any], cuts: list[int], feed: str = "a") -> list[bytes]:
    """Return the records of a feed that sends the rows in batches, cut at these positions.

    The watermark of a batch is the smallest time of the later batches, that of the last batch is the greatest time.
    """
    edges = sorted({0, len(rows), *(cut % (len(rows) + 1) for cut in cuts)})
    raw = [start(feed, OPEN, SYMBOLS)]
    for begin, stop in pairwise(edges):
        watermark = min((row[0] for row in rows[stop:]), default=max(row[0] for row in rows))
        raw.append(ticks(rows[begin:stop], watermark, feed))
    return [*raw, end(feed)]


@given(feed_ticks, st.lists(st.integers(0, 60), max_size=8), st.lists(st.integers(0, 60), max_size=8))
@examples(60)
def test_any_division_into_batches_gives_the_same_bars(rows: list[Any], one: list[int], other: list[int]) -> None:
    same_bars(last(run(in_batches(rows, one))), last(run(in_batches(rows, other))))


@given(feed_ticks, st.lists(st.integers(0, 60), max_size=8), st.randoms(use_true_random=False))
@examples(60)
def test_any_order_within_the_allowed_lateness_gives_the_same_bars_and_no_revision(
    rows: list[Any], cuts: list[int], random: Any
) -> None:
    # Each delay is below the allowed lateness. Ticks of equal time have equal delays, so their order does not change.
    delays = {time: random.randrange(2 * SECOND_US) for time in {row[0] for row in rows}}
    shaken = sorted(rows, key=lambda row: row[0] + delays[row[0]])
    edges = sorted({0, len(rows), *(cut % (len(rows) + 1) for cut in cuts)})
    raw, newest = [start(start_us=OPEN, symbols=SYMBOLS)], 0
    for begin, stop in pairwise(edges):
        newest = max(newest, *(row[0] for row in shaken[begin:stop]))
        raw.append(ticks(shaken[begin:stop], newest))
    steps = run([*raw, end()])
    same_bars(last(run(in_batches(rows, []))), last(steps))
    minutes = [row for row in bars(steps, "final") if row["interval"] == "1m"]
    assert {row["revision"] for row in minutes} == {0}


@given(feed_ticks, st.randoms(use_true_random=False))
@examples(40)
def test_ticks_that_arrive_after_the_close_give_the_same_bars_by_revision(rows: list[Any], random: Any) -> None:
    shaken = list(rows)
    random.shuffle(shaken)
    by_time = {time: [row for row in rows if row[0] == time] for time in {row[0] for row in rows}}
    shaken = [by_time[row[0]].pop(0) for row in shaken]
    raw, newest = [start(start_us=OPEN, symbols=SYMBOLS)], 0
    for row in shaken:
        newest = max(newest, row[0])
        raw.append(ticks([row], newest))
    same_bars(last(run(in_batches(rows, []))), last(run([*raw, end()])))


@given(feed_ticks, st.integers(1, 5))
@examples(30)
def test_any_number_of_partitions_gives_the_same_bars(rows: list[Any], partitions: int) -> None:
    together = last(run(in_batches(rows, [20, 40])))
    apart: dict[Any, Any] = {}
    for partition in range(partitions):
        mine = [row for row in rows if partition_of(row[1], partitions) == partition]
        if mine:
            apart |= last(run(in_batches(mine, [7])))
    same_bars(together, apart)


@given(feed_ticks)
@examples(30)
def test_the_volume_of_all_bars_equals_the_size_of_all_counted_ticks(rows: list[Any]) -> None:
    steps = run(in_batches(rows, [10, 20, 30]))
    counted = sum(row[3] for row in rows if not row[4] & TickFlag.NO_VOLUME)
    for interval in ("1m", "5m"):
        total = sum(row["volume"] for key, row in last(steps).items() if key[0] == interval)
        assert total == pytest.approx(counted, rel=1e-12)


many_bars = st.lists(
    st.tuples(st.sampled_from(["1m", "1m", "5m", "1d"]), st.sampled_from(SYMBOLS), st.integers(-1_500, 60)),
    min_size=2,
    max_size=30,
)
"""Bars of many instants in one record: interval, symbol and minutes after `OPEN`."""
LENGTHS = {"1m": MINUTE_US, "5m": 5 * MINUTE_US, "1d": 1440 * MINUTE_US}

action = st.one_of(
    st.tuples(st.just("ticks"), st.sampled_from("ab"), st.lists(tick, max_size=12)),
    st.tuples(st.just("mark"), st.sampled_from("ab")),
    st.tuples(st.just("down"), st.sampled_from("ab")),
    st.tuples(st.just("start"), st.sampled_from("ab"), st.booleans()),
    st.tuples(st.just("end"), st.sampled_from("ab"), st.booleans()),
    st.tuples(st.just("vendor"), st.sampled_from(["1m", "5m", "1d"]), st.sampled_from(SYMBOLS), st.integers(0, 14)),
    st.tuples(st.just("bars"), st.sampled_from("ab"), many_bars, st.booleans(), st.booleans()),
    st.tuples(st.just("settings"), st.sampled_from([0, 5 * SECOND_US])),
    st.tuples(st.just("order"), st.sampled_from([("a", "*"), ("b:ticks@A* 1m", "*"), ("*:bars", "b", "*")])),
    st.tuples(st.just("activity"), st.sampled_from([{}, {"*": ["2t", "500v"]}])),
    st.tuples(st.just("undo"), st.sampled_from("ab"), st.integers(0, 40), st.booleans()),
    st.tuples(st.just("rebuild"), st.sampled_from(SYMBOLS), st.integers(0, 14)),
    st.tuples(st.just("pause"),),
    st.tuples(st.just("garbage"),),
)  # fmt: skip


def vendor_row(interval: str, symbol: str, minute: int, volume: float) -> tuple[Any, ...]:
    """Return a row of `vendor`: the bar of the interval that contains this minute after `OPEN`."""
    time = OPEN + minute * MINUTE_US
    return time - time % LENGTHS[interval], symbol, interval, 1.0, 2.0, 0.5, 1.5, volume


def records_of(actions: list[Any]) -> list[bytes]:
    """Return a log of two feeds and a vendor's feed, with one record per action. `pause` only advances the log time."""
    clock, sent = OPEN, SENT
    sent_ticks: dict[str, list[Any]] = {"a": [], "b": []}
    raw = [start("a", OPEN, SYMBOLS, live=True), start("b", OPEN, SYMBOLS)]
    for number, (kind, *rest) in enumerate(actions):
        clock += 40 * SECOND_US
        sent += SECOND_US
        if kind == "ticks":
            rows = [(*row, f"{number}-{index}") for index, row in enumerate(rest[1])]
            sent_ticks[rest[0]] += rows
            raw.append(ticks(rows, clock, rest[0], source=rest[0], sent=sent))
        elif kind == "undo":
            row = (
                sent_ticks[rest[0]][rest[1] % len(sent_ticks[rest[0]])]
                if sent_ticks[rest[0]]
                else (clock, "X", 1.0, 1.0, 0, "none")
            )
            flag = TickFlag.CANCEL if rest[2] else TickFlag.CORRECTION
            raw.append(ticks([(*row[:2], row[2] + 0.5, 3.0, int(flag), row[5])], clock, rest[0], rest[0], sent))
        elif kind == "rebuild":
            time = OPEN + rest[1] * MINUTE_US
            raw.append(rebuild([rest[0]], time, time + 3 * MINUTE_US, sent=sent))
        elif kind == "order":
            raw.append(settings_record(sources=rest[0]))
        elif kind == "activity":
            raw.append(settings_record(activity_bars=rest[0]))
        elif kind == "mark":
            raw.append(mark(clock, rest[0], sent=sent))
        elif kind == "down":
            raw.append(down(clock - 70 * SECOND_US, rest[0], sent=sent))
        elif kind == "start":
            raw.append(start(rest[0], clock, SYMBOLS, live=rest[0] == "a", hole=rest[1], sent_at_us=sent))
        elif kind == "end":
            raw.append(end(rest[0], whole=rest[1]))
        elif kind == "vendor":
            raw.append(vendor([vendor_row(rest[0], rest[1], rest[2], number)], clock))
        elif kind == "bars":
            rows = [vendor_row(interval, symbol, minute, number % 3) for interval, symbol, minute in rest[1]]
            rows.sort(key=lambda row: row[:2] if rest[3] else (row[1], row[0]))
            raw.append(vendor(rows, clock if rest[2] else OPEN, rest[0], source=rest[0]))
        elif kind == "settings":
            raw.append(settings_record(lateness_us=rest[0]))
        elif kind == "pause":
            sent += 100 * SECOND_US
        else:
            raw.append(b"garbage")
    return raw


@given(st.lists(action, max_size=25), st.integers(0, 30))
@examples(150)
def test_a_restore_from_a_snapshot_at_any_record_changes_no_byte(actions: list[Any], where: int) -> None:
    raw = records_of(actions)
    where %= len(raw) + 1
    whole = AggregationStage(1)
    expected = run(raw, whole)
    first = AggregationStage(1)
    before = run(raw[:where], first)
    snapshot = first.snapshot()
    second = AggregationStage(1, snapshot)
    assert second.snapshot() == snapshot
    after = continued(raw, second, where)
    assert [[(o.topic, bytes(o.value)) for o in step] for step in before + after] == [
        [(o.topic, bytes(o.value)) for o in step] for step in expected
    ]
    assert second.snapshot() == whole.snapshot()
    assert second.keep_label() == whole.keep_label()


@given(st.lists(action, max_size=25))
@examples(60)
def test_coarser_bars_equal_the_roll_up_of_their_published_parts(actions: list[Any]) -> None:
    """Compare 5m bars with a roll-up of the last published minutes, after any log of ticks whose feeds ended."""
    chosen = [a for a in actions if a[0] not in ("vendor", "bars", "order")]
    found = last(run([*records_of(chosen), end("a"), end("b")]))
    for (interval, symbol, time), row in found.items():
        if interval == "5m":
            minutes = [found.get(("1m", symbol, time + i * MINUTE_US)) for i in range(5)]
            parts = [part for part in minutes if part is not None]
            assert row["volume"] == pytest.approx(sum(part["volume"] for part in parts))
            assert row["trades"] == sum(part["trades"] for part in parts)
            highs = [part["high"] for part in parts if part["high"] is not None]
            assert row["high"] == max(highs, default=None)
            closes = [part["close"] for part in parts if part["close"] is not None]
            assert row["close"] == (closes[-1] if closes else None)


@pytest.mark.parametrize("batch", [37, 1_000, 20_000])
def test_bars_of_a_simulated_session_equal_those_of_a_batch_in_polars(batch: int) -> None:
    frame = data.session().frame
    times = frame["time"].dt.timestamp("us").to_list()
    rows = list(zip(times, frame["symbol"], frame["price"].to_list(), frame["size"].to_list(), strict=True))
    raw = [start("file", times[0], ["GOOG"], whole=True)]
    for begin in range(0, len(rows), batch):
        until = rows[min(begin + batch, len(rows) - 1)][0]
        raw += [ticks(rows[begin : begin + batch], until, "file"), mark(until, "file")]
    found = last(run([*raw, end("file")]))
    assert all(row["complete"] for row in found.values())
    for interval in ("1m", "5m", "1d"):
        expected = (
            frame.group_by(pl.col("time").dt.truncate(interval), maintain_order=True)
            .agg(
                open=pl.col("price").first(), high=pl.col("price").max(), low=pl.col("price").min(),
                close=pl.col("price").last(), volume=pl.col("size").sum(), trades=pl.len(),
                vwap=(pl.col("price") * pl.col("size")).sum() / pl.col("size").sum(),
            )
            .to_dicts()
        )  # fmt: skip
        have = {key[2]: row for key, row in found.items() if key[0] == interval}
        assert len(have) == len(expected)
        for want in expected:
            row = have[int(want["time"].timestamp()) * 1_000_000]
            for name in ("open", "high", "low", "close", "volume", "trades"):
                assert row[name] == want[name], (interval, want["time"], name)
            assert row["vwap"] == pytest.approx(want["vwap"], rel=1e-12)


@given(many_bars, st.lists(st.integers(0, 30), max_size=4))
@examples(60)
def test_a_file_of_bars_sorted_by_time_or_by_symbol_and_cut_anywhere_gives_the_same_bars(
    found: list[Any], cuts: list[int]
) -> None:
    rows = [vendor_row(interval, symbol, minute, 5.0) for interval, symbol, minute in sorted(set(found))]
    rows = list({row[:3]: row for row in rows}.values())
    published = []
    for order in (lambda row: row[:2], lambda row: (row[1], row[0])):
        rows.sort(key=order)
        edges = sorted({0, len(rows), *(cut % (len(rows) + 1) for cut in cuts)})
        raw = [start("file", min(row[0] for row in rows), SYMBOLS, whole=True)]
        for begin, stop in pairwise(edges):
            watermark = min((row[0] for row in rows[stop:]), default=max(row[0] for row in rows))
            raw.append(vendor(rows[begin:stop], watermark, "file"))
        published.append(last(run([*raw, end("file")])))
    same_bars(*published)
    assert {(row[2], row[1], row[0]) for row in rows} <= published[0].keys()


def test_a_file_of_daily_bars_is_published_unchanged() -> None:
    frame = data.read_bars(data.years(), "%m/%d/%Y")
    rows = [(time, "MSFT", "1d", *bar) for time, *bar in frame.with_columns(pl.col("time").dt.timestamp("us")).rows()]
    raw = [start("file", rows[0][0], ["MSFT"], whole=True)]
    raw += [vendor(rows[i : i + 200], rows[min(i + 200, len(rows) - 1)][0], "file") for i in range(0, len(rows), 200)]
    stage = AggregationStage(1)
    published = bars(run([*raw, end("file")], stage))
    assert [(r["time"], r["open"], r["high"], r["low"], r["close"], r["volume"]) for r in published] == [
        (row[0], *row[3:8]) for row in rows
    ]
    assert not any(row["history"] for row in published)
    assert len(stage._engine.state.candidates[2].blocks) < 10
    assert stage.step(consumed(vendor(rows[-1:], rows[-1][0], "file"), 999)) == []


@pytest.mark.parametrize("batch", [200, 1_000])
def test_minutes_of_a_24_7_market_are_published_with_their_5m_and_daily_bars(batch: int) -> None:
    frame = data.read_bars(data.round_the_clock(), "%Y-%m-%d %H:%M:%S%.f")
    us = frame["time"].dt.timestamp("us").to_list()
    values = [frame[name].to_list() for name in ("open", "high", "low", "close", "volume")]
    rows = [(t, "BTC-USD", "1m", *v) for t, v in zip(us, zip(*values, strict=True), strict=True)]
    raw = [start("file", us[0], ["BTC-USD"], whole=True)]
    for i in range(0, len(rows), batch):
        raw.append(
            vendor(rows[i : i + batch], rows[i + batch][0] if i + batch < len(rows) else us[-1] + MINUTE_US, "file")
        )
    published = bars(run([*raw, end("file")]))
    minutes = [r for r in published if r["interval"] == "1m"]
    assert [(r["time"], r["open"], r["high"], r["low"], r["close"], r["volume"]) for r in minutes] == [
        (row[0], *row[3:8]) for row in rows
    ]
    assert {row["revision"] for row in published} == {0}
    bucketed = pl.DataFrame({"t": us} | dict(zip(("o", "h", "l", "c", "v"), values, strict=True)))
    for interval, length in (("5m", 5 * MINUTE_US), ("1d", 1440 * MINUTE_US)):
        want = (
            bucketed.group_by(pl.col("t") // length * length, maintain_order=True)
            .agg(pl.col("o").first(), pl.col("h").max(), pl.col("l").min(), pl.col("c").last(), pl.col("v").sum())
            .rows()
        )
        have = [r for r in published if r["interval"] == interval]
        assert [(r["time"], r["open"], r["high"], r["low"], r["close"]) for r in have] == [row[:5] for row in want]
        assert [r["volume"] for r in have] == pytest.approx([row[5] for row in want], rel=1e-12)
        assert all(row["complete"] for row in have)
