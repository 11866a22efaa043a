"""The error of a webhook that was not delivered."""

from __future__ import annotations

from tickerplant.core.errors import TickerplantError


class PostFailed(TickerplantError):
    """The receiver did not accept a webhook. `gone`: it answered that it never will (410)."""

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone
