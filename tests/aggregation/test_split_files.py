"""Files that split one session anywhere: a complete bar equals that of the whole session, and no bar is missing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.aggregation.plant import SENT, at, last, run, start, ticks
from tickerplant.core import records
from tickerplant.core.flags import TickFlag
from tickerplant.core.times import DAY_US, SECOND_US

OPEN = at("2026-01-05T14:30")
ODD_LOT, NOTHING = int(TickFlag.NO_OHLC), int(TickFlag.NO_OHLC | TickFlag.NO_VOLUME)
VALUES = ("open", "high", "low", "close", "volume", "trades")
Row = tuple[int, str, float, int, int]
ORDERS: dict[str, Any] = {
    "time": lambda row: row[0],
    "time, newest first": lambda row: -row[0],
    "symbol": lambda row: (row[1], row[0]),
    "symbol, newest first": lambda row: (row[1], -row[0]),
}


def file(name: str, rows: Sequence[Row], days: float) -> list[bytes]:
    """Return the records of a file as a replay appends them. A watermark is the least time of the later rows."""
    times, sent = [row[0] for row in rows], SENT + int(days * DAY_US)
    head = start(name, min(times), list(dict.fromkeys(row[1] for row in rows)), whole=True, sent_at_us=sent)
    half = len(rows) // 2
    parts = [ticks(rows[:half], min(times[half:]), name, "file", sent)] if half else []
    ended = records.encode(records.End(feed=name, sent_at_us=sent, whole=True, watermark_us=max(times))).to_pybytes()
    return [head, *parts, ticks(rows[half:], max(times), name, "file", sent), ended]


@st.composite
def prints(draw: st.DrawFn) -> list[Row]:
    """Return prints of three symbols within ten minutes, many of them at one instant."""
    drawn = draw(
        st.lists(
            st.tuples(
                st.sampled_from([0, 5, 55, 58, 59, 60, 61, 119, 120, 150, 185, 299, 300, 599]),
                st.sampled_from("XYZ"),
                st.sampled_from([0, 0, 0, ODD_LOT, NOTHING]),
            ),
            min_size=4,
            max_size=24,
        )
    )
    return [(OPEN + s * SECOND_US, symbol, 10.0 + at, 1 + at % 3, flags) for at, (s, symbol, flags) in enumerate(drawn)]


@settings(max_examples=50, deadline=None)
@given(
    prints(), st.sampled_from(sorted(ORDERS)), st.lists(st.integers(1, 23), min_size=1, max_size=3, unique=True),
    st.randoms(use_true_random=False), st.sampled_from([0.0, 1.5, 30.0]),
)  # fmt: skip
def test_a_complete_bar_of_split_files_equals_that_of_the_whole_file(
    rows: list[Row], order: str, cuts: list[int], random: Any, days: float
) -> None:
    rows = sorted(rows, key=ORDERS[order])
    bounds = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    parts = [rows[begin:end] for begin, end in pairwise(bounds)]
    ranges = {(min(row[0] for row in part), max(row[0] for row in part), part[0][1], part[-1][1]) for part in parts}
    assume(len(ranges) == len(parts))  # files of one range may be one file, corrected
    assume(all(low < high for low, high, *_ in ranges))
    whole = last(run(file("file:whole", rows, 0.0)))
    numbered = list(enumerate(parts))
    random.shuffle(numbered)
    raw = [each for at, (number, part) in enumerate(numbered) for each in file(f"file:{number}", part, at * days)]
    found = last(run(raw))
    assert found.keys() == whole.keys()
    for key, bar in found.items():
        if bar["complete"]:
            assert {name: bar[name] for name in VALUES} == {name: whole[key][name] for name in VALUES}, key
