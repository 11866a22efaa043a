"""The state of one vendor: rate limits, circuit breaker, rejections, comparisons. Pure.

The state is stored as two values: one contains the rejections, the other all other parts.
"""

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
from tickerplant.market_data.vendors.circuit_breaker import HALF_OPEN, OPEN, BreakerState, CircuitBreaker
from tickerplant.market_data.vendors.comparison import TOO_FEW, Comparison
from tickerplant.market_data.vendors.errors import BadKey, Burst, Malformed, QuotaSpent, VendorDown, VendorError
from tickerplant.market_data.vendors.port import ActionsAnswer, BarsAnswer, BarsOffer, BarsRequest, Provider, Quota
from tickerplant.market_data.vendors.rate_limits import FLIGHT_US, Charge, Purpose, RateLimits, WindowStatus
from tickerplant.market_data.vendors.rejections import Rejections, RejectionsState

T = TypeVar("T")

FORMAT: Final = 1
REJECTIONS_SUFFIX: Final = "/refusals"
"""Suffix of the key that stores the rejections. They have a separate key because they are many and change rarely."""
COMPARED_US: Final = DAY_US
"""Time for which a comparison is valid."""
TOO_FEW_US: Final = HOUR_US
"""Time for which a comparison with too few bars is valid: more bars arrive soon."""
MAX_COMPARISONS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Blocked:
    """The reason why no vendor can get a request now.

    `verdict`: `schemas.QUOTA`, `OUTAGE` or `NOT_OFFERED`; the backfill adds `NO_DATA` and `DIFFERS`.
    `again_us`: time from which another request may help; None if waiting does not help.
    """

    verdict: str
    note: str
    again_us: int | None = None


class _StoredComparison(msgspec.Struct, array_like=True, frozen=True):
    verdict: str
    note: str
    usable: bool
    until_us: int


class _Stored(msgspec.Struct, kw_only=True):
    format: int = FORMAT
    limits: bytes = msgspec.field(name="budget")
    breaker: BreakerState
    compared: dict[str, _StoredComparison] = {}


@dataclass(frozen=True, slots=True)
class VendorStatus:
    """One row of `RequestScheduler.status`.

    `kinds`: the vendor's rank in the order of each kind of data, from 1. `blocked_us`: end of the block after a
    rejection. `since_us`: time of the first failure in a row. `until_us`: time at which the circuit breaker allows a
    trial. A time is None if it does not apply.
    """

    vendor: str
    kinds: Mapping[str, int]
    windows: Sequence[WindowStatus]
    requests: int
    credits: int
    rejections: int
    breaker: str
    since_us: int | None
    until_us: int | None
    blocked_us: int | None
    blocked_by: str
    last_error: str
    last_error_us: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the row as a dictionary for programs: quotas as text, times as ISO 8601."""
        row = {
            "refusals" if name == "rejections" else name: value
            for name, value in asdict(self).items()
            if name != "windows"
        }
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
    """The state of one vendor. Raises SnapshotRefused for a stored state of another format."""

    def __init__(
        self,
        provider: Provider,
        quotas: Sequence[Quota] | None,
        stored: Mapping[str, bytes],
        *,
        reserve: float,
        flight_us: int = FLIGHT_US,
    ) -> None:
        self.provider = provider
        self.name = provider.name
        former = _decoded(stored.get(self.name), self.name)
        self.limits = RateLimits(
            provider.offer.quotas if quotas is None else quotas,
            reserve=reserve,
            pace_s=provider.offer.pace_s,
            flight_us=flight_us,
            stored=former.limits if former else None,
        )
        self.breaker = CircuitBreaker(former.breaker if former else None)
        self.rejections = Rejections(_rejections(stored.get(self.name + REJECTIONS_SUFFIX), self.name))
        self._compared = former.compared if former else {}
        self._saved_rejections = b""

    def encode(self) -> dict[str, bytes]:
        """Return the values to store, by key. Rejections are included only if they changed since the last call."""
        values = _Stored(limits=self.limits.encode(), breaker=self.breaker.state, compared=self._compared)
        result = {self.name: msgspec.msgpack.encode(values)}
        encoded = msgspec.msgpack.encode(self.rejections.state)
        if encoded != self._saved_rejections:
            result[self.name + REJECTIONS_SUFFIX] = self._saved_rejections = encoded
        return result

    def not_saved(self) -> None:
        """Record that the values of the last `encode` may not have been stored."""
        self._saved_rejections = b""

    # Availability ----------------------------------------------------------------------------------------------------

    def offer_of(self, symbol: str, interval: str, start_us: int, end_us: int, now_us: int) -> BarsOffer | Blocked:
        """Return the vendor's offer of these bars, or the reason why the vendor does not offer them."""
        offer = self.provider.offer.of(interval)
        if offer is None:
            return Blocked(NOT_OFFERED, f"{self.name} has no {interval} bars")
        if not self.may_have(symbol):
            return Blocked(NOT_OFFERED, f"{self.name} has no market of {symbol}")
        if offer.lookback_us is not None and start_us < now_us - offer.lookback_us:
            days = offer.lookback_us / DAY_US
            return Blocked(NOT_OFFERED, f"{interval} bars of {self.name} reach back {days:g} days")
        rejection = self.rejections.of(symbol, interval, start_us, end_us, now_us)
        if rejection is not None:
            return Blocked(NOT_OFFERED, f"{self.name}: {rejection.note}", rejection.until_us)
        return offer

    def may_have(self, symbol: str) -> bool:
        """Return True if the symbol is of a market that the vendor may have."""
        return any(fnmatchcase(symbol, pattern) for pattern in self.provider.offer.markets)

    def blocked(self, cost: int, purpose: Purpose, now_us: int, *, busy: bool) -> Blocked | None:
        """Return the reason why a request of that cost may not be sent now; None if it may be sent.

        The pace is not a reason: the scheduler waits for it. `busy`: another request to the vendor is in flight.
        """
        until = self.breaker.open_until(now_us)
        if until is not None:
            return Blocked(OUTAGE, f"{self.name}: {self.breaker.state.last_error}", until)
        if busy and self.breaker.name(now_us) == HALF_OPEN:
            return Blocked(OUTAGE, f"{self.name} is being tried again", now_us + 5 * SECOND_US)
        earliest = self.limits.earliest(now_us, cost, purpose)
        if earliest is None:
            most = self.limits.most(purpose)
            return Blocked(NOT_OFFERED, f"{self.name}: a request of {cost} credits exceeds the maximum of {most}")
        if earliest - now_us <= self.provider.offer.pace_s * SECOND_US:
            return None
        rejected = self.limits.blocked(now_us)
        reason = rejected[1] if rejected else "the credits of its quota are spent"
        return Blocked(QUOTA, f"{self.name}: {reason}", earliest)

    def cost(self, symbol: str, offer: BarsOffer, start_us: int, end_us: int) -> int:
        """Return the credits of the first page of a range, for one symbol."""
        range_us = end_us - start_us
        page_us = min(range_us, offer.page_bars * parse(offer.interval).us, offer.page_us or range_us)
        return self.provider.cost(BarsRequest((symbol,), offer.interval, start_us, start_us + page_us))

    # Answers ---------------------------------------------------------------------------------------------------------

    def settle(self, charge: Charge, now_us: int) -> None:
        """Record that the request has ended."""
        self.limits.settle(charge, now_us)

    def record_answer(
        self,
        answer: BarsAnswer | ActionsAnswer,
        request: BarsRequest | None,
        charge: Charge,
        jitter: float,
        now_us: int,
    ) -> None:
        """Record the effects of an answer: the used credits, the errors of symbols, and the state of the vendor."""
        self.limits.record_credits(answer.credits, charge, now_us)
        if answer.credits.problem:
            self.breaker.note(now_us, answer.credits.problem)
        found = answer.found if isinstance(answer, BarsAnswer) else {}
        errors = {symbol: result for symbol, result in found.items() if isinstance(result, VendorError)}
        worst = [error for error in errors.values() if error.about_vendor or isinstance(error, Malformed)]
        if len(worst) < len(found) or not found:
            self.limits.answered()
            self.breaker.answered()
        if worst:
            self.record_error(worst[0], None, jitter, now_us)
        if request is not None:
            covers = answer.covers if isinstance(answer, BarsAnswer) else {}
            for symbol in found:
                if symbol in errors:
                    start_us, end_us = covers.get(symbol, (request.start_us, request.end_us))
                    self.rejections.record(symbol, request.interval, start_us, end_us, errors[symbol], now_us)
                else:
                    self.rejections.answered(symbol, request.interval)

    def record_error(self, error: VendorError, request: BarsRequest | None, jitter: float, now_us: int) -> None:
        """Record an error of a whole request."""
        text = str(error)
        if isinstance(error, QuotaSpent):
            self.limits.quota_spent(now_us, error.retry_after_s or 0.0, daily=error.daily, reason=text)
            self.breaker.note(now_us, text)
        elif isinstance(error, Burst):
            self.limits.burst(now_us, error.retry_after_s or 0.0, text)
            self.breaker.note(now_us, text)
        elif isinstance(error, BadKey):
            self.breaker.bad_key(now_us, text)
        elif isinstance(error, VendorDown | Malformed):
            self.breaker.failed(now_us, text, jitter, retry_after_s=error.retry_after_s or 0.0)
        else:
            self.limits.answered()
            self.breaker.answered()
            self.breaker.note(now_us, text)
            if request is not None:
                sure = len(request.symbols) == 1
                for symbol in request.symbols:
                    self.rejections.record(
                        symbol, request.interval, request.start_us, request.end_us, error, now_us, sure=sure
                    )

    # Comparisons -----------------------------------------------------------------------------------------------------

    def compared(self, symbol: str, interval: str, comparison: Comparison, now_us: int) -> None:
        """Record the comparison of the vendor's bars with those of other vendors."""
        valid_us = TOO_FEW_US if comparison.verdict == TOO_FEW else COMPARED_US
        self._compared[f"{interval}|{symbol}"] = _StoredComparison(
            comparison.verdict, str(comparison), comparison.usable, now_us + valid_us
        )
        if len(self._compared) > MAX_COMPARISONS:
            self._compared = {key: one for key, one in self._compared.items() if one.until_us > now_us}
            while len(self._compared) > MAX_COMPARISONS:
                del self._compared[next(iter(self._compared))]

    def comparison(self, symbol: str, interval: str, now_us: int) -> _StoredComparison | None:
        """Return the recorded comparison; None if there is no valid comparison."""
        found = self._compared.get(f"{interval}|{symbol}")
        return found if found is not None and now_us < found.until_us <= now_us + COMPARED_US else None

    # Status ----------------------------------------------------------------------------------------------------------

    def status(self, kinds: Mapping[str, int], now_us: int) -> VendorStatus:
        """Return the status of the vendor at `now_us`; `kinds`: see `VendorStatus`."""
        state, blocked = self.breaker.state, self.limits.blocked(now_us)
        is_open = self.breaker.name(now_us) == OPEN
        return VendorStatus(
            vendor=self.name,
            kinds=kinds,
            windows=self.limits.status(now_us),
            requests=self.limits.requests,
            credits=self.limits.credits,
            rejections=self.rejections.count(now_us),
            breaker=self.breaker.name(now_us),
            since_us=None if state.since_us == NEVER_US else state.since_us,
            until_us=state.until_us if is_open else None,
            blocked_us=blocked[0] if blocked else None,
            blocked_by=blocked[1] if blocked else "",
            last_error=state.last_error,
            last_error_us=None if state.last_error_us == NEVER_US else state.last_error_us,
        )


def _decoded(stored: bytes | None, vendor: str) -> _Stored | None:
    if stored is None:
        return None
    return _read(stored, _Stored, FORMAT, f"the stored state of the vendor {vendor}")


def _rejections(stored: bytes | None, vendor: str) -> RejectionsState | None:
    if stored is None:
        return None
    return _read(stored, RejectionsState, rejections.FORMAT, f"the stored rejections of the vendor {vendor}")


class _Format(msgspec.Struct):
    format: int


def _read(stored: bytes, kind: type[T], format_: int, what: str) -> T:
    try:
        version = msgspec.msgpack.decode(stored, type=_Format).format
        if version == format_:
            return msgspec.msgpack.decode(stored, type=kind)
    except msgspec.MsgspecError as error:
        raise SnapshotRefused(f"{what} cannot be read: {error}; run the version that wrote it") from error
    raise SnapshotRefused(
        f"{what} has format {version}; this version reads format {format_}: run the version that wrote it"
    )
