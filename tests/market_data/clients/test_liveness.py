from __future__ import annotations

import datetime as dt
import math

import pytest

from tickerplant.core.rules import DEFAULT_RULES
from tickerplant.core.sessions import Calendars
from tickerplant.core.times import micros_of
from tickerplant.market_data.clients.liveness import (
    INTERVALS,
    LONGEST_S,
    SHORTEST_S,
    UNKNOWN_S,
    OpenHours,
    PriceLiveness,
)

OPEN = (True,)
CLOSED = (False,)


def measured(interval_s: float, prices: int = 100) -> tuple[PriceLiveness, float]:
    """Return a detector after `prices` observations, one every `interval_s`, and the time of the last in seconds."""
    liveness, now_s = PriceLiveness(), 0.0
    liveness.start(now_s, OPEN)
    for _ in range(prices):
        now_s += interval_s
        liveness.observe(now_s, OPEN, 1)
    return liveness, now_s


@pytest.mark.parametrize(("interval_s", "allowed_s"), [(0.001, SHORTEST_S), (2.0, 2.0 * INTERVALS)])
def test_the_allowed_silence_follows_the_measured_rate(interval_s: float, allowed_s: float) -> None:
    liveness, now_s = measured(interval_s)
    assert liveness.allowed_s(OPEN) == pytest.approx(allowed_s)
    assert not liveness.is_too_long(now_s + allowed_s - 1, OPEN)
    assert liveness.is_too_long(now_s + allowed_s + 1, OPEN)


def test_an_unknown_rate_allows_half_an_hour() -> None:
    liveness, _ = measured(60.0, prices=3)
    assert liveness.allowed_s(OPEN) == UNKNOWN_S


def test_no_price_is_expected_outside_regular_hours() -> None:
    liveness, now_s = measured(0.001)
    assert liveness.allowed_s(CLOSED) == math.inf
    assert not liveness.is_too_long(now_s + 1e6, CLOSED)


def test_the_silence_is_measured_from_the_open() -> None:
    liveness, now_s = measured(0.001)
    assert not liveness.is_too_long(now_s + 5, CLOSED)
    opening_s = now_s + 60_000
    assert not liveness.is_too_long(opening_s, OPEN)
    assert not liveness.is_too_long(opening_s + SHORTEST_S - 1, OPEN)
    assert liveness.is_too_long(opening_s + SHORTEST_S + 1, OPEN)


def test_each_connection_without_a_price_doubles_the_allowed_silence() -> None:
    liveness, now_s = measured(0.001)
    waits = []
    for _ in range(12):
        waits.append(liveness.allowed_s(OPEN))
        now_s += liveness.allowed_s(OPEN) + 1
        assert liveness.is_too_long(now_s, OPEN)
        liveness.start(now_s, OPEN)
    assert waits[:4] == [20, 40, 80, 160]
    assert waits[-1] == LONGEST_S
    liveness.observe(now_s + 1, OPEN, 1)
    assert liveness.allowed_s(OPEN) < 40


def test_the_time_without_a_connection_does_not_change_the_rate() -> None:
    liveness, now_s = measured(0.1)
    liveness.start(now_s + 10_000, OPEN)
    liveness.observe(now_s + 10_000.1, OPEN, 1)
    assert liveness.allowed_s(OPEN) == SHORTEST_S


def test_each_set_of_open_markets_has_its_own_rate() -> None:
    liveness, now_s = PriceLiveness(), 0.0
    both, crypto = (True, True), (True, False)
    liveness.start(now_s, both)
    for markets, interval_s in ((both, 0.01), (crypto, 4.0)):
        for _ in range(200):
            now_s += interval_s
            liveness.observe(now_s, markets, 1)
    assert liveness.allowed_s(both) == SHORTEST_S
    assert liveness.allowed_s(crypto) == pytest.approx(4.0 * INTERVALS)


def at(hour: int, minute: int, day: int = 15) -> int:
    return micros_of(dt.datetime(2026, 6, day, hour, minute, tzinfo=dt.UTC))


def test_hours_follow_the_calendars_of_the_symbols() -> None:
    calendars = Calendars(DEFAULT_RULES)
    stocks, mixed = OpenHours(calendars, ["AAPL", "MSFT"]), OpenHours(calendars, ["AAPL", "BTC/USD"])
    assert stocks.open_markets(at(15, 0)) == (True,)
    assert stocks.open_markets(at(12, 0)) == (False,)
    assert stocks.in_session(at(12, 0)), "12:00 UTC is in the extended hours"
    assert not stocks.in_session(at(3, 0))
    assert not stocks.in_session(at(15, 0, day=14)), "a Sunday has no session"
    assert mixed.open_markets(at(3, 0)) == (False, True)
    assert mixed.in_session(at(3, 0))
    assert OpenHours(calendars, []).open_markets(at(15, 0)) == ()
