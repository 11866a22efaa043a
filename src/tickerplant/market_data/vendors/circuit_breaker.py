"""The circuit breaker of one vendor: requests to a vendor that fails repeatedly are paused. Pure.

The breaker is *closed* until `FAILURES` failures in a row or a bad key *open* it. After the pause it is *half-open*:
one request is the trial. An answer closes the breaker; a failure opens it for twice as long, up to
`PAUSE_MAX_US`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tickerplant.core.times import DAY_US, MINUTE_US, NEVER_US, SECOND_US
from tickerplant.market_data.vendors.bounds import bounded_wait_us

FAILURES: Final = 3
"""Failures in a row that open the breaker. The network may cause one or two (a request and its repeat)."""
PAUSE_US: Final = 30 * SECOND_US
"""First pause, before the jitter of 25 %."""
PAUSE_MAX_US: Final = 15 * MINUTE_US
"""Maximum pause, before the jitter and unless the vendor requests a longer pause.

A recovered vendor is used again within about 15 minutes. An outage of a day costs about 100 requests.
"""
BAD_KEY_PAUSE_US: Final = 6 * 60 * MINUTE_US

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


class BreakerState(msgspec.Struct, kw_only=True):
    """The stored state. `opened`: count of openings in a row. `since_us`: time of the first failure in a row."""

    failures: int = 0
    opened: int = 0
    since_us: int = NEVER_US
    until_us: int = NEVER_US
    bad_key: bool = False
    last_error: str = ""
    last_error_us: int = NEVER_US


class CircuitBreaker:
    """The breaker of one vendor.

    `jitter` is a random number in [0, 1) that spreads the retries of several processes.
    """

    def __init__(self, stored: BreakerState | None = None) -> None:
        self.state = stored or BreakerState()

    def name(self, now_us: int) -> str:
        """Return CLOSED, OPEN or HALF_OPEN."""
        if not self.state.opened:
            return CLOSED
        return OPEN if self.open_until(now_us) is not None else HALF_OPEN

    def open_until(self, now_us: int) -> int | None:
        """Return the end of the pause; None if a request may be sent now."""
        until = self.state.until_us
        # No pause is longer than a day: a longer pause was computed with a wrong clock.
        return until if now_us < until < now_us + DAY_US else None

    def answered(self) -> None:
        """Record that the vendor answered; a rejection of the request is an answer."""
        self.state.failures = self.state.opened = 0
        self.state.since_us = self.state.until_us = NEVER_US
        self.state.bad_key = False

    def failed(self, now_us: int, error: str, jitter: float, *, retry_after_s: float = 0.0) -> None:
        """Record that the vendor was unreachable or its answer invalid.

        `retry_after_s`: pause that the vendor requested; the breaker waits for at most an hour of it.
        """
        self._note(now_us, error)
        self.state.failures += 1
        if self.state.failures < FAILURES and not self.state.opened:
            return
        pause = min(PAUSE_US << min(self.state.opened, 16), PAUSE_MAX_US)
        pause = max(int(pause * (0.75 + 0.5 * jitter)), min(bounded_wait_us(retry_after_s), 4 * PAUSE_MAX_US))
        self.state.opened += 1
        self.state.until_us = now_us + pause

    def bad_key(self, now_us: int, error: str) -> None:
        """Record that the vendor rejected the key: only the user can help. A restart tries the key again."""
        self._note(now_us, error)
        self.state.opened += 1
        self.state.bad_key = True
        self.state.until_us = now_us + BAD_KEY_PAUSE_US

    def note(self, now_us: int, error: str) -> None:
        """Record an error for the status; the error does not affect the breaker."""
        self.state.last_error, self.state.last_error_us = error, now_us

    def restarted(self) -> None:
        """Record a restart: a rejected key is tried again, because the user may have changed it."""
        if self.state.bad_key:
            self.answered()

    def _note(self, now_us: int, error: str) -> None:
        self.note(now_us, error)
        if not self.state.failures and not self.state.opened:
            self.state.since_us = now_us
