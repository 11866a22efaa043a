"""A vendor's quota: credits per window of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tickerplant.core.digits import is_digits
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US

_PERIODS: Final = {"minute": MINUTE_US, "hour": HOUR_US, "day": DAY_US}


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit of `credits` in each window of `period_us` microseconds.

    Windows of a minute or an hour are aligned to UTC. Windows of a day begin at 00:00 in `zone` (IANA), the
    zone of the vendor's day. If `rolling` is true, the vendor counts back from each request: every range of that length
    is a window.

    >>> str(Quota.parse("800/day@America/New_York")), str(Quota.parse("5/rolling-minute"))
    ('800/day@America/New_York', '5/rolling-minute')
    """

    credits: int
    period_us: int
    zone: str = "UTC"
    rolling: bool = False

    def __str__(self) -> str:
        name = next((name for name, us in _PERIODS.items() if us == self.period_us), f"{self.period_us} us")
        zone = f"@{self.zone}" if self.daily and not self.rolling and self.zone != "UTC" else ""
        return f"{self.credits}/{'rolling-' if self.rolling else ''}{name}{zone}"

    @property
    def daily(self) -> bool:
        """Return whether the window is a day or longer."""
        return self.period_us >= DAY_US

    @staticmethod
    def parse(text: str) -> Quota:
        """Parse `CREDITS/minute`, `CREDITS/hour` or `CREDITS/day[@ZONE]`; `rolling-` may precede the period.

        Raises ValueError that describes the format.
        """
        number, _, rest = text.strip().partition("/")
        period, _, zone = (part.strip() for part in rest.partition("@"))
        length = _PERIODS.get(period.removeprefix("rolling-"))
        if not is_digits(number.strip()) or len(number) > 20 or int(number) < 1 or length is None:
            raise ValueError(f"{text!r} is not a quota; write credits/minute, credits/hour or credits/day: 800/day")
        if zone:
            try:
                ZoneInfo(zone)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError(f"{zone!r} in {text!r} is not a time zone; write it like America/New_York") from None
        return Quota(int(number), length, zone or "UTC", period.startswith("rolling-"))
