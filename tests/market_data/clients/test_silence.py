from __future__ import annotations

import datetime as dt
import math

import pytest

from tickerplant.core.rules import DEFAULT_RULES
from tickerplant.core.sessions import Calendars
from tickerplant.core.times import micros_of
from tickerplant.market_data.clients.liveness import GAPS, LONGEST_S, SHORTEST_S, UNKNOWN_S, Hours, Silence

OPEN = (True,)
CLOSED = (False,)


def learned(gap_s: float, prices: int = 100) -> tuple[Silence, float]:
    """Return one that has heard a price every `gap_s`, and when the last one was."""
    silence, now_s = Silence(), 0.0
    silence.connected(now_s, OPEN)
    for _ in range(prices):
        now_s += gap_s
        silence.heard(now_s, OPEN, 1)
    return silence, now_s


@pytest.mark.parametrize(("gap_s", "allowed_s"), [(0.001, SHORTEST_S), (2.0, 2.0 * GAPS)])
def test_how_long_is_too_long_is_learned(gap_s: float, allowed_s: float) -> None:
    silence, now_s = learned(gap_s)
    assert silence.allowed_s(OPEN) == pytest.approx(allowed_s)
    assert not silence.too_long(now_s + allowed_s - 1, OPEN)
    assert silence.too_long(now_s + allowed_s + 1, OPEN)


def test_while_nothing_is_learned_it_is_patient() -> None:
    silence, _ = learned(60.0, prices=3)
    assert silence.allowed_s(OPEN) == UNKNOWN_S


def test_out_of_hours_nothing_is_expected() -> None:
    silence, now_s = learned(0.001)
    assert silence.allowed_s(CLOSED) == math.inf
    assert not silence.too_long(now_s + 1e6, CLOSED)


def test_at_the_open_it_begins_to_count_anew() -> None:
    silence, now_s = learned(0.001)
    assert not silence.too_long(now_s + 5, CLOSED)
    opening_s = now_s + 60_000
    assert not silence.too_long(opening_s, OPEN)
    assert not silence.too_long(opening_s + SHORTEST_S - 1, OPEN)
    assert silence.too_long(opening_s + SHORTEST_S + 1, OPEN)


def test_connections_that_bring_nothing_are_given_more_time_each() -> None:
    silence, now_s = learned(0.001)
    waits = []
    for _ in range(12):
        waits.append(silence.allowed_s(OPEN))
        now_s += silence.allowed_s(OPEN) + 1
        assert silence.too_long(now_s, OPEN)
        silence.connected(now_s, OPEN)
    assert waits[:4] == [20, 40, 80, 160]
    assert waits[-1] == LONGEST_S
    silence.heard(now_s + 1, OPEN, 1)
    assert silence.allowed_s(OPEN) < 40


def test_the_time_without_a_connection_teaches_nothing() -> None:
    silence, now_s = learned(0.1)
    silence.connected(now_s + 10_000, OPEN)
    silence.heard(now_s + 10_000.1, OPEN, 1)
    assert silence.allowed_s(OPEN) == SHORTEST_S


def test_each_set_of_open_markets_has_its_own_rate() -> None:
    silence, now_s = Silence(), 0.0
    both, crypto = (True, True), (True, False)
    silence.connected(now_s, both)
    for regime, gap_s in ((both, 0.01), (crypto, 4.0)):
        for _ in range(200):
            now_s += gap_s
            silence.heard(now_s, regime, 1)
    assert silence.allowed_s(both) == SHORTEST_S
    assert silence.allowed_s(crypto) == pytest.approx(4.0 * GAPS)


def at(hour: int, minute: int, day: int = 15) -> int:
    return micros_of(dt.datetime(2026, 6, day, hour, minute, tzinfo=dt.UTC))


def test_hours_are_those_of_the_symbols_calendars() -> None:
    calendars = Calendars(DEFAULT_RULES)
    stocks, mixed = Hours(calendars, ["AAPL", "MSFT"]), Hours(calendars, ["AAPL", "BTC/USD"])
    assert stocks.regime(at(15, 0)) == (True,)
    assert stocks.regime(at(12, 0)) == (False,)
    assert stocks.in_session(at(12, 0)), "before the open it is in extended hours"
    assert not stocks.in_session(at(3, 0))
    assert not stocks.in_session(at(15, 0, day=14)), "a Sunday"
    assert mixed.regime(at(3, 0)) == (False, True)
    assert mixed.in_session(at(3, 0))
    assert Hours(calendars, []).regime(at(15, 0)) == ()
