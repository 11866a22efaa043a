"""The request scheduler: sends every request for bars or corporate actions, within the vendors' quotas.

One request performs these steps in order:

1. wait for its turn at the vendor (one request in flight per vendor) and for the pace,
2. debit the quota,
3. store the debit, durably (`desk.debited`): if a kill follows, the credits count as spent,
4. have the provider send the request (`desk.answered`); the request is abandoned after the longest flight, usually a
   minute,
5. record the outcome of the answer or error, and store it.

Nothing is sent before Step 4. A kill between Steps 3 and 5 loses only the outcome.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import structlog

from tickerplant.core import faults
from tickerplant.core.clock import Clock
from tickerplant.core.errors import TickerplantError
from tickerplant.core.schemas import NOT_OFFERED, OUTAGE, QUOTA
from tickerplant.core.times import HOUR_US, SECOND_US
from tickerplant.market_data.vendors.account import Account, Blocked, VendorStatus
from tickerplant.market_data.vendors.bounds import bounded_wait_us
from tickerplant.market_data.vendors.columns import check_actions
from tickerplant.market_data.vendors.comparison import Comparison
from tickerplant.market_data.vendors.errors import BadRequest, Malformed, QuotaSpent, VendorDown, VendorError
from tickerplant.market_data.vendors.port import (
    ACTIONS,
    DAILY,
    INTRADAY,
    KINDS,
    ActionsAnswer,
    BarsAnswer,
    BarsOffer,
    BarsRequest,
    Provider,
    Quota,
    kind_of,
)
from tickerplant.market_data.vendors.rate_limits import FLIGHT_US, Charge, Purpose

__all__ = ["Blocked", "Choice", "Purpose", "RequestScheduler", "SaveState", "VendorPlan", "vendor_statuses"]

log = structlog.get_logger(__name__)
A = TypeVar("A", BarsAnswer, ActionsAnswer)
SaveState = Callable[[Mapping[str, bytes]], Awaitable[None]]
"""Callback that stores values by key, durably when it returns. Overlapping calls are stored in the order of their
starts."""

WAIT_US: Final = {Purpose.HISTORY: 60 * SECOND_US, Purpose.GAP_FILL: 5 * SECOND_US}
"""Maximum wait for a vendor's credits; if the wait would be longer, another vendor gets the request. The credits of a
minute are available again within a minute, and a history should have one source. A gap in live data must be filled
sooner."""
_REAL_FLIGHT_S: Final = 25.0
"""Minimum seconds, by the machine's clock, after which a request is abandoned, at any speed of `clock`. Clients use
timeouts of at least 10 s, and some send two HTTP requests for one request."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The vendor to ask, its offer of the interval, and the credits that may be spent at this vendor now."""

    provider: Provider
    offer: BarsOffer
    credits: int

    @property
    def name(self) -> str:
        """Return the vendor's name."""
        return self.provider.name


@dataclass(frozen=True, slots=True)
class VendorPlan:
    """The vendors, and the order in which they are asked.

    `providers`: providers by name. `orders`: names by kind of data, best first; names without a provider are ignored.
    `quotas`: quotas by name, in place of the offer's quotas. `reserve`: the share of every quota, 0 to 1, for GAP_FILL
    only.
    """

    providers: Mapping[str, Provider]
    orders: Mapping[str, Sequence[str]]
    quotas: Mapping[str, Sequence[Quota]] = field(default_factory=dict)
    reserve: float = 0.0


class RequestScheduler:
    """Chooses a vendor for each request, and sends the request through the vendor's provider.

    `save` and `stored`: see `state_store`; only one process may use them. `jitter` returns numbers in [0, 1). Raises
    SnapshotRefused for a stored state of another format.

    Belongs to one event loop. Requests queue at their vendor without a bound: callers limit the count of
    their concurrent requests.
    """

    def __init__(
        self,
        plan: VendorPlan,
        *,
        clock: Clock,
        save: SaveState,
        stored: Mapping[str, bytes],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._save = save
        self._jitter = jitter
        self._flight_s = max(FLIGHT_US / SECOND_US, _REAL_FLIGHT_S * clock.speed)
        flight_us = int(self._flight_s * SECOND_US)
        self._accounts = {
            name: Account(provider, plan.quotas.get(name), stored, reserve=plan.reserve, flight_us=flight_us)
            for name, provider in plan.providers.items()
        }
        for account in self._accounts.values():
            account.breaker.restarted()
        self._orders = _orders_of(plan)
        self._unsaved: set[str] = set()
        self._locks = {name: asyncio.Lock() for name in plan.providers}

    # Choice of a vendor ----------------------------------------------------------------------------------------------

    def choose(
        self, interval: str, symbol: str, start_us: int, end_us: int, purpose: Purpose, *, without: Sequence[str] = ()
    ) -> Choice | Blocked:
        """Return the vendor to ask for bars of `[start_us, end_us)`, or Blocked if no vendor can get a request now.

        The result is the first vendor of the order that offers the bars and is available. A vendor whose bars differ
        from other vendors' bars is skipped if another vendor without differences offers the bars. That vendor need not
        be able to get a request now. If the credits of an earlier vendor are available again within `WAIT_US`, the
        result is Blocked until then. `without`: vendors to skip.
        """
        now = self._clock.now_us()
        having: list[tuple[Account, BarsOffer]] = []
        blocks: list[Blocked] = []
        for account in self._in_order(kind_of(interval), without):
            offer = account.offer_of(symbol, interval, start_us, end_us, now)
            if isinstance(offer, Blocked):
                blocks.append(offer)
            else:
                having.append((account, offer))
        trusted = [(account, offer) for account, offer in having if not self._differs(account, symbol, interval, now)]
        for account, offer in trusted or having:
            blocked = self._blocked(account, account.cost(symbol, offer, start_us, end_us), purpose, now)
            if blocked is None:
                return Choice(account.provider, offer, account.limits.available(now, purpose))
            blocks.append(blocked)
            if _worth_waiting(blocked, purpose, now):
                return blocked
        return _soonest(blocks, kind_of(interval))

    def _in_order(self, kind: str, without: Sequence[str] = ()) -> list[Account]:
        return [self._accounts[name] for name in self._orders[kind] if name not in without]

    def _blocked(self, account: Account, cost: int, purpose: Purpose, now_us: int) -> Blocked | None:
        return account.blocked(cost, purpose, now_us, busy=self._locks[account.name].locked())

    def _differs(self, account: Account, symbol: str, interval: str, now_us: int) -> bool:
        result = account.comparison(symbol, interval, now_us)
        return result is not None and not result.usable

    # Requests --------------------------------------------------------------------------------------------------------

    async def bars(self, choice: Choice, request: BarsRequest, purpose: Purpose) -> BarsAnswer:
        """Send one request for bars.

        Raises VendorError if the request fails. These errors are raised before the request is sent:

        - QuotaSpent: the credits were spent after the choice,
        - VendorDown: the circuit breaker is open,
        - BadRequest: the cost exceeds the quota,
        - LogError: the debit cannot be stored.
        """
        account, cost = self._accounts[choice.name], choice.provider.cost(request)
        return await self._request(account, cost, purpose, request, partial(account.provider.bars, request))

    async def actions(self, symbol: str, start_us: int, end_us: int, purpose: Purpose) -> ActionsAnswer | Blocked:
        """Request splits and dividends of `[start_us, end_us)` from the first vendor of the order that answers.

        Returns Blocked if no vendor can get a request, or if no vendor answers. Also returns Blocked if the credits of
        an earlier vendor are available again within `WAIT_US`. Raises LogError as `bars` does.
        """
        blocks: list[Blocked] = []
        for account in self._in_order(ACTIONS):
            now, offer = self._clock.now_us(), account.provider.offer
            if not offer.actions or not account.may_have(symbol):
                blocks.append(Blocked(NOT_OFFERED, f"{account.name} has no splits or dividends of {symbol}"))
                continue
            rejection = account.rejections.of(symbol, ACTIONS, start_us, end_us, now)
            if rejection is not None:
                blocks.append(Blocked(NOT_OFFERED, f"{account.name}: {rejection.note}", rejection.until_us))
                continue
            blocked = self._blocked(account, offer.actions_credits, purpose, now)
            if blocked is None:
                request = BarsRequest((symbol,), ACTIONS, start_us, end_us)
                send = partial(account.provider.actions, symbol, start_us, end_us)
                try:
                    return await self._request(account, offer.actions_credits, purpose, request, send)
                except VendorError as error:
                    now = self._clock.now_us()
                    blocked = self._blocked(account, offer.actions_credits, purpose, now)
                    blocked = blocked or _blocked_by(account, error, now)
            blocks.append(blocked)
            if _worth_waiting(blocked, purpose, now):
                return blocked
        return _soonest(blocks, ACTIONS)

    async def _request(
        self, account: Account, cost: int, purpose: Purpose, request: BarsRequest, send: Callable[[], Awaitable[A]]
    ) -> A:
        async with self._locks[account.name]:  # Step 1
            await self._wait_for_turn(account, cost, purpose)
            charge = account.limits.spend(self._clock.now_us(), cost)  # Step 2
            await self._save_debit(account, charge)  # Step 3
            faults.reach("desk.debited")
            try:
                answer = await self._send(account, request, send)  # Step 4
            except VendorError as error:
                faults.reach("desk.answered")
                now = self._clock.now_us()
                account.settle(charge, now)
                account.record_error(error, request, self._jitter(), now)
                await self._save_outcome(account)
                raise
            except asyncio.CancelledError:
                account.settle(charge, self._clock.now_us())  # stored with the next request
                raise
            faults.reach("desk.answered")
            now = self._clock.now_us()
            account.settle(charge, now)  # Step 5
            account.record_answer(answer, request, charge, self._jitter(), now)
            await self._save_outcome(account)
            return answer

    async def _wait_for_turn(self, account: Account, cost: int, purpose: Purpose) -> None:
        """Wait for the pace. Raises VendorError if requests to the vendor have been blocked meanwhile."""
        blocked = account.blocked(cost, purpose, self._clock.now_us(), busy=False)
        if blocked is not None:
            now = self._clock.now_us()
            if blocked.again_us is None:
                raise BadRequest(blocked.note)
            wait_s = (blocked.again_us - now) / SECOND_US
            if blocked.verdict == QUOTA:
                raise QuotaSpent(blocked.note, wait_s, daily=blocked.again_us - now > HOUR_US)
            raise _down(blocked.note, wait_s)
        while True:
            now = self._clock.now_us()
            earliest = account.limits.earliest(now, cost, purpose)
            if earliest is None or earliest <= now:
                return
            await self._clock.sleep((earliest - now) / SECOND_US)

    async def _send(self, account: Account, request: BarsRequest, send: Callable[[], Awaitable[A]]) -> A:
        try:
            async with asyncio.timeout(self._clock.real_s(self._flight_s)):
                answer = await send()
            check_actions(request.symbols, answer.splits, answer.dividends)
            return answer
        except VendorError:
            raise
        except TimeoutError:
            raise VendorDown(f"{account.name} did not answer within {self._flight_s:g} s") from None
        except Exception as error:
            # A provider that violates the port. Its message is not logged: it may contain the key.
            log.warning(
                "the vendor's provider failed; update or uninstall its plug-in",
                vendor=account.name, error=type(error).__name__,
            )  # fmt: skip
            raise Malformed(f"the provider of {account.name} failed: {type(error).__name__}") from None

    async def _save_debit(self, account: Account, charge: Charge) -> None:
        try:
            await self._save_accounts(account)
        except BaseException:
            account.limits.refund(charge)  # nothing was sent
            raise

    async def _save_outcome(self, account: Account) -> None:
        try:
            await self._save_accounts(account)
        except TickerplantError as error:
            # The debit of the request is stored already. The next request's debit also stores the outcome, and raises
            # if the log stays unavailable.
            log.warning(
                "the vendor's state was not stored; its next request stores it", vendor=account.name, error=str(error)
            )

    async def _save_accounts(self, account: Account) -> None:
        """Store the state of a vendor, and of other vendors whose state changed without a request."""
        names, self._unsaved = {account.name, *self._unsaved}, set()
        accounts = [self._accounts[name] for name in sorted(names)]
        try:
            await self._save({key: value for each in accounts for key, value in each.encode().items()})
        except BaseException:
            for each in accounts:
                each.not_saved()
            self._unsaved |= names
            raise

    # Comparisons -----------------------------------------------------------------------------------------------------

    def needs_comparison(self, name: str, symbol: str, interval: str) -> bool:
        """Return True if a vendor's bars must be compared with other vendors' bars before they are used.

        The first vendor in the order that offers these bars needs no comparison. Another vendor needs a comparison if
        it has no valid comparison.
        """
        now = self._clock.now_us()
        order = self._in_order(kind_of(interval))
        first = next((a for a in order if a.provider.offer.of(interval) and a.may_have(symbol)), None)
        account = self._accounts[name]
        return first is not account and account.comparison(symbol, interval, now) is None

    def compared(self, name: str, symbol: str, interval: str, verdict: Comparison) -> None:
        """Record a comparison with other vendors' bars; it is stored with the next request to any vendor."""
        self._accounts[name].compared(symbol, interval, verdict, self._clock.now_us())
        self._unsaved.add(name)
        if not verdict.usable:
            log.warning(
                "the vendor's bars differ from other vendors' bars and are not used; other vendors get the requests",
                vendor=name,
                symbol=symbol,
                interval=interval,
                how=str(verdict),
            )

    # Status ----------------------------------------------------------------------------------------------------------

    def providers(self, kind: str) -> list[Provider]:
        """Return the vendors of a kind of data, best first."""
        return [account.provider for account in self._in_order(kind)]

    def status(self, now_us: int | None = None) -> list[VendorStatus]:
        """Return the status of each vendor, sorted by name; `now_us`: None for the time of the clock."""
        return _statuses(self._accounts, self._orders, self._clock.now_us() if now_us is None else now_us)

    async def close(self) -> None:
        """Close the vendors' connections. May be called twice."""
        for account in self._accounts.values():
            with suppress(VendorError):
                await account.provider.close()


def vendor_statuses(plan: VendorPlan, *, stored: Mapping[str, bytes], now_us: int) -> list[VendorStatus]:
    """Return the status of each vendor, as `RequestScheduler.status` does, from the stored state only."""
    accounts = {
        name: Account(provider, plan.quotas.get(name), stored, reserve=plan.reserve)
        for name, provider in plan.providers.items()
    }
    return _statuses(accounts, _orders_of(plan), now_us)


def _orders_of(plan: VendorPlan) -> dict[str, tuple[str, ...]]:
    """Return the names that have a provider, by kind of data, best first, each once."""
    return {
        kind: tuple(name for name in dict.fromkeys(plan.orders.get(kind, ())) if name in plan.providers)
        for kind in KINDS
    }


def _statuses(accounts: Mapping[str, Account], orders: Mapping[str, Sequence[str]], now_us: int) -> list[VendorStatus]:
    return [
        account.status({kind: order.index(name) + 1 for kind, order in orders.items() if name in order}, now_us)
        for name, account in sorted(accounts.items())
    ]


def _worth_waiting(blocked: Blocked, purpose: Purpose, now_us: int) -> bool:
    again_us = blocked.again_us
    return blocked.verdict == QUOTA and again_us is not None and again_us - now_us <= WAIT_US[purpose]


def _soonest(blocks: Sequence[Blocked], kind: str) -> Blocked:
    """Return the block that ends first; blocks with the verdict NOT_OFFERED are last."""
    if not blocks:
        what = {INTRADAY: "intraday bars", DAILY: "daily bars", ACTIONS: "splits and dividends"}[kind]
        return Blocked(NOT_OFFERED, f"no vendor is left to ask for {what}")
    never = 1 << 62
    return min(blocks, key=lambda b: (b.verdict == NOT_OFFERED, never if b.again_us is None else b.again_us))


def _blocked_by(account: Account, error: VendorError, now_us: int) -> Blocked:
    verdict = OUTAGE if error.about_vendor or isinstance(error, Malformed) else NOT_OFFERED
    again_us = None if error.retry_after_s is None else now_us + bounded_wait_us(error.retry_after_s)
    return Blocked(verdict, f"{account.name}: {error}", again_us)


def _down(note: str, retry_after_s: float) -> VendorDown:
    error = VendorDown(note)
    error.retry_after_s = retry_after_s
    return error
