"""Why a bar was published, and of which kind that makes it."""

from tickerplant.aggregation.candidates import REASONS
from tickerplant.core.reasons import OF_TICKS, kind_of
from tickerplant.core.sources import BARS, TICKS


def test_the_reasons_of_bars_that_were_built_are_those_of_aggregation() -> None:
    assert {*OF_TICKS, "source"} == set(REASONS)


def test_what_was_passed_on_is_of_kind_bars() -> None:
    assert {kind_of(reason, history=False) for reason in OF_TICKS} == {TICKS}
    assert {kind_of(reason, history=True) for reason in OF_TICKS} == {BARS}
    assert {kind_of(reason, history=False) for reason in ("backfill", "vendor", "official", "file", "source")} == {BARS}
