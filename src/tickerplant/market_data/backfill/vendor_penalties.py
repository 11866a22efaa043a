"""Which vendors were no help with a series lately, and why: until then others are asked for it. Pure.

The desk remembers what is a vendor's own to say (it refuses a symbol, its plan lacks an interval). Here is what came
out when its answers were used: bars that differ from those of others, bars that cannot be, stretches without any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tickerplant.core.schemas import NO_DATA, NOT_OFFERED
from tickerplant.core.times import HOUR_US
from tickerplant.market_data.vendors.account import Blocked
from tickerplant.market_data.vendors.errors import VendorError
from tickerplant.market_data.vendors.rejections import market_of

HOLDS_US: Final = HOUR_US

Key = tuple[str, str]
"""Symbol and interval."""


@dataclass(frozen=True, slots=True)
class _Setback:
    until_us: int
    verdict: str
    note: str


@dataclass(frozen=True, slots=True)
class _Empty:
    from_us: int
    to_us: int
    until_us: int


class Setbacks:
    """What vendors were no help with."""

    def __init__(self) -> None:
        self._avoid: dict[Key, dict[str, _Setback]] = {}
        self._empty: dict[Key, list[_Empty]] = {}

    def avoid(self, key: Key, name: str, until_us: int, verdict: str, note: str) -> None:
        """Ask this vendor for nothing more of a series until then; verdict and note: why, where nobody else has it."""
        self._avoid.setdefault(key, {})[name] = _Setback(until_us, verdict, note)

    def refused(self, key: Key, name: str, error: VendorError, now_us: int) -> None:
        """Ask this vendor for nothing more of a series for an hour, because of what it answered."""
        self.avoid(key, name, now_us + HOLDS_US, NOT_OFFERED, f"{name}: {error}")

    def empty(self, key: Key, from_us: int, to_us: int, until_us: int) -> None:
        """Say that some vendor has nothing of `[from_us, to_us)`."""
        self._empty.setdefault(key, []).append(_Empty(from_us, to_us, until_us))

    def avoided(self, key: Key, now_us: int) -> list[str]:
        """Return the vendors that are not to be asked."""
        return [name for name, said in self._avoid.get(key, {}).items() if said.until_us > now_us]

    def reason(self, key: Key, why: Blocked, newest_us: int, now_us: int) -> tuple[Blocked, list[tuple[int, int]]]:
        """Return why nobody has a series' bars, when the desk says that no vendor is left to ask (`why`), and of which
        stretches that is true; [] for all of them. `newest_us`: the bar that the desk was asked for.
        """
        avoided = [said for said in self._avoid.get(key, {}).values() if said.until_us > now_us]
        if avoided:
            first = min(avoided, key=lambda said: said.until_us)
            again_us = first.until_us if why.again_us is None else min(first.until_us, why.again_us)
            return Blocked(first.verdict, first.note, again_us), []
        empty = [(said.from_us, said.to_us) for said in self._empty.get(key, ()) if said.until_us > now_us]
        if any(a <= newest_us < b for a, b in empty):
            return Blocked(NO_DATA, "no vendor has anything"), empty
        return why, []

    def forget(self, now_us: int) -> None:
        """Drop what holds no more."""
        self._avoid = {
            key: left
            for key, said in self._avoid.items()
            if (left := {name: one for name, one in said.items() if one.until_us > now_us})
        }
        self._empty = {
            key: young
            for key, empty in self._empty.items()
            if (young := [one for one in empty if one.until_us > now_us])
        }


def market_key(symbol: str, calendar: str) -> tuple[str, str]:
    """Return what delays are common to: symbols written alike of one calendar. A pair (`BTC/USD`) is its own market.

    Shares of an exchange are delayed together by a plan, whatever comes of crypto or currencies.
    """
    return (symbol, calendar) if "/" in symbol else (market_of(symbol), calendar)
