"""Data that one vendor does not offer, according to its answers.

Such data is not requested again until the rejection expires, to save credits. Pure.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from tickerplant.core.times import DAY_US, FOREVER_US, HOUR_US, MINUTE_US, NEVER_US
from tickerplant.market_data.vendors.errors import BadRequest, NoData, NotEntitled, UnknownSymbol, VendorError
from tickerplant.market_data.vendors.port import ACTIONS

FORMAT: Final = 1
ANY: Final = "*"
"""Part of a key that means any symbol or any interval."""
MOST: Final = 5_000
"""Maximum count of rejections. If there are more, the rejections that end first are dropped, and their data is
requested again."""
MARKET: Final = 2
"""Minimum count of rejected symbols that extends the rejection of an interval to their market, if the vendor has
returned no bars of the market. A market is a form of symbols: `AAPL`, `EUR/USD`, `RY:TSX`, `^GSPC`."""

NOT_ENTITLED, UNKNOWN_SYMBOL, NO_DATA, BAD_REQUEST = "not_entitled", "unknown_symbol", "no_data", "bad_request"
_KINDS: Final[tuple[tuple[type[VendorError], str, int], ...]] = (
    (NotEntitled, NOT_ENTITLED, DAY_US),
    (UnknownSymbol, UNKNOWN_SYMBOL, DAY_US),
    (NoData, NO_DATA, 6 * HOUR_US),
    (BadRequest, BAD_REQUEST, HOUR_US),
)
"""Duration of a rejection, by error. It is a day if a new plan or listing may end the rejection. It is six hours
for a range without data, and an hour if only one request may be wrong."""
_UNSURE_US: Final = HOUR_US
"""Duration of a rejection of several symbols at once: it may apply to one of them only."""
LATE_US: Final = {"1d": 36 * HOUR_US}
LATE_OTHERS_US: Final = 30 * MINUTE_US
"""Maximum delay of a vendor's bars: plans are delayed by 15 minutes, and daily bars arrive during the night. A younger
bar may still arrive: its absence is neither 'not traded' nor a rejection."""
_MARK: Final = re.compile(r"[\W_]")


class Rejection(msgspec.Struct, array_like=True, frozen=True):
    """One rejection; NO_DATA applies within `[start_us, end_us)` only."""

    kind: str
    until_us: int
    note: str
    start_us: int = NEVER_US
    end_us: int = FOREVER_US


class RejectionsState(msgspec.Struct, kw_only=True):
    """The stored state: rejections by `interval|symbol`, and markets (`interval|*mark`) with returned bars."""

    format: int = FORMAT
    rejections: dict[str, Rejection] = msgspec.field(default_factory=dict, name="refusals")
    answered: set[str] = set()


class Rejections:
    """The rejections of one vendor."""

    def __init__(self, stored: RejectionsState | None = None) -> None:
        self.state = stored or RejectionsState()

    def of(self, symbol: str, interval: str, start_us: int, end_us: int, now_us: int) -> Rejection | None:
        """Return the rejection that covers these bars; None if there is none."""
        for key in (_key(symbol, interval), _key(symbol, ANY), _market_key(symbol, interval)):
            found = self.state.rejections.get(key)
            if found is None:
                continue
            if not now_us < found.until_us < now_us + 2 * DAY_US:
                del self.state.rejections[key]
            elif found.start_us <= start_us and end_us <= found.end_us:
                return found
        return None

    def record(
        self, symbol: str, interval: str, start_us: int, end_us: int, error: VendorError, now_us: int, *,
        sure: bool = True,
    ) -> None:  # fmt: skip
        """Record an error if another request would not help. `sure`: the error concerns this symbol alone."""
        if isinstance(error, NoData) and interval != ACTIONS:
            end_us = min(end_us, sure_until(interval, now_us))
            if end_us <= start_us:
                return
        for kind, name, for_us in _KINDS:
            if isinstance(error, kind):
                until = now_us + (for_us if sure else min(for_us, _UNSURE_US))
                self._put(symbol, interval, start_us, end_us, Rejection(name, until, str(error)))
                if sure and name == NOT_ENTITLED:
                    self._extend_to_market(symbol, interval, now_us)
                return

    def answered(self, symbol: str, interval: str) -> None:
        """Record an answer with bars, which ends the rejections that cover this symbol and interval."""
        self.state.answered.add(_market_key(symbol, interval))
        for key in (_key(symbol, interval), _key(symbol, ANY), _market_key(symbol, interval)):
            self.state.rejections.pop(key, None)

    def count(self, now_us: int) -> int:
        """Return the count of rejections in force."""
        return sum(one.until_us > now_us for one in self.state.rejections.values())

    def _put(self, symbol: str, interval: str, start_us: int, end_us: int, rejection: Rejection) -> None:
        # Bars of all intervals have the same symbols; splits and dividends may have fewer.
        key = _key(symbol, ANY if rejection.kind == UNKNOWN_SYMBOL and interval != ACTIONS else interval)
        if rejection.kind == NO_DATA:
            known = self.state.rejections.get(key)
            if known is not None and known.kind == NO_DATA and known.start_us <= end_us and start_us <= known.end_us:
                start_us, end_us = min(start_us, known.start_us), max(end_us, known.end_us)
            rejection = msgspec.structs.replace(rejection, start_us=start_us, end_us=end_us)
        self.state.rejections[key] = rejection
        if len(self.state.rejections) > MOST:
            first = sorted(self.state.rejections, key=lambda k: self.state.rejections[k].until_us)
            for old in first[: MOST // 10]:
                del self.state.rejections[old]

    def _extend_to_market(self, symbol: str, interval: str, now_us: int) -> None:
        """Extend a symbol's rejection to its market.

        This needs `MARKET` rejected symbols of the market, and a vendor that returned no bars of the market.
        """
        market = _market_key(symbol, interval)
        like = 0
        for key, rejection in self.state.rejections.items():
            of, _, other = key.partition("|")
            like += of == interval and _market_key(other, of) == market and rejection.kind == NOT_ENTITLED and (
                rejection.until_us > now_us + _UNSURE_US
            )  # fmt: skip
        if like >= MARKET and market not in self.state.answered:
            self.state.rejections[market] = self.state.rejections[_key(symbol, interval)]


def _key(symbol: str, interval: str) -> str:
    return f"{interval}|{symbol}"


def sure_until(interval: str, now_us: int) -> int:
    """Return the time before which a missing bar of the interval can no longer be late."""
    return now_us - LATE_US.get(interval, LATE_OTHERS_US)


def market_of(symbol: str) -> str:
    """Return the mark of a symbol's market: its first character that is neither letter nor digit, "" if it has none.

    >>> market_of("AAPL"), market_of("EUR/USD"), market_of("^GSPC")
    ('', '/', '^')
    """
    found = _MARK.search(symbol)
    return found.group() if found else ""


def _market_key(symbol: str, interval: str) -> str:
    return _key(f"{ANY}{market_of(symbol)}", interval)
