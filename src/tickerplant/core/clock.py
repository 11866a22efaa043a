"""The interface of a clock. A module that needs the time receives a clock as an argument; see `system_clock`."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """A source of time. It may start at another time than the machine's clock, and run faster.

    A clock receives and measures durations in its own seconds. A day of the sandbox may therefore last only
    minutes, with unchanged quotas, pauses, heartbeats and page sizes.
    """

    @property
    def speed(self) -> float:
        """Return the seconds of this clock that pass in one second of the machine's clock."""
        ...

    def now_us(self) -> int:
        """Return the time in microseconds UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never decrease, from an arbitrary origin, for measuring durations."""
        ...

    def real_s(self, seconds: float) -> float:
        """Convert a duration of this clock to seconds of the machine's clock, as timeouts of libraries expect."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the task for `seconds` of this clock."""
        ...
