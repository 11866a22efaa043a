"""An outage: consecutive failed attempts at the same work. It is logged once; health shows its error and its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LONGEST_WAIT_S: Final = 90.0
"""Maximum seconds that one attempt waits for an unavailable log or store. Two calls of Kafka's client wait 30 s each.

An attempt that fails after a longer time was successful at first, so its failure begins another outage."""


@dataclass(slots=True)
class Outage:
    """The current outage of one component. Pure: times are arguments, in seconds since 1970."""

    error: str = ""
    """Text of the newest failure; "" while there is no outage."""
    since_s: float = 0.0
    """Time of the first failure; 0 while there is no outage."""
    failures: int = 0

    @property
    def repeats(self) -> bool:
        """Return whether the attempt has failed at least twice in a row."""
        return self.failures > 1

    def fail(self, error: str, now_s: float) -> bool:
        """Record a failed attempt; return True for the first attempt of an outage, which the caller logs."""
        self.error = error
        self.failures += 1
        if self.failures == 1:
            self.since_s = now_s
        return self.failures == 1

    def end(self) -> int:
        """Record success; return the number of failures of the outage that has ended, 0 if there was none."""
        failures, self.failures = self.failures, 0
        self.error, self.since_s = "", 0.0
        return failures
