"""Bars whose interval does not fit their times are refused; several rows of one bar are counted and reported."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.market_data.support import embedded, read_all, rows
from tests.support.properties import examples
from tickerplant.core import records
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.errors import BadInput
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, iso
from tickerplant.market_data.feed.validation import Conflict, find_conflict
from tickerplant.market_data.files.bar_checks import BarChecks
from tickerplant.market_data.files.bar_folder import BarFolder
from tickerplant.market_data.files.options import ReadOptions
from tickerplant.market_data.files.replay import ReplayOptions, ReplaySummary, replay

OPEN_US = 1_711_634_400_000_000  # 2024-03-28T14:00:00Z
MIDNIGHT_US = OPEN_US - OPEN_US % DAY_US
HEAD = "time,symbol,open,high,low,close,volume\n"


def file(folder: Path, times_us: list[int], name: str = "f.csv", symbols: str = "A") -> Path:
    lines = [f"{iso(us).removesuffix('Z')},{symbol},1,1,1,1,1\n" for us in times_us for symbol in symbols]
    path = folder / name
    path.write_text(HEAD + "".join(lines))
    return path


def run(folder: Path, path: Path, interval: str | None) -> ReplaySummary:
    with embedded(folder, 1) as log:
        try:
            return replay(log, path, ReplayOptions(interval=interval, tz="UTC"))
        except BadInput:
            assert read_all(log) == {}, "a refused file appends nothing"
            raise


def every(step_us: int, count: int, start_us: int = OPEN_US) -> list[int]:
    return [start_us + step_us * number for number in range(count)]


@pytest.mark.parametrize(
    ("times_us", "interval", "reason"),
    [
        (every(MINUTE_US, 2), "1d", "2 rows have 1 dates, and their times of day differ"),
        (every(MINUTE_US, 390), "1d", "390 rows have 1 dates, and their times of day differ"),
        (every(HOUR_US, 60), "1d", "60 rows have 4 dates, and their times of day differ"),
        (every(5 * MINUTE_US, 10), "1m", "all times are multiples of 5 min apart"),
        (every(HOUR_US, 5), "1m", "all times are multiples of 60 min apart"),
        (every(DAY_US, 3), "1m", "all times are multiples of 1 d apart"),
        (every(15 * MINUTE_US, 14), "5m", "all times are multiples of 15 min apart"),
        (every(MINUTE_US, 10), "5m", "8 of 10 times are not the start of a 5m interval"),
        (every(1_000_000, 120), "1m", "118 of 120 times are not the start of a 1m interval"),
        (every(5 * MINUTE_US, 5), "1m", "all times are multiples of 5 min apart"),
        (every(HOUR_US, 4), "5m", "all times are multiples of 60 min apart"),
        (every(7 * DAY_US, 5, MIDNIGHT_US), "1d", "their dates are at least 7 days apart"),
        (every(7 * DAY_US, 12, MIDNIGHT_US), "1d", "their dates are at least 7 days apart"),
        ([MIDNIGHT_US + DAY_US * day for day in np.cumsum([31, 28] * 8).tolist()], "1d", "at least 28 days apart"),
    ],
)
@pytest.mark.parametrize("symbols", ["A", "AB"])
@pytest.mark.parametrize("reverse", [False, True])
def test_an_interval_that_does_not_fit_the_times_is_refused(
    tmp_path: Path, times_us: list[int], interval: str, reason: str, symbols: str, reverse: bool
) -> None:
    path = file(tmp_path, times_us[::-1] if reverse else times_us, symbols=symbols)
    with pytest.raises(
        BadInput, match=f"the bars are not {interval} bars: .*; set the interval of the bars with --inter"
    ) as e:
        run(tmp_path, path, interval)
    if symbols == "A":
        assert reason in str(e.value)


@pytest.mark.parametrize(
    ("times_us", "interval"),
    [
        (every(MINUTE_US, 390), "1m"),
        (every(5 * MINUTE_US, 4), "1m"),  # too few to be sure: the symbol may trade rarely
        ([OPEN_US + 5 * MINUTE_US * at for at in (0, 1, 2, 3, 5, 6, 7, 8)], "1m"),
        (every(2 * MINUTE_US, 6), "1m"),
        (every(7 * DAY_US, 4, MIDNIGHT_US), "1d"),
        (every(5 * MINUTE_US, 100), "5m"),
        ([*every(5 * MINUTE_US, 100), OPEN_US + 501 * MINUTE_US], "1m"),
        (every(DAY_US, 100, MIDNIGHT_US), "1d"),
        ([MIDNIGHT_US + 7 * DAY_US * week + (week == 4) * DAY_US for week in range(5)], "1d"),
        ([*every(DAY_US, 30, MIDNIGHT_US + 16 * HOUR_US), MIDNIGHT_US + 29 * DAY_US + 10 * HOUR_US], "1d"),
    ],
)
def test_a_fitting_or_undecidable_interval_is_accepted(tmp_path: Path, times_us: list[int], interval: str) -> None:
    assert run(tmp_path, file(tmp_path, times_us), interval).bars == len(times_us)


@pytest.mark.parametrize("strict", [False, True])
def test_the_user_may_force_an_interval_that_does_not_fit_the_times(tmp_path: Path, strict: bool) -> None:
    path = file(tmp_path, every(5 * MINUTE_US, 20))
    options = ReplayOptions(interval="1m", tz="UTC", force_interval=True, strict=strict)
    with embedded(tmp_path, 1) as log:
        if strict:
            with pytest.raises(BadInput, match="multiples of 5 min apart"):
                replay(log, path, options)
            return
        found = replay(log, path, options)
        again = replay(log, path, replace(options, force_interval=False))
    assert (found.bars, len(found.notes)) == (20, 1)
    assert found.notes[0].startswith(
        "--force-interval: read although the bars are not 1m bars: all times are multiples"
    )
    assert again.already, "the option does not change the rows, so the feed is the same"


def test_a_column_of_intervals_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    lines = [f"{iso(us)},A,1m,1,1,1,1,1\n" for us in every(HOUR_US, 6)]
    path.write_text(HEAD.replace("symbol", "symbol,interval") + "".join(lines))
    with pytest.raises(BadInput, match=r"the bars are not 1m bars: .*; correct the column of intervals"):
        run(tmp_path, path, None)


def test_a_folder_refuses_a_file_whose_name_has_another_interval(tmp_path: Path) -> None:
    file(tmp_path, every(5 * MINUTE_US, 20), "A_1m.csv")
    (scanned,) = BarFolder(tmp_path, ReadOptions(tz="UTC")).scan()
    assert scanned.error is not None
    assert scanned.error.startswith("the bars are not 1m bars: all times are multiples of 5 min apart")


# Several rows of one bar ---------------------------------------------------------------------------------------------


def conflicting(folder: Path, lines: list[str], name: str = "f.csv") -> Path:
    path = folder / name
    path.write_text("time,open,high,low,close,volume\n" + "".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("reverse", [False, True])
def test_rows_of_one_bar_that_differ_are_counted_and_the_last_one_is_kept(tmp_path: Path, reverse: bool) -> None:
    lines = ["2024-03-28,1,1,1,1,1", "2024-03-29,2,2,2,2,2", "2024-03-29,2,2,2,2,2", "2024-03-30,3,3,3,3,3"]
    lines += ["2024-03-29,2,2,2,2,7", "2024-03-28,1,1.5,1,1,1", "2024-03-31,4,4,4,4,4"]
    path = conflicting(tmp_path, lines[::-1] if reverse else lines)
    with embedded(tmp_path, 1) as log:
        summary = replay(log, path, ReplayOptions(symbol="A", interval="1d"))
        assert (summary.bars, summary.dead, summary.conflicts) == (7, 0, 2)
        where = "A 1d 2024-03-29T00:00:00Z in f.csv lines 4 and 6"
        assert summary.notes == (
            f"2 rows differ from an earlier row of the same bar (first: {where}); the last row of each bar is kept",
        )
        assert len(rows(log, records.VendorBars)) == 7, "nothing is lost"


def test_equal_rows_of_one_bar_and_rows_of_other_symbols_are_no_conflict(tmp_path: Path) -> None:
    path = file(tmp_path, [*every(MINUTE_US, 20), *every(MINUTE_US, 20)], symbols="AB")
    summary = run(tmp_path, path, "1m")
    assert (summary.bars, summary.conflicts, summary.notes) == (80, 0, ())


def test_a_folder_reports_rows_of_one_bar_within_and_between_files(tmp_path: Path) -> None:
    conflicting(tmp_path, [f"2024-03-{day},1,1,1,1,1" for day in (25, 26, 27)], "A_1d.csv")
    conflicting(tmp_path, ["2024-03-26,1,1,1,1,1", "2024-03-27,2,2,2,2,1", "2024-03-28,1,1,1,1,1"], "sub.csv")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub.csv").rename(tmp_path / "sub" / "A_1d.csv")
    folder = BarFolder(tmp_path, ReadOptions())
    folder.scan()
    found, _ = folder.bars(["A"], "1d", 0, MIDNIGHT_US + DAY_US, "files")
    assert found["A"].conflict == (
        "1 rows differ from an earlier row of the same bar (first: 2024-03-27T00:00:00Z); the last row is kept"
    )
    assert found["A"].bars is not None
    assert found["A"].bars["close"].to_pylist() == [1.0, 1.0, 2.0, 1.0]


row = st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 1))


@given(st.lists(row, min_size=1, max_size=40), st.lists(st.integers(0, 40), max_size=4))
@examples(100)
def test_repeats_and_conflicts_equal_those_of_a_dictionary(drawn: list[tuple[int, int, int]], cuts: list[int]) -> None:
    known: dict[tuple[int, int], tuple[int, int]] = {}
    repeats = conflicts = 0
    first = None
    for number, (group, minute, value) in enumerate(drawn):
        before = known.get((group, minute))
        if before is not None and before[0] == value:
            repeats += 1
        elif before is not None:
            conflicts += 1
            first = first or (before[1], number)
        known[group, minute] = (value, number)
    checks = BarChecks()
    edges = sorted({0, len(drawn), *(min(cut, len(drawn)) for cut in cuts)})
    blocks = [drawn[begin:end] for begin, end in pairwise(edges)]
    for block in blocks:
        times = np.array([minute * MINUTE_US for _, minute, _ in block], np.int64)
        checks.scan(np.array([group * 3 for group, _, _ in block], np.int64), times, times)
    numbered = iter(range(len(drawn)))
    if checks.may_repeat:
        checks.compare(
            (batch(block), np.array([g * 3 for g, _, _ in block]), np.array([next(numbered) for _ in block]))
            for block in blocks
        )
    assert (checks.repeats, checks.conflicts) == (repeats, conflicts)
    assert (checks.first_conflict[:2] if checks.first_conflict else None) == first


def batch(block: list[tuple[int, int, int]]) -> pa.RecordBatch:
    made = {
        "time": timestamps(np.array([minute * MINUTE_US for _, minute, _ in block], np.int64)),
        "symbol": [str(group) for group, _, _ in block],
        "interval": ["1m"] * len(block),
        **{name: [float(value) for *_, value in block] for name in ("open", "high", "low", "close", "volume")},
    }
    return pa.RecordBatch.from_pydict(made)


def test_the_answer_of_a_vendor_with_two_rows_for_one_bar_is_noted() -> None:
    assert find_conflict(batch([(0, 1, 0), (0, 2, 1), (0, 1, 0)])) is None
    assert find_conflict(batch([(0, 3, 0), (0, 1, 0), (0, 3, 1), (0, 1, 1)])) == Conflict(
        2, "2 rows differ from an earlier row of the same bar (first: 1970-01-01T00:01:00Z); the last row is kept"
    )
