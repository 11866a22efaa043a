"""The error of a webhook that was not delivered."""

from __future__ import annotations

from tickerplant.core.errors import TickerplantError


class PostFailed(TickerplantError):
    """A webhook was not accepted: the receiver refused it, did not answer, or has an address that is not permitted.

    `gone` is true after an answer 410: a retry cannot help.
    """

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone
