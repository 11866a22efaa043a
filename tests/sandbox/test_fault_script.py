"""Faults: parsing, duration, scripts and random faults."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from tickerplant.core.errors import BadInput
from tickerplant.core.times import HOUR_US, SECOND_US
from tickerplant.sandbox.fault_script import (
    LASTING,
    ONCE,
    FaultSchedule,
    merge_plans,
    parse_fault,
    parse_script,
    random_faults,
)

NOW = 1_790_000_000_000_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("do=nothing", "no fault 'nothing'"),
        ("do=429&kind=year", "it accepts minute, day, burst"),
        ("do=mute&symbol=AAPL", "it accepts heartbeats"),
        ("do=429&vendor=reuters", "no vendor"),
        ("do=late&by=soon", "must be a number: by=soon"),
        ("do=cancel", "can report a cancelled trade"),
        ("do=split&symbol=AAPL&ratio=1.5", "ratio=1.5 is no split ratio; write .* 2 or 3:2"),
        ("do=split&symbol=AAPL&ratio=3:0", "ratio=3:0 is no split ratio"),
    ],
)
def test_an_invalid_fault_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_fault(text)


@pytest.mark.parametrize(("options", "ratio"), [("", (2, 1)), ("&ratio=4", (4, 1)), ("&ratio=3:2", (3, 2))])
def test_a_split_has_a_whole_or_a_fractional_ratio(options: str, ratio: tuple[int, int]) -> None:
    assert parse_fault(f"do=split&symbol=AAPL{options}").ratio() == ratio


def test_a_fault_applies_to_its_vendor_for_its_duration() -> None:
    schedule = FaultSchedule(NOW, iter(()))
    schedule.apply(parse_fault("do=429&vendor=yahoo&kind=day&seconds=5"), NOW)
    assert schedule.active("429", "yahoo", NOW + 4 * SECOND_US) is not None
    assert schedule.active("429", "yahoo", NOW + 5 * SECOND_US) is None
    assert schedule.active("429", "binance", NOW) is None
    schedule.apply(parse_fault("do=429&seconds=60"), NOW)
    found = schedule.active("429", "yahoo", NOW)
    assert found is not None
    assert found.choice("kind") == "minute"
    for symbol in ("AAPL", "MSFT"):
        schedule.apply(parse_fault(f"do=unknown&symbol={symbol}"), NOW)
    assert len(schedule.all_active("unknown", "yahoo", NOW)) == 2
    schedule.apply(parse_fault("do=clear"), NOW)
    assert schedule.shown(NOW) == []


def test_a_script_becomes_due_by_the_clock() -> None:
    lines = parse_script("# first\n10 do=mute&seconds=5\n\n2.5 do=disconnect\n")
    schedule = FaultSchedule(NOW, merge_plans([(at, parse_fault(text)) for at, text in lines], None))
    assert schedule.due(NOW + 2 * SECOND_US) == []
    assert [fault.do for fault in schedule.due(NOW + 3 * SECOND_US)] == ["disconnect"]
    assert [fault.do for fault in schedule.due(NOW + 60 * SECOND_US)] == ["mute"]
    with pytest.raises(BadInput, match="SECONDS FAULT"):
        parse_script("soon do=mute")
    with pytest.raises(BadInput, match="no fault"):
        parse_script("5 do=nothing")


def test_random_faults_of_a_seed_are_fixed_and_cover_most_kinds() -> None:
    def day(seed: int) -> list[tuple[float, object]]:
        return list(itertools.takewhile(lambda entry: entry[0] < 24 * 3_600, random_faults(seed)))

    assert day(1) == day(1) != day(2)
    counts = Counter(fault.do for _, fault in day(1))  # type: ignore[attr-defined]
    assert counts.keys() == {*LASTING, *ONCE} - {"premium", "unknown", "refuse", "skew", "split", "clear"}
    assert 240 < counts["disconnect"] < 480
    times = [at for at, _ in day(1)]
    assert times == sorted(times)
    merged = FaultSchedule(NOW, merge_plans([(60.0, parse_fault("do=clear"))], 1)).due(NOW + HOUR_US)
    assert sum(fault.do == "clear" for fault in merged) == 1
