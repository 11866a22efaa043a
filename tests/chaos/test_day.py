"""Part of a trading day with faulty vendors at high speed: all bars are stored and correct, and no quota is exceeded.

`python -m benchmarks.day` runs the whole day. This test runs half an hour around the open, with eight symbols.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_services import free_port
from tests.support.day import Day, random_faults, run
from tests.support.waiting import PATIENCE
from tickerplant.sandbox.model import symbol_names

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(280)]


def test_after_half_an_hour_of_faults_every_bar_is_stored_and_no_quota_is_exceeded(tmp_path: Path) -> None:
    hours = 0.5
    day = Day(
        symbols=(*symbol_names(6), "EUR/USD", "BTC/USD"),
        start="2026-06-15T13:20:00+00:00",  # ten minutes before New York opens
        hours=hours,
        speed=60.0 / PATIENCE.factor(),
        rate=6.0,
        quotas=(
            "twelvedata=55/minute", "twelvedata=100/day", "alphavantage=5/minute", "alphavantage=25/day",
            "yahoo=60/minute",
        ),
        script=random_faults(hours, seed=7),
        history="1d:10,1m:1",
    )  # fmt: skip
    verdict = run(tmp_path, day, free_port())
    report = "\n".join(verdict.lines())
    assert verdict.bars > 150, report
    assert not verdict.missing, report
    assert not verdict.unknown, report
    assert not verdict.different, report
    assert not verdict.incomplete, report
    assert not verdict.gaps, report
    assert not verdict.overspent(), report
    assert len(verdict.sources) > 1, report
    assert {"ticks", "backfill"} <= verdict.reasons.keys(), report
