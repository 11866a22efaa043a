"""Vendors that get no requests for a series for a limited time, and the reasons. Pure.

The request scheduler stores the rejections that a vendor itself reports (an unknown symbol, an interval that its plan
lacks). A penalty follows from an answer: an error of one symbol, bars that differ from stored bars, invalid bars, or
bars of other times. The ranges that a vendor reported as empty are remembered too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tickerplant.core.schemas import NO_DATA, NOT_OFFERED
from tickerplant.core.times import HOUR_US
from tickerplant.market_data.vendors.account import Blocked
from tickerplant.market_data.vendors.errors import VendorError
from tickerplant.market_data.vendors.rejections import market_of

PENALTY_US: Final = HOUR_US
"""Duration of a penalty, except for bars that differ from stored bars: their penalty lasts a day."""

SeriesKey = tuple[str, str]
"""Symbol and interval."""


@dataclass(frozen=True, slots=True)
class _Penalty:
    until_us: int
    verdict: str
    note: str


@dataclass(frozen=True, slots=True)
class _EmptyRange:
    start_us: int
    end_us: int
    until_us: int


class VendorPenalties:
    """Penalties by series and vendor, and the ranges that a vendor reported as empty."""

    def __init__(self) -> None:
        self._penalties: dict[SeriesKey, dict[str, _Penalty]] = {}
        self._empty: dict[SeriesKey, list[_EmptyRange]] = {}

    def add(self, key: SeriesKey, vendor: str, until_us: int, verdict: str, note: str) -> None:
        """Exclude a vendor from a series until `until_us`.

        `verdict`, `note`: the reason to report if no other vendor has the bars.
        """
        self._penalties.setdefault(key, {})[vendor] = _Penalty(until_us, verdict, note)

    def add_error(self, key: SeriesKey, vendor: str, error: VendorError, now_us: int) -> None:
        """Exclude a vendor from a series for PENALTY_US because of an error."""
        self.add(key, vendor, now_us + PENALTY_US, NOT_OFFERED, f"{vendor}: {error}")

    def add_empty(self, key: SeriesKey, start_us: int, end_us: int, until_us: int) -> None:
        """Record that a vendor has no bars in `[start_us, end_us)`."""
        self._empty.setdefault(key, []).append(_EmptyRange(start_us, end_us, until_us))

    def excluded(self, key: SeriesKey, now_us: int) -> list[str]:
        """Return the vendors that must not get a request for a series now."""
        return [vendor for vendor, one in self._penalties.get(key, {}).items() if one.until_us > now_us]

    def reason(
        self, key: SeriesKey, blocked: Blocked, newest_us: int, now_us: int
    ) -> tuple[Blocked, list[tuple[int, int]]]:
        """Return the reason why no vendor can supply a series, and the ranges that it concerns; [] for all ranges.

        `blocked` is the reason of the request scheduler; `newest_us` is the start of the newest missing bar.
        """
        penalties = [one for one in self._penalties.get(key, {}).values() if one.until_us > now_us]
        if penalties:
            first = min(penalties, key=lambda one: one.until_us)
            again_us = first.until_us if blocked.again_us is None else min(first.until_us, blocked.again_us)
            return Blocked(first.verdict, first.note, again_us), []
        empty = [(one.start_us, one.end_us) for one in self._empty.get(key, ()) if one.until_us > now_us]
        if any(start_us <= newest_us < end_us for start_us, end_us in empty):
            return Blocked(NO_DATA, "no vendor has data"), empty
        return blocked, []

    def forget(self, now_us: int) -> None:
        """Remove expired penalties and empty ranges."""
        self._penalties = {
            key: left
            for key, penalties in self._penalties.items()
            if (left := {vendor: one for vendor, one in penalties.items() if one.until_us > now_us})
        }
        self._empty = {
            key: ranges
            for key, empty in self._empty.items()
            if (ranges := [one for one in empty if one.until_us > now_us])
        }


def market_key(symbol: str, calendar: str) -> tuple[str, str]:
    """Return the key that symbols share if a vendor delays them alike: market and calendar.

    A vendor's plan delays all shares of an exchange alike, and crypto or currencies differently. A pair (`BTC/USD`) has
    its own key.
    """
    return (symbol, calendar) if "/" in symbol else (market_of(symbol), calendar)
