from __future__ import annotations

from pathlib import Path

import pytest

from tests.market_data.support import OPEN_US, SECOND, Clock, embedded, headers, read_all, rows, ticks
from tests.support.killed import Killed
from tickerplant.core import faults, records, schemas
from tickerplant.core.errors import Fenced, LogError, LogUnavailable
from tickerplant.core.rules import DEFAULT_RULES, Rules, values_of
from tickerplant.core.sessions import Calendars
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import iso
from tickerplant.log.port import EventLog
from tickerplant.log.rules_in_force import rules_in_force
from tickerplant.market_data.feed.commands import ensure_settings, request_rebuild
from tickerplant.market_data.feed.dead_letters import DeadRow
from tickerplant.market_data.feed.writer import FeedWriter

SYMBOLS = ["AAPL", "MSFT", "GOOG", "EUR/USD", "BTC/USD"]


def live(log: EventLog, clock: Clock, name: str = "vendor") -> FeedWriter:
    feed = FeedWriter(log, name, clock=clock)
    feed.start(SYMBOLS, start_us=clock.us, live=True)
    return feed


def test_each_symbol_is_in_its_partition_and_the_dictionary_of_a_partition_does_not_change(tmp_path: Path) -> None:
    with embedded(tmp_path) as log, live(log, Clock(OPEN_US + 60 * SECOND)) as feed:
        feed.append_ticks(ticks(SYMBOLS), OPEN_US)
        feed.append_ticks(ticks(list(reversed(SYMBOLS))), OPEN_US)
        for partition, found in read_all(log).items():
            start, *others = found
            assert isinstance(start.header, records.Start)
            expected = start.batch["symbol"].to_pylist()
            assert [partition_of(s, 3) for s in expected] == [partition] * len(expected)
            for record in others:
                if isinstance(record.header, records.Ticks):
                    assert record.batch["symbol"].dictionary.equals(start.batch["symbol"].dictionary)
                    assert set(record.batch["symbol"].to_pylist()) == set(expected)
        assert len(rows(log, records.Ticks)) == 10


def test_ticks_keep_their_order_within_a_symbol(tmp_path: Path) -> None:
    with embedded(tmp_path) as log, live(log, Clock(OPEN_US + 60 * SECOND)) as feed:
        feed.append_ticks(ticks(["AAPL", "MSFT"] * 50, times_us=[OPEN_US] * 100), OPEN_US)
        prices = [row["price"] for row in rows(log, records.Ticks) if row["symbol"] == "AAPL"]
        assert prices == [100.0 + i for i in range(0, 100, 2)]


def test_a_partition_without_ticks_receives_the_watermark(tmp_path: Path) -> None:
    clock = Clock(OPEN_US + 60 * SECOND)
    with embedded(tmp_path) as log, live(log, clock) as feed:
        feed.append_ticks(ticks(["AAPL"]), OPEN_US + 5 * SECOND)
        for partition in range(3):
            assert headers(log, partition)[-1].watermark_us == OPEN_US + 5 * SECOND  # type: ignore[attr-defined]


def test_at_most_four_marks_per_second_are_appended(tmp_path: Path) -> None:
    clock = Clock(OPEN_US)
    with embedded(tmp_path) as log, live(log, clock) as feed:
        for _ in range(100):
            clock.us += SECOND // 50
            feed.mark(clock.us - SECOND)
        marks = [header for header in headers(log) if isinstance(header, records.Mark)]
        assert 7 <= len(marks) <= 8
        assert [m.watermark_us for m in marks] == sorted(m.watermark_us for m in marks)


def test_a_restarted_live_feed_appends_down_since_the_watermark_of_the_killed_process(tmp_path: Path) -> None:
    clock = Clock(OPEN_US + 60 * SECOND)
    with embedded(tmp_path) as log:
        with live(log, clock) as feed:
            feed.append_ticks(ticks(["AAPL"]), OPEN_US + 5 * SECOND)
        clock.us += 600 * SECOND
        with live(log, clock):
            pass
        for partition in range(3):
            down, start = headers(log, partition)[-2:]
            assert isinstance(down, records.Down)
            assert down.since_us == OPEN_US + 5 * SECOND
            assert isinstance(start, records.Start)
            assert start.hole
            assert start.from_us == clock.us


def test_a_feed_stopped_cleanly_appends_down_once(tmp_path: Path) -> None:
    clock = Clock(OPEN_US + 60 * SECOND)
    with embedded(tmp_path) as log:
        with live(log, clock) as feed:
            feed.down(reason="stopped")
            feed.down(reason="stopped")
        with live(log, clock):
            pass
        assert [type(h) for h in headers(log)] == [records.Start, records.Down, records.Start]


def test_a_restarted_file_feed_appends_no_start_or_down(tmp_path: Path) -> None:
    clock = Clock(OPEN_US + 60 * SECOND)
    with embedded(tmp_path) as log:
        for row in (b"1", b"2"):
            with FeedWriter(log, "file:x", clock=clock) as feed:
                feed.start(SYMBOLS, start_us=OPEN_US)
                feed.append_ticks(ticks(["AAPL"]), OPEN_US, row)
        with FeedWriter(log, "file:x", clock=clock) as feed:
            assert feed.cursor.resume_token == b"2"
            feed.end()
            with pytest.raises(LogError, match="ended"):
                feed.start(SYMBOLS, start_us=OPEN_US)
        assert [type(h) for h in headers(log, partition_of("AAPL", 3))] == [
            records.Start,
            records.Ticks,
            records.Ticks,
            records.End,
        ]


def test_invalid_rows_are_dead_letters_and_do_not_advance_the_watermark(tmp_path: Path) -> None:
    clock = Clock(OPEN_US + 60 * SECOND)
    far = OPEN_US + 10**15
    with embedded(tmp_path) as log, live(log, clock) as feed:
        batch = ticks(["AAPL"] * 4, times_us=[OPEN_US, far, 0, OPEN_US], prices=[1.0, 2.0, 3.0, float("nan")])
        assert feed.append_ticks(batch, far) == 1
        dead = rows(log, records.Dead, schemas.DEADLETTER)
        assert sorted(row["reason"] for row in dead) == [
            "the price nan is not a finite number",
            "the time 1970-01-01T00:00:00Z is before any market data existed",
            f"the time {iso(far)} is in the future",
        ]
        assert {(row["topic"], row["offset"]) for row in dead} == {("vendor", -1)}
        assert feed.cursor.watermark_us <= clock.us
        assert feed.cursor.dead == 3


def test_dead_rows_of_a_file_of_any_size_are_appended_and_large_payloads_are_cut(tmp_path: Path) -> None:
    mib = 1 << 20
    with embedded(tmp_path) as log, FeedWriter(log, "file:rows", clock=Clock(OPEN_US)) as feed:
        payloads = [b"a" * 40 * mib, *(b"b" * 5 * mib for _ in range(8)), b"c"]
        feed.append_dead_letters([DeadRow(f"row {number}", payload) for number, payload in enumerate(payloads)])
        feed.commit()
        dead = rows(log, records.Dead, schemas.DEADLETTER)
    assert [row["reason"] for row in dead] == [
        f"row 0 (the first {8 * mib} of {40 * mib} bytes are kept)",
        *(f"row {number}" for number in range(1, 10)),
    ]
    assert [len(row["payload"]) for row in dead] == [8 * mib, *[5 * mib] * 8, 1]


POINTS = ["feed.append.before", "feed.append.after", "feed.commit.before", "feed.commit.after"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("hits", [1, 2, 4])
def test_after_a_kill_at_any_point_each_tick_is_stored_exactly_once(tmp_path: Path, point: str, hits: int) -> None:
    clock = Clock(OPEN_US + 6000 * SECOND)
    reached = 0

    def hook(name: str) -> None:
        nonlocal reached
        reached += name == point
        if reached == hits and name == point:
            raise Killed

    def run(log: EventLog) -> None:
        with FeedWriter(log, "file:x", clock=clock, hold_bytes=4_000) as feed:
            feed.start(SYMBOLS, start_us=OPEN_US)
            for number in range(int(feed.cursor.resume_token or b"0"), 20):
                at = OPEN_US + number * SECOND
                feed.append_ticks(ticks(SYMBOLS, [at] * 5, [float(number)] * 5), at, str(number + 1).encode())
            feed.end()

    with embedded(tmp_path) as log:
        faults.install(hook)
        try:
            with pytest.raises(Killed):
                run(log)
        finally:
            faults.install(None)
        run(log)
        stored = [(row["symbol"], row["price"]) for row in rows(log, records.Ticks)]
        assert sorted(stored) == sorted((s, float(n)) for s in SYMBOLS for n in range(20))
        assert [type(h) for h in headers(log)].count(records.End) == 1


@pytest.mark.parametrize("after", [False, True])
def test_the_ticks_of_a_commit_with_unknown_outcome_are_stored_exactly_once(tmp_path: Path, after: bool) -> None:
    clock = Clock(OPEN_US + 60 * SECOND)

    def hook(name: str) -> None:
        if name == ("feed.commit.after" if after else "feed.commit.before"):
            raise LogUnavailable("the broker does not answer")

    with embedded(tmp_path) as log, live(log, clock) as feed:
        faults.install(hook)
        try:
            with pytest.raises(LogUnavailable):
                feed.append_ticks(ticks(SYMBOLS), OPEN_US, b"7")
        finally:
            faults.install(None)
        feed.recover()
        feed.append_ticks(ticks(["AAPL"]), OPEN_US, b"8")
        assert len(rows(log, records.Ticks)) == 6


def test_a_second_writer_of_a_feed_fences_the_first(tmp_path: Path) -> None:
    clock = Clock(OPEN_US + 60 * SECOND)
    with embedded(tmp_path) as log, live(log, clock) as elder, live(log, clock), pytest.raises(Fenced):
        elder.append_ticks(ticks(["AAPL"]), OPEN_US)


def test_settings_are_appended_only_if_they_differ_from_the_stored_ones(tmp_path: Path) -> None:
    with embedded(tmp_path) as log:
        assert ensure_settings(log, {"lateness_us": 1, "calendars": {"*": "24/7"}})
        assert not ensure_settings(log, {"calendars": {"*": "24/7"}, "lateness_us": 1})
        assert ensure_settings(log, {})
        for partition in range(3):
            written = [h.values for h in headers(log, partition) if isinstance(h, records.Settings)]
            assert written == [{"lateness_us": 1, "calendars": {"*": "24/7"}}, {}]


def test_another_order_of_the_calendars_is_a_change_and_services_read_the_order_that_was_set(tmp_path: Path) -> None:
    # Pattern `Z*` precedes `*`, although a sorted table has `*` first: ZURN has Switzerland's calendar.
    swiss_first, xetra_first = {"Z*": "XSWX", "*": "XETR"}, {"*": "XETR", "Z*": "XSWX"}
    with embedded(tmp_path) as log:
        assert ensure_settings(log, values_of(Rules(calendars=swiss_first)))
        assert not ensure_settings(log, values_of(Rules(calendars=dict(swiss_first))))
        assert list(rules_in_force(log, DEFAULT_RULES).calendars) == ["Z*", "*"]
        assert Calendars(rules_in_force(log, DEFAULT_RULES)).of("ZURN").name == "XSWX"
        assert ensure_settings(log, values_of(Rules(calendars=xetra_first)))
        assert Calendars(rules_in_force(log, DEFAULT_RULES)).of("ZURN").name == "XETR"
        written = [list(h.values["calendars"]) for h in headers(log) if isinstance(h, records.Settings)]
        assert written == [["Z*", "*"], ["*", "Z*"]]


def test_the_order_of_tables_without_patterns_is_no_change(tmp_path: Path) -> None:
    with embedded(tmp_path) as log:
        assert ensure_settings(log, {"indicators": {"5m": ["RSI(14)"], "1d": []}})
        assert not ensure_settings(log, {"indicators": {"1d": [], "5m": ["RSI(14)"]}})
        assert ensure_settings(log, {"activity_bars": {"B*": ["100t"], "*": []}})
        assert ensure_settings(log, {"activity_bars": {"*": [], "B*": ["100t"]}})


def test_a_rebuild_is_appended_to_every_partition(tmp_path: Path) -> None:
    with embedded(tmp_path) as log:
        assert set(request_rebuild(log, SYMBOLS, 0, 60 * SECOND)) == {0, 1, 2}
        assert {row["symbol"] for row in rows(log, records.Rebuild)} == set(SYMBOLS)
