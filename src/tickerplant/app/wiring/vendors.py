"""From the settings to the vendors: whom to ask for what, with which keys and quotas, and how they stand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from tickerplant.app.config.groups import dearest_last
from tickerplant.core.errors import ConfigError, NoPlant, UnknownTopic

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.core.clock import Clock
    from tickerplant.core.rules import Rules
    from tickerplant.log.port import EventLog
    from tickerplant.market_data.backfill import BackfillManager, Depth, Order
    from tickerplant.market_data.vendors.account import VendorStatus
    from tickerplant.market_data.vendors.port import Provider, Quota
    from tickerplant.market_data.vendors.scheduler import RequestScheduler
    from tickerplant.sandbox import SandboxEndpoint

SANDBOX: Final = "sandbox"
SANDBOX_DAYS: Final = {"1d": 3_650, "5m": 6, "1m": 6}
NEEDS_KEY: Final = {"twelvedata": "vendors.twelve_data_key", "alphavantage": "vendors.alpha_vantage_key"}


def orders(settings: Settings, *, sandbox: bool = False) -> dict[str, tuple[str, ...]]:
    """Return the order of vendors by kind of data. With `sandbox` it is asked alone, where the user has named nobody.

    Raises ConfigError for a vendor that is named and lacks its key.
    """
    from tickerplant.market_data.vendors.port import KINDS

    vendors = settings.vendors
    result = {kind: vendors.order(kind) for kind in KINDS}
    if sandbox:
        made_up = settings.sandbox.vendors
        result = {kind: order if getattr(vendors, kind) else made_up for kind, order in result.items()}
        if not vendors.actions:
            result["actions"] = dearest_last(made_up)
    for kind, order in result.items():
        for name in order:
            if name in NEEDS_KEY and not vendors.key(name) and not (sandbox and name in settings.sandbox.vendors):
                raise ConfigError(f"vendors.{kind} names {name}, which needs a key: set {NEEDS_KEY[name]}")
    return result


def quotas(settings: Settings) -> dict[str, tuple[Quota, ...]]:
    """Return the quotas that the settings give in place of the vendors' own; the sandbox allows what they say of it."""
    from tickerplant.market_data.vendors.port import Quota

    said = {name: tuple(map(Quota.parse, texts)) for name, texts in settings.vendors.quotas.items()}
    return said if settings.sandbox.free_plans else {SANDBOX: (), **said}


def providers(
    settings: Settings, names: Sequence[str], clock: Clock, place: SandboxEndpoint | None, rules: Rules | None = None
) -> dict[str, Provider]:
    """Return the vendors of these names; `rules` are those of the settings, unless given.

    Raises ConfigError for one that is unknown, broken, or lacks what it needs.
    """
    from tickerplant.market_data.vendors import registry
    from tickerplant.market_data.vendors.port import ProviderContext

    result, rules = {}, rules or settings.rules.rules()
    for name in dict.fromkeys(names):
        options = dict(settings.vendors.options.get(name, {}))
        url, stream_url = options.pop("url", ""), options.pop("stream_url", "")
        key = settings.vendors.key(name)
        if name == SANDBOX or (place is not None and name in settings.sandbox.vendors):
            key = key or SANDBOX  # any will do
            url, stream_url = url or (place.url if place else ""), stream_url or (place.stream_url if place else "")
            if not url:
                raise ConfigError("the vendor sandbox does not run: start it with --sandbox, or say where it is in "
                                  "vendors.options.sandbox.url")  # fmt: skip
        result[name] = registry.provider(ProviderContext(name, key, options, url, stream_url, clock, rules))
    return result


@contextlib.asynccontextmanager
async def desk(
    settings: Settings, log: EventLog, *, clock: Clock | None = None, place: SandboxEndpoint | None = None,
    rules: Rules | None = None,
) -> AsyncIterator[RequestScheduler]:  # fmt: skip
    """Open the desk for the block, in this process alone: it takes the desk from any other process.

    `place`: the sandbox, if it is to be asked; then the clock is its own. `rules`: those of the settings, unless given.
    Raises ConfigError (before anybody's desk is taken), SnapshotRefused, LogError.
    """
    from tickerplant.market_data.vendors.scheduler import RequestScheduler, VendorPlan
    from tickerplant.market_data.vendors.state_store import StateStore
    from tickerplant.system_clock import SystemClock

    clock = clock or (place.clock if place is not None else SystemClock())
    order = orders(settings, sandbox=place is not None)
    names = [name for names in order.values() for name in names]
    async with contextlib.AsyncExitStack() as stack:
        made = providers(settings, names, clock, place, rules)
        for provider in made.values():
            stack.push_async_callback(provider.close)
        keeping = await asyncio.to_thread(StateStore, log)
        stack.push_async_callback(asyncio.to_thread, keeping.close)
        plan = VendorPlan(made, order, quotas(settings), settings.vendors.gap_fill_reserve)
        yield RequestScheduler(plan, clock=clock, save=keeping.save, stored=keeping.stored)


def clock_of(place: SandboxEndpoint | None) -> Clock:
    """Return the clock of market_data: the sandbox's own where that is asked."""
    from tickerplant.system_clock import SystemClock

    return place.clock if place is not None else SystemClock()


def depths(settings: Settings, *, made_up: bool = False) -> list[Depth]:
    """Return how far back which bars are wanted; of made-up ones, `max` is as much as a chart shows at first."""
    from tickerplant.market_data.backfill import Depth

    found = []
    for entry in settings.history:
        name, _, days = entry.partition(":")
        most = SANDBOX_DAYS.get(name) if made_up else None
        found.append(Depth(name, most if days == "max" else int(days)))
    return found


def backfill(
    settings: Settings, log: EventLog, dsn: str, desk: RequestScheduler, clock: Clock, rules: Rules, *,
    order: Order | None = None,
) -> BackfillManager:  # fmt: skip
    """Return the manager that fetches what is missing, not yet running.

    With an `order` it fetches that alone, and ends when nothing is left that could be asked for now.
    """
    from tickerplant.market_data.backfill import BackfillManager, BackfillPlan

    made_up = any(provider.name == SANDBOX for provider in desk.providers("intraday"))
    plan = BackfillPlan(settings.symbols, depths(settings, made_up=made_up), order=order, once=order is not None)
    return BackfillManager(log, desk, dsn, plan, rules=rules, clock=clock)


def streams(desk: RequestScheduler, symbols: Sequence[str]) -> list[tuple[Provider, tuple[str, ...]]]:
    """Return whose streams bring which symbols: each symbol is of the first vendor in the order that may know it."""
    rest, found = list(symbols), []
    for provider in desk.providers("stream"):
        if not provider.offer.stream:
            continue
        mine = tuple(s for s in rest if any(fnmatchcase(s, pattern) for pattern in provider.offer.markets))
        if mine:
            found.append((provider, mine))
            rest = [symbol for symbol in rest if symbol not in mine]
    return found


def status(settings: Settings, *, sandbox: bool | None = None) -> list[VendorStatus]:
    """Return how each vendor stands by what is kept on the log, whether a plant runs or not; takes nobody's desk."""
    from tickerplant.app.wiring.coverage_query import in_force
    from tickerplant.market_data.vendors.scheduler import VendorPlan, vendor_statuses
    from tickerplant.sandbox import SandboxEndpoint
    from tickerplant.system_clock import SystemClock

    _, now_us = in_force(settings)  # quotas are counted by a sandbox's clock where one is asked
    asked = settings.wants_sandbox if sandbox is None else sandbox
    order = orders(settings, sandbox=asked)
    names = [name for names in order.values() for name in names]

    async def look() -> list[VendorStatus]:
        nowhere = SandboxEndpoint("http://127.0.0.1", "ws://127.0.0.1", ())
        made = providers(settings, names, SystemClock(), nowhere)
        try:
            plan = VendorPlan(made, order, quotas(settings), settings.vendors.gap_fill_reserve)
            return vendor_statuses(plan, stored=_kept(settings), now_us=now_us)
        finally:
            for provider in made.values():
                await provider.close()

    return asyncio.run(look())


def _kept(settings: Settings) -> Mapping[str, bytes]:
    from tickerplant.app.wiring import open_readonly
    from tickerplant.market_data.vendors.state_store import stored_state

    try:
        with open_readonly.log_of(settings) as log:
            return stored_state(log)
    except (NoPlant, UnknownTopic):  # nobody has asked anything yet
        return {}
