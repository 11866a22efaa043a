"""Quotas by vendor and key, counters and the request log."""

from __future__ import annotations

import datetime as dt

import pytest

from tickerplant.core.quota import Quota
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, SECOND_US, micros_of
from tickerplant.protocols.http_types import BURST, DAY, MINUTE, Request
from tickerplant.sandbox.quotas import MAX_REQUESTS, QuotaTracker, window_of

NOW = micros_of(dt.datetime(2026, 9, 23, 12, 0, 50, tzinfo=dt.UTC))


def test_minute_and_day_quotas_are_counted_by_key() -> None:
    tracker = QuotaTracker({"twelvedata": (Quota(8, MINUTE_US), Quota(10, DAY_US))}, {})
    assert tracker.spend("twelvedata", "a", 8, NOW) is None
    refusal = tracker.spend("twelvedata", "a", 1, NOW)
    assert refusal is not None
    assert (refusal.kind, refusal.used, refusal.limit, refusal.retry_after_s) == (MINUTE, 9, 8, 10)
    assert tracker.spend("twelvedata", "b", 8, NOW) is None
    assert tracker.minute("twelvedata", "a", NOW) == (8, 8)
    assert tracker.spend("twelvedata", "a", 2, NOW + MINUTE_US) is None
    refusal = tracker.spend("twelvedata", "a", 1, NOW + MINUTE_US)
    assert refusal is not None
    assert refusal.kind == DAY
    assert tracker.spend("twelvedata", "a", 1, NOW + DAY_US) is None
    counted = tracker.counts()["twelvedata"]
    assert counted["credits"] == 19
    assert counted["windows"] == [
        {"quota": "minute", "limit": 8, "largest": 8, "largest_asked": 9},
        {"quota": "day", "limit": 10, "largest": 10, "largest_asked": 12},
    ]


def test_two_requests_too_close_together_are_a_burst() -> None:
    tracker = QuotaTracker({}, {"alphavantage": 1.0})
    assert tracker.spend("alphavantage", "a", 1, NOW) is None
    refusal = tracker.spend("alphavantage", "a", 1, NOW + SECOND_US // 2)
    assert refusal is not None
    assert refusal.kind == BURST
    assert tracker.spend("alphavantage", "a", 1, NOW + 2 * SECOND_US) is None


@pytest.mark.parametrize(("day", "hours"), [(dt.date(2026, 9, 23), 24), (dt.date(2026, 11, 1), 25)])
def test_a_day_of_new_york_begins_at_its_midnight(day: dt.date, hours: int) -> None:
    quota = Quota(25, DAY_US, "America/New_York")
    midnight = micros_of(dt.datetime.combine(day, dt.time(4), dt.UTC))
    number, end_us = window_of(quota, midnight)
    assert end_us == midnight + hours * HOUR_US
    assert window_of(quota, midnight - 1) == (number - 1, midnight)
    assert window_of(quota, end_us - 1)[0] == number
    assert window_of(quota, end_us)[0] == number + 1


def test_requests_are_logged_without_keys() -> None:
    tracker = QuotaTracker({}, {})
    request = Request("/price", {"symbol": "AAPL", "apikey": "secret"})
    for at in range(MAX_REQUESTS + 5):
        tracker.record(NOW + at, "twelvedata", request, 200, 1, refused=False)
    tracker.record(NOW, "yahoo", Request("/v8/finance/chart/AAPL"), 0, 0, refused=True)
    assert len(tracker.requests("twelvedata")) == MAX_REQUESTS - 1
    assert "secret" not in str(tracker.requests())
    assert tracker.requests("yahoo")[0]["status"] == 0
    assert tracker.counts()["twelvedata"]["requests"] == MAX_REQUESTS + 5
