"""Reasons of published bars, and their kinds."""

from tickerplant.aggregation.candidates import REASONS
from tickerplant.core.reasons import CUT, OF_TICKS, kind_of
from tickerplant.core.sources import BARS, TICKS


def test_the_reasons_of_built_bars_are_those_of_aggregation() -> None:
    assert {*OF_TICKS, "source"} == {*REASONS, CUT}


def test_a_passed_through_bar_has_the_kind_bars() -> None:
    assert {kind_of(reason, history=False) for reason in OF_TICKS} == {TICKS}
    assert {kind_of(reason, history=True) for reason in OF_TICKS} == {BARS}
    assert {kind_of(reason, history=False) for reason in ("backfill", "vendor", "official", "file", "source")} == {BARS}
