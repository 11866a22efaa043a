"""Errors of vendors, by the caller's reaction. The methods of a provider raise only these."""

from __future__ import annotations

from tickerplant.core.errors import TickerplantError
from tickerplant.market_data.vendors.bounds import shortened


class VendorError(TickerplantError):
    """A vendor rejected a request, or failed.

    `retry_after_s`: seconds after which another attempt may succeed; None if no such time is known. `about_vendor`:
    other requests to the vendor would fail too. The request scheduler then pauses requests to this vendor and tries
    another vendor. No message contains a key. A message longer than `bounds.MAX_ERROR_CHARS` is cut, because it may
    quote an answer.
    """

    retry_after_s: float | None = None
    about_vendor: bool = False

    def __init__(self, *args: object) -> None:
        super().__init__(*(shortened(part) if isinstance(part, str) else part for part in args))

    def with_note(self, note: str) -> None:
        """Append a note to the message; "" changes nothing."""
        if note:
            self.args = (f"{self}; {note}",)


class QuotaSpent(VendorError):
    """The vendor's quota is used up for `retry_after_s` seconds. `daily`: the quota of the day is used up."""

    about_vendor = True

    def __init__(self, message: str, retry_after_s: float, *, daily: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.daily = daily


class Burst(VendorError):
    """Requests were too close together. A pause of seconds helps; no quota is spent."""

    about_vendor = True

    def __init__(self, message: str, retry_after_s: float = 2.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BadKey(VendorError):
    """The key is missing or wrong: only the user can help."""

    about_vendor = True


class NotEntitled(VendorError):
    """The key is valid, but its plan lacks this endpoint, interval or market; only another plan helps."""


class UnknownSymbol(VendorError):
    """The vendor does not have the symbol."""


class NoData(VendorError):
    """The vendor has no data for this symbol and range. This is a complete answer."""


class BadRequest(VendorError):
    """The request is invalid for the vendor: its form, symbols, range or cost. It is an error of the plant."""


class VendorDown(VendorError):
    """The vendor cannot be reached or fails (a timeout, a 5xx); a later attempt may help."""

    retry_after_s = 5.0
    about_vendor = True


class Malformed(VendorError):
    """The answer has no known form."""
