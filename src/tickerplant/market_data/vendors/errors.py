"""What a vendor may refuse, by what to do about it. Every client raises these and nothing else."""

from __future__ import annotations

from tickerplant.core.errors import TickerplantError


class VendorError(TickerplantError):
    """A vendor refused or failed. `retry_after_s`: when asking again may help; None: not by itself.

    No message carries a key. `about_vendor`: whether it says something of the vendor as a whole (then another one is
    asked, and this one is left in peace for a while) and not of what was asked for.
    """

    retry_after_s: float | None = None
    about_vendor: bool = False


class QuotaSpent(VendorError):
    """No credits are left of the minute or the day; `retry_after_s` says for how long. `daily`: it is the day's."""

    about_vendor = True

    def __init__(self, message: str, retry_after_s: float, *, daily: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.daily = daily


class Burst(VendorError):
    """Requests came too close together: a pause of seconds helps, no quota is spent."""

    about_vendor = True

    def __init__(self, message: str, retry_after_s: float = 2.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BadKey(VendorError):
    """The key is missing or wrong: only the user can help."""

    about_vendor = True


class NotEntitled(VendorError):
    """The key is good, but its plan does not have this endpoint, interval or market; asking again never helps."""


class UnknownSymbol(VendorError):
    """The vendor does not know the symbol."""


class NoData(VendorError):
    """The vendor has nothing for this symbol and range; that is an answer."""


class BadRequest(VendorError):
    """The vendor does not take the request as it is: a mistake of ours."""


class VendorDown(VendorError):
    """The vendor is out of reach or fails (a timeout, a 5xx); asking again later may help."""

    retry_after_s = 5.0
    about_vendor = True


class Malformed(VendorError):
    """The answer is none of the shapes that are known."""
