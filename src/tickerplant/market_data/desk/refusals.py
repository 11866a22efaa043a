"""What one vendor has said that it does not have: remembered for a while, so that it costs no credits again. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from tickerplant.core.times import DAY_US, FOREVER_US, HOUR_US, NEVER_US
from tickerplant.market_data.clients.errors import BadRequest, NoData, NotEntitled, UnknownSymbol, VendorError

FORMAT: Final = 1
ANY: Final = "*"
"""Any symbol, or any interval."""
MOST: Final = 5_000
"""Refusals remembered; beyond, those that end first are forgotten: they are asked again, no more."""
MARKET: Final = 2
"""So many symbols refused for an interval by the plan, and none answered: it is the interval that the plan lacks."""

NOT_ENTITLED, UNKNOWN_SYMBOL, NO_DATA, BAD_REQUEST = "not_entitled", "unknown_symbol", "no_data", "bad_request"
_KINDS: Final[tuple[tuple[type[VendorError], str, int], ...]] = (
    (NotEntitled, NOT_ENTITLED, DAY_US),
    (UnknownSymbol, UNKNOWN_SYMBOL, DAY_US),
    (NoData, NO_DATA, 6 * HOUR_US),
    (BadRequest, BAD_REQUEST, HOUR_US),
)
"""Which errors are remembered, and for how long. Plans change and symbols are listed, so a day; a mistake of ours may
concern one request alone, so an hour."""


class Refusal(msgspec.Struct, array_like=True, frozen=True):
    """One refusal; NO_DATA holds within `[from_us, to_us)` alone."""

    kind: str
    until_us: int
    note: str
    from_us: int = NEVER_US
    to_us: int = FOREVER_US


class RefusalsState(msgspec.Struct, kw_only=True):
    """What is kept: refusals by `interval|symbol`, and the intervals of which bars have come."""

    format: int = FORMAT
    refusals: dict[str, Refusal] = {}
    answered: set[str] = set()


class Refusals:
    """One vendor's refusals."""

    def __init__(self, kept: RefusalsState | None = None) -> None:
        self.state = kept or RefusalsState()

    def of(self, symbol: str, interval: str, from_us: int, to_us: int, now_us: int) -> Refusal | None:
        """Return why the vendor need not be asked for these bars, or None."""
        for key in (_key(symbol, interval), _key(symbol, ANY), _key(ANY, interval)):
            found = self.state.refusals.get(key)
            if found is None:
                continue
            if not now_us < found.until_us < now_us + 2 * DAY_US:
                del self.state.refusals[key]
            elif found.from_us <= from_us and to_us <= found.to_us:
                return found
        return None

    def learn(self, symbol: str, interval: str, from_us: int, to_us: int, error: VendorError, now_us: int) -> None:
        """Remember an error of one symbol, if it is of a kind that asking again does not mend."""
        for kind, name, for_us in _KINDS:
            if isinstance(error, kind):
                self._put(symbol, interval, from_us, to_us, Refusal(name, now_us + for_us, str(error)))
                return

    def answered(self, symbol: str, interval: str) -> None:
        """Say that bars came: what was said of this symbol and interval holds no more."""
        self.state.answered.add(interval)
        for key in (_key(symbol, interval), _key(symbol, ANY), _key(ANY, interval)):
            self.state.refusals.pop(key, None)

    def count(self, now_us: int) -> int:
        """Return how many refusals hold."""
        return sum(refusal.until_us > now_us for refusal in self.state.refusals.values())

    def _put(self, symbol: str, interval: str, from_us: int, to_us: int, said: Refusal) -> None:
        key = _key(symbol, ANY if said.kind == UNKNOWN_SYMBOL else interval)
        if said.kind == NO_DATA:
            known = self.state.refusals.get(key)
            if known is not None and known.kind == NO_DATA and known.from_us <= to_us and from_us <= known.to_us:
                from_us, to_us = min(from_us, known.from_us), max(to_us, known.to_us)
            said = msgspec.structs.replace(said, from_us=from_us, to_us=to_us)
        self.state.refusals[key] = said
        if said.kind == NOT_ENTITLED and interval not in self.state.answered:
            like = [
                k for k, r in self.state.refusals.items() if k.startswith(f"{interval}|") and r.kind == NOT_ENTITLED
            ]
            if len(like) >= MARKET:
                self.state.refusals[_key(ANY, interval)] = said
        if len(self.state.refusals) > MOST:
            first = sorted(self.state.refusals, key=lambda k: self.state.refusals[k].until_us)
            for old in first[: MOST // 10]:
                del self.state.refusals[old]


def _key(symbol: str, interval: str) -> str:
    return f"{interval}|{symbol}"
