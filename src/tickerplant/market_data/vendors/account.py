"""All that the desk knows of one vendor: budget, breaker, refusals, comparisons. Pure; kept as two values by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, TypeVar

import msgspec

from tickerplant.core.errors import SnapshotRefused
from tickerplant.core.interval import parse
from tickerplant.core.schemas import NOT_OFFERED, OUTAGE, QUOTA
from tickerplant.core.times import DAY_US, HOUR_US, NEVER_US, SECOND_US, iso
from tickerplant.market_data.vendors import rejections
from tickerplant.market_data.vendors.circuit_breaker import HALF_OPEN, OPEN, Breaker, BreakerState
from tickerplant.market_data.vendors.comparison import TOO_FEW, Comparison
from tickerplant.market_data.vendors.errors import BadKey, Burst, Malformed, QuotaSpent, VendorDown, VendorError
from tickerplant.market_data.vendors.port import ActionsAnswer, BarsAnswer, BarsOffer, BarsRequest, Provider, Quota
from tickerplant.market_data.vendors.rate_limits import FLIGHT_US, Budget, Charge, Purpose, WindowStatus
from tickerplant.market_data.vendors.rejections import Refusals, RefusalsState

T = TypeVar("T")

FORMAT: Final = 1
REFUSALS: Final = "/refusals"
"""Refusals are kept under the vendor's name and this: they are many, and most requests change none."""
COMPARED_US: Final = DAY_US
TOO_FEW_US: Final = HOUR_US
"""For how long a comparison holds; too few bars are soon more."""
MOST_COMPARED: Final = 5_000


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why nobody can be asked now. `verdict`: `schemas.QUOTA`, `OUTAGE` or `NOT_OFFERED`.

    `again_us`: when asking again may help; None: not by itself.
    """

    verdict: str
    note: str
    again_us: int | None = None


class _Compared(msgspec.Struct, array_like=True, frozen=True):
    verdict: str
    note: str
    usable: bool
    until_us: int


class _Kept(msgspec.Struct, kw_only=True):
    format: int = FORMAT
    budget: bytes
    breaker: BreakerState
    compared: dict[str, _Compared] = {}


@dataclass(frozen=True, slots=True)
class VendorStatus:
    """One row of `Desk.status`: how a vendor stands.

    `kinds`: its place in the order of each kind of data, from 1. `blocked_us`: until when it wants to hear nothing of
    us. Of the breaker, `since_us` is the first failure in a row, `until_us` when it is tried again. None where there
    is nothing to say.
    """

    vendor: str
    kinds: Mapping[str, int]
    windows: Sequence[WindowStatus]
    requests: int
    credits: int
    refusals: int
    breaker: str
    since_us: int | None
    until_us: int | None
    blocked_us: int | None
    blocked_by: str
    last_error: str
    last_error_us: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the row for programs: quotas as text, times as ISO 8601."""
        row = {name: value for name, value in asdict(self).items() if name != "windows"}
        for name in ("since_us", "until_us", "blocked_us", "last_error_us"):
            value = row.pop(name)
            row[name.replace("_us", "_at")] = None if value is None else iso(value)
        row["windows"] = [
            {
                "quota": str(window.quota), "used": window.used, "limit": window.quota.credits, "left": window.left,
                "history_left": window.history_left, "resets": iso(window.resets_us),
            }
            for window in self.windows
        ]  # fmt: skip
        return row


class Account:
    """One vendor. Raises SnapshotRefused for a kept state of another format."""

    def __init__(
        self, provider: Provider, quotas: Sequence[Quota] | None, kept: Mapping[str, bytes], *, reserve: float,
        flight_us: int = FLIGHT_US,
    ) -> None:  # fmt: skip
        self.provider = provider
        self.name = provider.name
        former = _decoded(kept.get(self.name), self.name)
        self.budget = Budget(
            provider.offer.quotas if quotas is None else quotas,
            reserve=reserve,
            pace_s=provider.offer.pace_s,
            flight_us=flight_us,
            kept=former.budget if former else None,
        )
        self.breaker = Breaker(former.breaker if former else None)
        self.refusals = Refusals(_refusals(kept.get(self.name + REFUSALS), self.name))
        self._compared = former.compared if former else {}
        self._refusals_kept = b""

    def encode(self) -> dict[str, bytes]:
        """Return what is to be kept, by key: what has changed of it since the last time."""
        kept = _Kept(budget=self.budget.encode(), breaker=self.breaker.state, compared=self._compared)
        result = {self.name: msgspec.msgpack.encode(kept)}
        said = msgspec.msgpack.encode(self.refusals.state)
        if said != self._refusals_kept:
            result[self.name + REFUSALS] = self._refusals_kept = said
        return result

    def not_kept(self) -> None:
        """Say that what `encode` gave last may not have been kept."""
        self._refusals_kept = b""

    # May it be asked? ------------------------------------------------------------------------------------------------

    def has(self, symbol: str, interval: str, from_us: int, to_us: int, now_us: int) -> BarsOffer | Blocked:
        """Return the vendor's offer of these bars, or why it has none."""
        offer = self.provider.offer.of(interval)
        if offer is None:
            return Blocked(NOT_OFFERED, f"{self.name} has no {interval} bars")
        if not self.knows(symbol):
            return Blocked(NOT_OFFERED, f"{self.name} has no market of {symbol}")
        if offer.lookback_us is not None and from_us < now_us - offer.lookback_us:
            days = offer.lookback_us / DAY_US
            return Blocked(NOT_OFFERED, f"{interval} bars of {self.name} reach back {days:g} days")
        refusal = self.refusals.of(symbol, interval, from_us, to_us, now_us)
        return offer if refusal is None else Blocked(NOT_OFFERED, f"{self.name}: {refusal.note}", refusal.until_us)

    def knows(self, symbol: str) -> bool:
        """Whether the symbol is of a market that the vendor may know."""
        return any(fnmatchcase(symbol, pattern) for pattern in self.provider.offer.markets)

    def blocked(self, cost: int, purpose: Purpose, now_us: int, *, busy: bool) -> Blocked | None:
        """Return why a request of that cost may not go out now, or None. The pace is no reason: it is waited for."""
        until = self.breaker.open_until(now_us)
        if until is not None:
            return Blocked(OUTAGE, f"{self.name}: {self.breaker.state.last_error}", until)
        if busy and self.breaker.name(now_us) == HALF_OPEN:
            return Blocked(OUTAGE, f"{self.name} is being tried again", now_us + 5 * SECOND_US)
        earliest = self.budget.earliest(now_us, cost, purpose)
        if earliest is None:
            most = self.budget.most(purpose)
            return Blocked(NOT_OFFERED, f"{self.name}: a request of {cost} credits never fits, {most} are the most")
        if earliest - now_us <= self.provider.offer.pace_s * SECOND_US:
            return None
        refused = self.budget.blocked(now_us)
        why = refused[1] if refused else "the credits of its quota are spent"
        return Blocked(QUOTA, f"{self.name}: {why}", earliest)

    def cost(self, symbol: str, offer: BarsOffer, from_us: int, to_us: int) -> int:
        """Return what the first page of a stretch costs, for one symbol."""
        page_us = min(to_us - from_us, offer.page_bars * parse(offer.interval).us, offer.page_us or to_us - from_us)
        return self.provider.cost(BarsRequest((symbol,), offer.interval, from_us, from_us + page_us))

    # What it said ----------------------------------------------------------------------------------------------------

    def settle(self, charge: Charge, now_us: int) -> None:
        """Say that the request is over."""
        self.budget.settle(charge, now_us)

    def learn_answer(
        self, answer: BarsAnswer | ActionsAnswer, request: BarsRequest | None, charge: Charge, jitter: float,
        now_us: int,
    ) -> None:  # fmt: skip
        """Take what an answer says besides the data."""
        self.budget.heard(answer.credits, charge, now_us)
        found = answer.found if isinstance(answer, BarsAnswer) else {}
        errors = {symbol: said for symbol, said in found.items() if isinstance(said, VendorError)}
        worst = [error for error in errors.values() if error.about_vendor or isinstance(error, Malformed)]
        if len(worst) < len(found) or not found:
            self.budget.answered()
            self.breaker.answered()
        if worst:
            self.learn_error(worst[0], None, jitter, now_us)
        if request is not None:
            covers = answer.covers if isinstance(answer, BarsAnswer) else {}
            for symbol in found:
                if symbol in errors:
                    from_us, to_us = covers.get(symbol, (request.from_us, request.to_us))
                    self.refusals.learn(symbol, request.interval, from_us, to_us, errors[symbol], now_us)
                else:
                    self.refusals.answered(symbol, request.interval)

    def learn_error(self, error: VendorError, request: BarsRequest | None, jitter: float, now_us: int) -> None:
        """Take an error of a whole request."""
        said = str(error)
        if isinstance(error, QuotaSpent):
            self.budget.quota_spent(now_us, error.retry_after_s or 0.0, daily=error.daily, reason=said)
            self.breaker.note(now_us, said)
        elif isinstance(error, Burst):
            self.budget.burst(now_us, error.retry_after_s or 0.0, said)
            self.breaker.note(now_us, said)
        elif isinstance(error, BadKey):
            self.breaker.bad_key(now_us, said)
        elif isinstance(error, VendorDown | Malformed):
            self.breaker.failed(now_us, said, jitter, retry_after_s=error.retry_after_s or 0.0)
        else:
            self.budget.answered()
            self.breaker.answered()
            self.breaker.note(now_us, said)
            if request is not None:
                sure = len(request.symbols) == 1
                for symbol in request.symbols:
                    self.refusals.learn(
                        symbol, request.interval, request.from_us, request.to_us, error, now_us, sure=sure
                    )

    # Comparisons -----------------------------------------------------------------------------------------------------

    def compared(self, symbol: str, interval: str, comparison: Comparison, now_us: int) -> None:
        """Remember how its bars compare with those of others."""
        holds = TOO_FEW_US if comparison.verdict == TOO_FEW else COMPARED_US
        self._compared[f"{interval}|{symbol}"] = _Compared(
            comparison.verdict, str(comparison), comparison.usable, now_us + holds
        )
        if len(self._compared) > MOST_COMPARED:
            self._compared = {key: said for key, said in self._compared.items() if said.until_us > now_us}
            while len(self._compared) > MOST_COMPARED:
                del self._compared[next(iter(self._compared))]

    def comparison(self, symbol: str, interval: str, now_us: int) -> _Compared | None:
        """Return what is remembered, while it holds."""
        said = self._compared.get(f"{interval}|{symbol}")
        return said if said is not None and now_us < said.until_us <= now_us + COMPARED_US else None

    # Looking ---------------------------------------------------------------------------------------------------------

    def status(self, kinds: Mapping[str, int], now_us: int) -> VendorStatus:
        """Return how the vendor stands."""
        state, blocked = self.breaker.state, self.budget.blocked(now_us)
        is_open = self.breaker.name(now_us) == OPEN
        return VendorStatus(
            vendor=self.name,
            kinds=kinds,
            windows=self.budget.status(now_us),
            requests=self.budget.requests,
            credits=self.budget.credits,
            refusals=self.refusals.count(now_us),
            breaker=self.breaker.name(now_us),
            since_us=None if state.since_us == NEVER_US else state.since_us,
            until_us=state.until_us if is_open else None,
            blocked_us=blocked[0] if blocked else None,
            blocked_by=blocked[1] if blocked else "",
            last_error=state.last_error,
            last_error_us=None if state.last_error_us == NEVER_US else state.last_error_us,
        )


def _decoded(kept: bytes | None, vendor: str) -> _Kept | None:
    if kept is None:
        return None
    return _read(kept, _Kept, FORMAT, f"what is kept of the vendor {vendor}")


def _refusals(kept: bytes | None, vendor: str) -> RefusalsState | None:
    if kept is None:
        return None
    return _read(kept, RefusalsState, rejections.FORMAT, f"the refusals kept of the vendor {vendor}")


class _Format(msgspec.Struct):
    format: int


def _read(kept: bytes, kind: type[T], format_: int, what: str) -> T:
    try:
        version = msgspec.msgpack.decode(kept, type=_Format).format
        if version == format_:
            return msgspec.msgpack.decode(kept, type=kind)
    except msgspec.MsgspecError as error:
        raise SnapshotRefused(f"{what} cannot be read: {error}") from error
    raise SnapshotRefused(f"{what} has format {version}, this code reads {format_}")
