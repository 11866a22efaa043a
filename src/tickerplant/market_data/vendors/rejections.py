"""What one vendor has said that it does not have: remembered for a while, so that it costs no credits again. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from tickerplant.core.times import DAY_US, FOREVER_US, HOUR_US, MINUTE_US, NEVER_US
from tickerplant.market_data.vendors.errors import BadRequest, NoData, NotEntitled, UnknownSymbol, VendorError
from tickerplant.market_data.vendors.port import ACTIONS

FORMAT: Final = 1
ANY: Final = "*"
"""Any symbol, or any interval."""
MOST: Final = 5_000
"""Refusals remembered; beyond, those that end first are forgotten: they are asked again, no more."""
MARKET: Final = 2
"""So many symbols of a market refused for an interval by the plan, and none answered: it is that market's interval that
the plan lacks. A market is what its symbols are written like: `AAPL`, `EUR/USD`, `RY:TSX`, `^GSPC`."""

NOT_ENTITLED, UNKNOWN_SYMBOL, NO_DATA, BAD_REQUEST = "not_entitled", "unknown_symbol", "no_data", "bad_request"
_KINDS: Final[tuple[tuple[type[VendorError], str, int], ...]] = (
    (NotEntitled, NOT_ENTITLED, DAY_US),
    (UnknownSymbol, UNKNOWN_SYMBOL, DAY_US),
    (NoData, NO_DATA, 6 * HOUR_US),
    (BadRequest, BAD_REQUEST, HOUR_US),
)
"""Which errors are remembered, and for how long. Plans change and symbols are listed, so a day; a mistake of ours may
concern one request alone, so an hour."""
_UNSURE_US: Final = HOUR_US
"""So long holds what was said of several symbols at once: it may be true of one of them only."""
LATE_US: Final = {"1d": 36 * HOUR_US}
LATE_OTHERS_US: Final = 30 * MINUTE_US
"""By how much vendors may be behind: plans are delayed by 15 minutes, a day's bar comes in the night. What is younger
and was not brought may come yet: it is neither taken for not traded, nor remembered as what a vendor does not have."""
_MARK: Final = re.compile(r"[^A-Z0-9]")


class Refusal(msgspec.Struct, array_like=True, frozen=True):
    """One refusal; NO_DATA holds within `[from_us, to_us)` alone."""

    kind: str
    until_us: int
    note: str
    from_us: int = NEVER_US
    to_us: int = FOREVER_US


class RefusalsState(msgspec.Struct, kw_only=True):
    """What is kept: refusals by `interval|symbol`, and the markets (`interval|*mark`) of which bars have come."""

    format: int = FORMAT
    refusals: dict[str, Refusal] = {}
    answered: set[str] = set()


class Refusals:
    """One vendor's refusals."""

    def __init__(self, kept: RefusalsState | None = None) -> None:
        self.state = kept or RefusalsState()

    def of(self, symbol: str, interval: str, from_us: int, to_us: int, now_us: int) -> Refusal | None:
        """Return why the vendor need not be asked for these bars, or None."""
        for key in (_key(symbol, interval), _key(symbol, ANY), _market(symbol, interval)):
            found = self.state.refusals.get(key)
            if found is None:
                continue
            if not now_us < found.until_us < now_us + 2 * DAY_US:
                del self.state.refusals[key]
            elif found.from_us <= from_us and to_us <= found.to_us:
                return found
        return None

    def learn(
        self, symbol: str, interval: str, from_us: int, to_us: int, error: VendorError, now_us: int, *,
        sure: bool = True,
    ) -> None:  # fmt: skip
        """Remember an error, if it is of a kind that asking again does not mend. `sure`: it is of this symbol alone."""
        if isinstance(error, NoData) and interval != ACTIONS:
            to_us = min(to_us, sure_until(interval, now_us))
            if to_us <= from_us:
                return
        for kind, name, for_us in _KINDS:
            if isinstance(error, kind):
                until = now_us + (for_us if sure else min(for_us, _UNSURE_US))
                self._put(symbol, interval, from_us, to_us, Refusal(name, until, str(error)))
                if sure and name == NOT_ENTITLED:
                    self._whole_market(symbol, interval, now_us)
                return

    def answered(self, symbol: str, interval: str) -> None:
        """Say that bars came: what was said of this symbol and interval holds no more."""
        self.state.answered.add(_market(symbol, interval))
        for key in (_key(symbol, interval), _key(symbol, ANY), _market(symbol, interval)):
            self.state.refusals.pop(key, None)

    def count(self, now_us: int) -> int:
        """Return how many refusals hold."""
        return sum(refusal.until_us > now_us for refusal in self.state.refusals.values())

    def _put(self, symbol: str, interval: str, from_us: int, to_us: int, said: Refusal) -> None:
        # Bars of other intervals have the same symbols; splits and dividends may be of fewer.
        key = _key(symbol, ANY if said.kind == UNKNOWN_SYMBOL and interval != ACTIONS else interval)
        if said.kind == NO_DATA:
            known = self.state.refusals.get(key)
            if known is not None and known.kind == NO_DATA and known.from_us <= to_us and from_us <= known.to_us:
                from_us, to_us = min(from_us, known.from_us), max(to_us, known.to_us)
            said = msgspec.structs.replace(said, from_us=from_us, to_us=to_us)
        self.state.refusals[key] = said
        if len(self.state.refusals) > MOST:
            first = sorted(self.state.refusals, key=lambda k: self.state.refusals[k].until_us)
            for old in first[: MOST // 10]:
                del self.state.refusals[old]

    def _whole_market(self, symbol: str, interval: str, now_us: int) -> None:
        """Take a symbol's refusal for its market's, if it is not the first one and nothing of it has come."""
        market = _market(symbol, interval)
        like = 0
        for key, refusal in self.state.refusals.items():
            of, _, other = key.partition("|")
            like += of == interval and _market(other, of) == market and refusal.kind == NOT_ENTITLED and (
                refusal.until_us > now_us + _UNSURE_US
            )  # fmt: skip
        if like >= MARKET and market not in self.state.answered:
            self.state.refusals[market] = self.state.refusals[_key(symbol, interval)]


def _key(symbol: str, interval: str) -> str:
    return f"{interval}|{symbol}"


def sure_until(interval: str, now_us: int) -> int:
    """Return before which time a vendor that has no bar of the interval is not merely late with it."""
    return now_us - LATE_US.get(interval, LATE_OTHERS_US)


def market_of(symbol: str) -> str:
    """Return what a symbol's market is told by: the first character that is neither letter nor digit, "" for none.

    >>> market_of("AAPL"), market_of("EUR/USD"), market_of("^GSPC")
    ('', '/', '^')
    """
    found = _MARK.search(symbol)
    return found.group() if found else ""


def _market(symbol: str, interval: str) -> str:
    return _key(f"{ANY}{market_of(symbol)}", interval)
