"""The circuit breaker: the failures that open it, the length of the pause, and the answers that close it."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from tickerplant.market_data.vendors.circuit_breaker import (
    BAD_KEY_PAUSE_US,
    CLOSED,
    FAILURES,
    HALF_OPEN,
    OPEN,
    PAUSE_MAX_US,
    PAUSE_US,
    BreakerState,
    CircuitBreaker,
)

NOON_US = 1_773_057_600_000_000


def failing(times: int, jitter: float = 0.5) -> CircuitBreaker:
    breaker = CircuitBreaker()
    for n in range(times):
        breaker.failed(NOON_US + n * SECOND_US, f"down {n}", jitter)
    return breaker


def test_the_breaker_opens_after_failures_in_a_row() -> None:
    breaker = failing(FAILURES - 1)
    assert breaker.name(NOON_US) == CLOSED
    breaker.answered()
    breaker.failed(NOON_US, "down", 0.5)
    assert breaker.name(NOON_US) == CLOSED
    breaker = failing(FAILURES)
    now = NOON_US + (FAILURES - 1) * SECOND_US
    assert breaker.name(now) == OPEN
    assert breaker.open_until(now) == now + PAUSE_US
    assert breaker.state.since_us == NOON_US
    assert breaker.state.last_error == f"down {FAILURES - 1}"


def test_a_trial_closes_the_breaker_or_doubles_its_pause_up_to_a_maximum() -> None:
    breaker, now, pauses = failing(FAILURES), NOON_US + SECOND_US * (FAILURES - 1), []
    for _ in range(9):
        until = breaker.open_until(now)
        assert until is not None
        pauses.append(until - now)
        assert breaker.name(until - 1) == OPEN
        assert breaker.name(until) == HALF_OPEN
        now = until
        breaker.failed(now, "still down", 0.5)
    assert pauses[:3] == [PAUSE_US, 2 * PAUSE_US, 4 * PAUSE_US]
    assert pauses[-1] == PAUSE_MAX_US
    breaker.answered()
    assert breaker.name(now) == CLOSED
    breaker.failed(now, "again", 0.5)
    assert breaker.name(now) == CLOSED


@given(jitter=st.floats(0, 1, exclude_max=True), retry_after_s=st.floats(0, 1e9))
def test_the_pause_has_a_quarter_of_jitter_and_honours_a_retry_after_up_to_an_hour(
    jitter: float, retry_after_s: float
) -> None:
    breaker = failing(FAILURES - 1)
    breaker.failed(NOON_US, "down", jitter, retry_after_s=retry_after_s)
    until = breaker.open_until(NOON_US)
    assert until is not None
    assert 0.75 * PAUSE_US <= until - NOON_US <= HOUR_US
    assert until - NOON_US >= min(retry_after_s * SECOND_US, HOUR_US) - 1


def test_a_bad_key_opens_the_breaker_until_a_restart() -> None:
    breaker = CircuitBreaker()
    breaker.bad_key(NOON_US, "the key is wrong")
    assert breaker.open_until(NOON_US) == NOON_US + BAD_KEY_PAUSE_US
    again = CircuitBreaker(msgspec.msgpack.decode(msgspec.msgpack.encode(breaker.state), type=BreakerState))
    assert again.open_until(NOON_US) == NOON_US + BAD_KEY_PAUSE_US
    again.restarted()
    assert again.name(NOON_US) == CLOSED
    assert again.state.last_error == "the key is wrong"
    down = failing(FAILURES)
    down.restarted()
    assert down.name(NOON_US) == OPEN  # a restart does not close a breaker that an outage opened


def test_a_wrong_clock_opens_the_breaker_for_at_most_a_day() -> None:
    breaker = CircuitBreaker()
    for _ in range(FAILURES):
        breaker.failed(NOON_US + 300 * DAY_US, "down", 0.5)
    assert breaker.open_until(NOON_US) is None
    assert breaker.open_until(NOON_US + 300 * DAY_US - MINUTE_US) is not None
