"""The desk: whoever needs bars or corporate actions of a vendor asks here, and nobody else asks a vendor.

One request does, in this order:

1. wait for its turn at the vendor (one request in flight each) and for the pace,
2. debit the budget,
3. keep that, durably (`desk.debited`): a kill from here on has spent the credits, whatever the vendor counted,
4. ask (`desk.answered`): what comes after a minute is given up,
5. learn from the answer or the error, and keep what was learnt.

Before Step 3 nothing has gone out; between Steps 3 and 5 a kill loses only what the answer would have taught.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import structlog

from tickerplant.core import faults
from tickerplant.core.clock import Clock
from tickerplant.core.errors import TickerplantError
from tickerplant.core.schemas import NOT_OFFERED, OUTAGE, QUOTA
from tickerplant.core.times import HOUR_US, SECOND_US
from tickerplant.market_data.vendors.account import Account, Blocked, VendorStatus
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

__all__ = ["Blocked", "Choice", "Desk", "Keep", "Purpose"]

log = structlog.get_logger(__name__)
A = TypeVar("A", BarsAnswer, ActionsAnswer)
Keep = Callable[[Mapping[str, bytes]], Awaitable[None]]
"""Keeps values by key, durably when it returns; calls that overlap are kept in the order in which they began."""

WAIT_US: Final = {Purpose.HISTORY: 60 * SECOND_US, Purpose.HEAL: 5 * SECOND_US}
"""A vendor that is out of credits for no longer than this is waited for; a minute's credits are back in a minute, and
another source in the middle of history is worth more than that. A gap in what is live now is not left open for it."""
_REAL_FLIGHT_S: Final = 25.0
"""However fast the clock runs, a request has so long by the machine's: networks are no faster. Clients give theirs
10 s, and some make two for one of ours."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The vendor to ask, its offer of the interval, and how many credits may be spent there now."""

    provider: Provider
    offer: BarsOffer
    credits: int

    @property
    def name(self) -> str:
        """The vendor's name."""
        return self.provider.name


class Desk:
    """Chooses among vendors and asks them.

    `providers`: by name. `orders`: by kind of data, names, best first; names without a provider are left out.
    `quotas`: in place of what the vendor's offer says. `reserve`: the share of every quota, 0 to 1, that only HEAL may
    spend. `keep` and `kept`: see `keeping`; both speak of the desk alone, so only one process may have it. `jitter`:
    numbers in [0, 1). Raises SnapshotRefused for a kept state of a newer version.

    Belongs to one event loop. Waiting requests queue at their vendor without a bound of its own: callers bound
    themselves by how many requests they make at once.
    """

    def __init__(
        self, providers: Mapping[str, Provider], orders: Mapping[str, Sequence[str]],
        quotas: Mapping[str, Sequence[Quota]], *, reserve: float, clock: Clock, keep: Keep,
        kept: Mapping[str, bytes], jitter: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._keep = keep
        self._jitter = jitter
        self._flight_s = max(FLIGHT_US / SECOND_US, _REAL_FLIGHT_S * clock.speed)
        flight_us = int(self._flight_s * SECOND_US)
        self._accounts = {
            name: Account(provider, quotas.get(name), kept, reserve=reserve, flight_us=flight_us)
            for name, provider in providers.items()
        }
        for account in self._accounts.values():
            account.breaker.restarted()
        self._orders = {
            kind: tuple(name for name in dict.fromkeys(orders.get(kind, ())) if name in providers) for kind in KINDS
        }
        self._learnt_aside: set[str] = set()
        self._locks = {name: asyncio.Lock() for name in providers}

    # Choosing --------------------------------------------------------------------------------------------------------

    def choose(
        self, interval: str, symbol: str, from_us: int, to_us: int, purpose: Purpose, *, without: Sequence[str] = ()
    ) -> Choice | Blocked:
        """Return whom to ask for bars of `[from_us, to_us)`: the first in the order that has them and may be asked.

        A vendor whose bars differ from the others' is passed over while anybody else has them, even if those cannot
        be asked now. Who will be free again within `WAIT_US` is waited for: then the answer is Blocked until then.
        """
        now = self._clock.now_us()
        having: list[tuple[Account, BarsOffer]] = []
        blocks: list[Blocked] = []
        for account in self._in_order(kind_of(interval), without):
            offer = account.has(symbol, interval, from_us, to_us, now)
            if isinstance(offer, Blocked):
                blocks.append(offer)
            else:
                having.append((account, offer))
        trusted = [pair for pair in having if not self._differs(pair[0], symbol, interval, now)]
        for account, offer in trusted or having:
            blocked = self._blocked(account, account.cost(symbol, offer, from_us, to_us), purpose, now)
            if blocked is None:
                return Choice(account.provider, offer, account.budget.available(now, purpose))
            blocks.append(blocked)
            if _worth_waiting(blocked, purpose, now):
                return blocked
        return _most_hopeful(blocks, kind_of(interval))

    def _in_order(self, kind: str, without: Sequence[str] = ()) -> list[Account]:
        return [self._accounts[name] for name in self._orders[kind] if name not in without]

    def _blocked(self, account: Account, cost: int, purpose: Purpose, now_us: int) -> Blocked | None:
        return account.blocked(cost, purpose, now_us, busy=self._locks[account.name].locked())

    def _differs(self, account: Account, symbol: str, interval: str, now_us: int) -> bool:
        said = account.comparison(symbol, interval, now_us)
        return said is not None and not said.usable

    # Asking ----------------------------------------------------------------------------------------------------------

    async def bars(self, choice: Choice, request: BarsRequest, purpose: Purpose) -> BarsAnswer:
        """Ask for bars, one request.

        Raises VendorError; QuotaSpent also where the credits are gone since the choice was made, and BadRequest where
        it costs more than the quota ever has, without asking. Raises LogError if it cannot be kept, without asking.
        """
        account, cost = self._accounts[choice.name], choice.provider.cost(request)
        return await self._ask(account, cost, purpose, request, partial(account.provider.bars, request))

    async def actions(self, symbol: str, from_us: int, to_us: int, purpose: Purpose) -> ActionsAnswer | Blocked:
        """Ask for splits and dividends of `[from_us, to_us)`: the first vendor of the order that gives an answer.

        Blocked when none can be asked, or none of those asked has an answer. Raises LogError as `bars` does.
        """
        blocks: list[Blocked] = []
        for account in self._in_order(ACTIONS):
            now, offer = self._clock.now_us(), account.provider.offer
            if not offer.actions or not account.knows(symbol):
                blocks.append(Blocked(NOT_OFFERED, f"{account.name} has no splits and dividends of {symbol}"))
                continue
            refusal = account.refusals.of(symbol, ACTIONS, from_us, to_us, now)
            if refusal is not None:
                blocks.append(Blocked(NOT_OFFERED, f"{account.name}: {refusal.note}", refusal.until_us))
                continue
            blocked = self._blocked(account, offer.actions_credits, purpose, now)
            if blocked is None:
                request = BarsRequest((symbol,), ACTIONS, from_us, to_us)
                ask = partial(account.provider.actions, symbol, from_us, to_us)
                try:
                    return await self._ask(account, offer.actions_credits, purpose, request, ask)
                except VendorError as error:
                    now = self._clock.now_us()
                    blocked = self._blocked(account, offer.actions_credits, purpose, now)
                    blocked = blocked or _because(account, error, now)
            blocks.append(blocked)
            if _worth_waiting(blocked, purpose, now):
                return blocked
        return _most_hopeful(blocks, ACTIONS)

    async def _ask(
        self, account: Account, cost: int, purpose: Purpose, request: BarsRequest, ask: Callable[[], Awaitable[A]]
    ) -> A:
        async with self._locks[account.name]:  # Step 1
            await self._turn(account, cost, purpose)
            charge = account.budget.spend(self._clock.now_us(), cost)  # Step 2
            await self._debited(account, charge)  # Step 3
            faults.reach("desk.debited")
            try:
                answer = await self._answer(account, ask)  # Step 4
            except VendorError as error:
                faults.reach("desk.answered")
                now = self._clock.now_us()
                account.settle(charge, now)
                account.learn_error(error, request, self._jitter(), now)
                await self._learnt(account)
                raise
            except asyncio.CancelledError:
                account.settle(charge, self._clock.now_us())  # kept with the next request; until then too much is
                raise
            faults.reach("desk.answered")
            now = self._clock.now_us()
            account.settle(charge, now)  # Step 5
            account.learn_answer(answer, request, charge, self._jitter(), now)
            await self._learnt(account)
            return answer

    async def _turn(self, account: Account, cost: int, purpose: Purpose) -> None:
        """Wait for the pace. Raises VendorError when the vendor must not be asked any more."""
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
            earliest = account.budget.earliest(now, cost, purpose)
            if earliest is None or earliest <= now:
                return
            await self._clock.sleep((earliest - now) / SECOND_US)

    async def _debited(self, account: Account, charge: Charge) -> None:
        try:
            await self._kept(account)
        except BaseException:
            account.budget.refund(charge)  # nothing has gone out
            raise

    async def _answer(self, account: Account, ask: Callable[[], Awaitable[A]]) -> A:
        try:
            async with asyncio.timeout(self._clock.real_s(self._flight_s)):
                return await ask()
        except VendorError:
            raise
        except TimeoutError:
            raise VendorDown(f"{account.name} did not answer within {self._flight_s:g} s") from None
        except Exception as error:
            # A plug-in that breaks the port's promise. Its words are kept back: a stranger's may hold the key.
            log.warning("vendor_plugin_failed", vendor=account.name, error=type(error).__name__)
            raise Malformed(f"the client of {account.name} failed: {type(error).__name__}") from None

    async def _learnt(self, account: Account) -> None:
        try:
            await self._kept(account)
        except TickerplantError as error:
            # The answer is here and its debit is kept; what it taught is kept with the next request's debit, which is
            # where a log that is gone for good is told to the caller.
            log.warning("desk_not_kept", vendor=account.name, error=str(error))

    async def _kept(self, account: Account) -> None:
        """Keep what is known of a vendor, and what was learnt of others without asking them."""
        names, self._learnt_aside = {account.name, *self._learnt_aside}, set()
        accounts = [self._accounts[name] for name in sorted(names)]
        try:
            await self._keep({key: value for each in accounts for key, value in each.encode().items()})
        except BaseException:
            for each in accounts:
                each.not_kept()
            self._learnt_aside |= names
            raise

    # Comparisons -----------------------------------------------------------------------------------------------------

    def needs_comparison(self, name: str, symbol: str, interval: str) -> bool:
        """Whether a vendor's bars ought to be compared before they stand in for others'.

        That is so for whoever is not the first in the order to have them, once a day.
        """
        now = self._clock.now_us()
        order = self._in_order(kind_of(interval))
        first = next((a for a in order if a.provider.offer.of(interval) and a.knows(symbol)), None)
        account = self._accounts[name]
        return first is not account and account.comparison(symbol, interval, now) is None

    def compared(self, name: str, symbol: str, interval: str, verdict: Comparison) -> None:
        """Remember how a vendor's bars compare with those of others; kept with the next request to anybody."""
        self._accounts[name].compared(symbol, interval, verdict, self._clock.now_us())
        self._learnt_aside.add(name)
        if not verdict.usable:
            log.warning("vendors_differ", vendor=name, symbol=symbol, interval=interval, how=str(verdict))

    # Looking ---------------------------------------------------------------------------------------------------------

    def providers(self, kind: str) -> list[Provider]:
        """Return the vendors of a kind of data, best first."""
        return [account.provider for account in self._in_order(kind)]

    def status(self, now_us: int | None = None) -> list[VendorStatus]:
        """Return how each vendor stands, by name."""
        return _standing(self._accounts, self._orders, self._clock.now_us() if now_us is None else now_us)

    async def close(self) -> None:
        """Close the vendors' connections. Harmless twice."""
        for account in self._accounts.values():
            with suppress(VendorError):
                await account.provider.close()


def standing(
    providers: Mapping[str, Provider], orders: Mapping[str, Sequence[str]], quotas: Mapping[str, Sequence[Quota]], *,
    reserve: float, kept: Mapping[str, bytes], now_us: int,
) -> list[VendorStatus]:  # fmt: skip
    """Return how each vendor stands by what is kept alone, by name: what `Desk.status` says, for who has no desk."""
    accounts = {name: Account(made, quotas.get(name), kept, reserve=reserve) for name, made in providers.items()}
    return _standing(accounts, orders, now_us)


def _standing(
    accounts: Mapping[str, Account], orders: Mapping[str, Sequence[str]], now_us: int
) -> list[VendorStatus]:  # fmt: skip
    return [
        account.status({kind: order.index(name) + 1 for kind, order in orders.items() if name in order}, now_us)
        for name, account in sorted(accounts.items())
    ]


def _worth_waiting(blocked: Blocked, purpose: Purpose, now_us: int) -> bool:
    again = blocked.again_us
    return blocked.verdict == QUOTA and again is not None and again - now_us <= WAIT_US[purpose]


def _most_hopeful(blocks: Sequence[Blocked], kind: str) -> Blocked:
    """Return who can be asked again soonest; what is not offered comes last, whatever it says."""
    if not blocks:
        what = {INTRADAY: "intraday bars", DAILY: "daily bars", ACTIONS: "splits and dividends"}[kind]
        return Blocked(NOT_OFFERED, f"no vendor is left to ask for {what}")
    never = 1 << 62
    return min(
        blocks, key=lambda b: (b.verdict == NOT_OFFERED, never if b.again_us is None else b.again_us)
    )  # fmt: skip


def _because(account: Account, error: VendorError, now_us: int) -> Blocked:
    verdict = OUTAGE if error.about_vendor or isinstance(error, Malformed) else NOT_OFFERED
    again = None if error.retry_after_s is None else now_us + int(error.retry_after_s * SECOND_US)
    return Blocked(verdict, f"{account.name}: {error}", again)


def _down(note: str, retry_after_s: float) -> VendorDown:
    error = VendorDown(note)
    error.retry_after_s = retry_after_s
    return error
