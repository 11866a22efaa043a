"""The circuit breaker of one vendor: who fails again and again is left in peace for a while. Pure.

It is *closed* until `FAILURES` failures in a row or a bad key *open* it. When the pause is over it is *half-open*: one
request is the trial. An answer closes it; a failure opens it for twice as long.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tickerplant.core.times import DAY_US, MINUTE_US, NEVER_US, SECOND_US

FAILURES: Final = 3
"""One failure is the network's, two may be: a request and its repeat five seconds later. Three are the vendor's."""
PAUSE_US: Final = 30 * SECOND_US
PAUSE_MAX_US: Final = 15 * MINUTE_US
"""A vendor that is back is noticed within a quarter of an hour; one that is away all day costs 100 requests."""
BAD_KEY_PAUSE_US: Final = 6 * 60 * MINUTE_US

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


class BreakerState(msgspec.Struct, kw_only=True):
    """What is kept. `opened`: how often in a row; `since_us`: of the first failure in a row."""

    failures: int = 0
    opened: int = 0
    since_us: int = NEVER_US
    until_us: int = NEVER_US
    bad_key: bool = False
    last_error: str = ""
    last_error_us: int = NEVER_US


class Breaker:
    """One vendor's breaker. `jitter` is in [0, 1): processes that begin together do not come back together."""

    def __init__(self, kept: BreakerState | None = None) -> None:
        self.state = kept or BreakerState()

    def name(self, now_us: int) -> str:
        """Return CLOSED, OPEN or HALF_OPEN."""
        if not self.state.opened:
            return CLOSED
        return OPEN if self.open_until(now_us) is not None else HALF_OPEN

    def open_until(self, now_us: int) -> int | None:
        """Return when a request may go out again, or None if now."""
        until = self.state.until_us
        # No pause is longer than a day: one that is was made by a clock that was wrong.
        return until if now_us < until < now_us + DAY_US else None

    def answered(self) -> None:
        """Say that the vendor answered, be it with a refusal of what was asked."""
        self.state.failures = self.state.opened = 0
        self.state.since_us = self.state.until_us = NEVER_US
        self.state.bad_key = False

    def failed(self, now_us: int, error: str, jitter: float, *, retry_after_s: float = 0.0) -> None:
        """Say that the vendor was out of reach or answered nonsense; `retry_after_s` is what it said itself."""
        self._note(now_us, error)
        self.state.failures += 1
        if self.state.failures < FAILURES and not self.state.opened:
            return
        pause = min(PAUSE_US << min(self.state.opened, 16), PAUSE_MAX_US)
        pause = max(int(pause * (0.75 + 0.5 * jitter)), min(int(retry_after_s * SECOND_US), 4 * PAUSE_MAX_US))
        self.state.opened += 1
        self.state.until_us = now_us + pause

    def bad_key(self, now_us: int, error: str) -> None:
        """Say that the vendor turned the key away: only the user can help, and starting again asks again."""
        self._note(now_us, error)
        self.state.opened += 1
        self.state.bad_key = True
        self.state.until_us = now_us + BAD_KEY_PAUSE_US

    def note(self, now_us: int, error: str) -> None:
        """Remember an error that is not the breaker's, for people."""
        self.state.last_error, self.state.last_error_us = error, now_us

    def restarted(self) -> None:
        """Say that the plant began anew: the user may have given another key, which is tried."""
        if self.state.bad_key:
            self.answered()

    def _note(self, now_us: int, error: str) -> None:
        self.note(now_us, error)
        if not self.state.failures and not self.state.opened:
            self.state.since_us = now_us
