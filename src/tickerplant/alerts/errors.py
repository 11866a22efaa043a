"""The error of a webhook that was not delivered."""

from __future__ import annotations

from tickerplant.core.errors import TickerplantError


class PostFailed(TickerplantError):
    """The receiver did not accept a webhook. `gone` is true after an answer 410: a retry cannot help."""

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone
