"""What a vendor may refuse, by what to do about it."""

from __future__ import annotations

from tickerplant.core.errors import TickerplantError


class VendorError(TickerplantError):
    """A vendor refused or failed. `retry_after_s`: when asking again may help; None: not by itself."""

    retry_after_s: float | None = None


class QuotaSpent(VendorError):
    """No credits are left; `retry_after_s` says for how long (a minute, or until tomorrow)."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BadKey(VendorError):
    """The key is missing, wrong, or may not do this: only the user can help."""


class UnknownSymbol(VendorError):
    """The vendor does not know the symbol."""


class NoData(VendorError):
    """The vendor has nothing for this symbol and range; that is an answer."""


class BadRequest(VendorError):
    """The vendor does not take the request as it is: a mistake of ours."""


class VendorDown(VendorError):
    """The vendor is out of reach or fails; asking again later may help."""

    retry_after_s = 5.0


class Malformed(VendorError):
    """The answer is none of the shapes that are known."""
