"""Vendors from the settings: which vendor serves which kind of data, with its key and quotas, and their status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

import structlog

from tickerplant.app.component import ComponentHealth
from tickerplant.app.config.groups import by_action_cost
from tickerplant.app.disk import free_space
from tickerplant.app.wiring.extras import vendors_health, without_extra
from tickerplant.core.errors import ConfigError, NoPlant, UnknownTopic
from tickerplant.core.times import SECOND_US

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.core.clock import Clock
    from tickerplant.core.rules import Rules
    from tickerplant.log.port import EventLog
    from tickerplant.log.trouble_reports import Trouble
    from tickerplant.market_data.backfill import BackfillManager, Depth, Order
    from tickerplant.market_data.vendors.account import VendorStatus
    from tickerplant.market_data.vendors.port import Provider, Quota
    from tickerplant.market_data.vendors.scheduler import RequestScheduler
    from tickerplant.sandbox import SandboxEndpoint

SANDBOX: Final = "sandbox"
SANDBOX_DAYS: Final = {"1d": 3_650, "5m": 6, "1m": 6}
"""Days of history from the sandbox for `max` in the settings. Six days cover the default range of `coverage`."""
NEEDS_KEY: Final = {"twelvedata": "vendors.twelve_data_key", "alphavantage": "vendors.alpha_vantage_key"}

log_lines = structlog.get_logger(__name__)


def orders(settings: Settings, *, sandbox: bool = False) -> dict[str, tuple[str, ...]]:
    """Return the order of vendors by kind of data.

    If `sandbox` is true, kinds without a configured vendor use the vendors of the setting `sandbox.vendors`.

    Raises ConfigError for a configured vendor without its key.
    """
    result = _orders(settings, sandbox=sandbox)
    vendors = settings.vendors
    for kind, order in result.items():
        for name in order:
            if name in NEEDS_KEY and not vendors.key(name) and not (sandbox and name in settings.sandbox.vendors):
                raise ConfigError(f"vendors.{kind} contains {name}, which needs a key; set {NEEDS_KEY[name]}")
    return result


def _orders(settings: Settings, *, sandbox: bool) -> dict[str, tuple[str, ...]]:
    from tickerplant.market_data.vendors.port import KINDS

    vendors = settings.vendors
    result = {kind: vendors.order(kind) for kind in KINDS}
    if sandbox:
        made_up = settings.sandbox.vendors
        result = {kind: order if getattr(vendors, kind) else made_up for kind, order in result.items()}
        if not vendors.actions:
            result["actions"] = by_action_cost(made_up)
    return result


def quotas(settings: Settings) -> dict[str, tuple[Quota, ...]]:
    """Return the quotas that replace the vendors' own quotas.

    The sandbox has none, unless `sandbox.free_plans` is true.
    """
    from tickerplant.market_data.vendors.port import Quota

    configured = {name: tuple(map(Quota.parse, texts)) for name, texts in settings.vendors.quotas.items()}
    return configured if settings.sandbox.free_plans else {SANDBOX: (), **configured}


def providers(
    settings: Settings, names: Sequence[str], clock: Clock, endpoint: SandboxEndpoint | None, rules: Rules | None = None
) -> dict[str, Provider]:
    """Return the providers of these vendors, by vendor. If `rules` is None, the rules of the settings apply.

    A vendor whose extra is not installed has no provider.

    Raises ConfigError if a vendor is unknown or wrongly configured, if its provider is broken, or if the sandbox has no
    address.
    """
    from tickerplant.market_data.vendors import registry
    from tickerplant.market_data.vendors.port import ProviderContext

    result, rules = {}, rules or settings.rules.rules()
    skipped = without_extra(names)
    for name in dict.fromkeys(name for name in names if name not in skipped):
        options = dict(settings.vendors.options.get(name, {}))
        url, stream_url = options.pop("url", ""), options.pop("stream_url", "")
        key = settings.vendors.key(name)
        if name == SANDBOX or (endpoint is not None and name in settings.sandbox.vendors):
            key = key or SANDBOX  # the sandbox accepts any key
            url, stream_url = (
                url or (endpoint.url if endpoint else ""),
                stream_url or (endpoint.stream_url if endpoint else ""),
            )
            if not url:
                raise ConfigError("the vendor sandbox is not running; start it with --sandbox, or set its address in "
                                  "vendors.options.sandbox.url")  # fmt: skip
        gather_s = settings.gather_ms / 1_000
        result[name] = registry.provider(ProviderContext(name, key, options, url, stream_url, clock, rules, gather_s))
    return result


@contextlib.asynccontextmanager
async def open_scheduler(
    settings: Settings, log: EventLog, *, clock: Clock | None = None, endpoint: SandboxEndpoint | None = None,
    rules: Rules | None = None,
) -> AsyncIterator[RequestScheduler]:  # fmt: skip
    """Open the request scheduler for the block. This process becomes its only owner; an earlier owner loses it.

    `endpoint`: the sandbox to use, whose clock applies if `clock` is None. If `rules` is None, the rules of the
    settings apply. Raises ConfigError (before an earlier owner loses the scheduler), SnapshotRefused, LogError.
    """
    from tickerplant.market_data.vendors.scheduler import RequestScheduler, VendorPlan
    from tickerplant.market_data.vendors.state_store import StateStore
    from tickerplant.system_clock import SystemClock

    clock = clock or (endpoint.clock if endpoint is not None else SystemClock())
    order = orders(settings, sandbox=endpoint is not None)
    names = [name for names in order.values() for name in names]
    async with contextlib.AsyncExitStack() as stack:
        made = providers(settings, names, clock, endpoint, rules)
        for name, error in without_extra(names).items():
            log_lines.warning("vendor skipped", vendor=name, reason=str(error))
        for provider in made.values():
            stack.push_async_callback(provider.close)
        store = await asyncio.to_thread(StateStore, log)
        stack.push_async_callback(asyncio.to_thread, store.close)
        plan = VendorPlan(made, order, quotas(settings), settings.vendors.gap_fill_reserve)
        yield RequestScheduler(plan, clock=clock, save=store.save, stored=store.stored)


def clock_of(endpoint: SandboxEndpoint | None) -> Clock:
    """Return the clock of market_data: the sandbox's clock if there is a sandbox, else the machine's clock."""
    from tickerplant.system_clock import SystemClock

    return endpoint.clock if endpoint is not None else SystemClock()


def depths(settings: Settings, *, made_up: bool = False) -> list[Depth]:
    """Return the wanted depth of history by interval. For `made_up` prices `max` means `SANDBOX_DAYS`."""
    from tickerplant.market_data.backfill import Depth

    found = []
    for entry in settings.history:
        name, _, days = entry.partition(":")
        limit = SANDBOX_DAYS.get(name) if made_up else None
        found.append(Depth(name, limit if days == "max" else int(days)))
    return found


def backfill(
    settings: Settings, log: EventLog, dsn: str, scheduler: RequestScheduler, clock: Clock, rules: Rules, *,
    order: Order | None = None,
) -> BackfillManager:  # fmt: skip
    """Return the manager that fetches missing history, not running.

    If `order` is given, the manager fetches only the bars of the order, and ends when no request can be made now.
    """
    from tickerplant.market_data.backfill import BackfillManager, BackfillPlan

    made_up = any(provider.name == SANDBOX for provider in scheduler.providers("intraday"))
    plan = BackfillPlan(settings.symbols, depths(settings, made_up=made_up), order=order, once=order is not None)
    return BackfillManager(log, scheduler, dsn, plan, rules=rules, clock=clock, space=free_space(settings))


def streams(scheduler: RequestScheduler, symbols: Sequence[str]) -> list[tuple[Provider, tuple[str, ...]]]:
    """Return the streaming vendors with their symbols.

    Each symbol is assigned to the first vendor whose markets match it.
    """
    remaining, found = list(symbols), []
    for provider in scheduler.providers("stream"):
        if not provider.offer.stream:
            continue
        matching = tuple(s for s in remaining if any(fnmatchcase(s, pattern) for pattern in provider.offer.markets))
        if matching:
            found.append((provider, matching))
            remaining = [symbol for symbol in remaining if symbol not in matching]
    return found


def skipped_health(settings: Settings, *, sandbox: bool | None = None) -> Iterable[ComponentHealth]:
    """Yield the vendors that the plant skips because their extra is missing; see `extras.vendors_health`.

    If `sandbox` is None, the settings decide. No key is needed, because a command may lack the keys of the plant.
    """
    use_sandbox = settings.wants_sandbox if sandbox is None else sandbox
    return vendors_health(settings, _orders(settings, sandbox=use_sandbox))


def status(settings: Settings, *, sandbox: bool | None = None) -> list[VendorStatus]:
    """Return each vendor's status from the state in the log. No plant needs to run; a running plant is not affected."""
    from tickerplant.app.wiring.coverage_query import rules_and_market_time
    from tickerplant.log.trouble_reports import feed_key
    from tickerplant.market_data.vendors.scheduler import VendorPlan, vendor_statuses
    from tickerplant.sandbox import SandboxEndpoint
    from tickerplant.system_clock import SystemClock

    _, now_us = rules_and_market_time(settings)  # with a sandbox, quota windows follow its clock
    use_sandbox = settings.wants_sandbox if sandbox is None else sandbox
    order = orders(settings, sandbox=use_sandbox)
    names = [name for names in order.values() for name in names]

    async def read() -> list[VendorStatus]:
        nowhere = SandboxEndpoint("http://127.0.0.1", "ws://127.0.0.1", ())
        made = providers(settings, names, SystemClock(), nowhere)
        try:
            plan = VendorPlan(made, order, quotas(settings), settings.vendors.gap_fill_reserve)
            stored, troubles = _stored(settings, now_us)
            rows = vendor_statuses(plan, stored=stored, now_us=now_us)
            return [_with_trouble(row, troubles.get(feed_key(row.vendor))) for row in rows]
        finally:
            for provider in made.values():
                await provider.close()

    return asyncio.run(read())


def _with_trouble(row: VendorStatus, trouble: Trouble | None) -> VendorStatus:
    """Return the status with the reason why the vendor's stream was dropped, if that is the newest error."""
    at_us = int(trouble.reported_s * SECOND_US) if trouble is not None else 0
    if trouble is None or (row.last_error_us is not None and row.last_error_us > at_us):
        return row
    return replace(row, last_error=trouble.error, last_error_us=at_us)


def _stored(settings: Settings, now_us: int) -> tuple[Mapping[str, bytes], Mapping[str, Trouble]]:
    """Return the stored state of the vendors, and the recent troubles."""
    from tickerplant.app.wiring import open_readonly
    from tickerplant.log import trouble_reports
    from tickerplant.market_data.vendors.state_store import stored_state

    try:
        with open_readonly.log_of(settings) as log:
            return stored_state(log), trouble_reports.read(log, now_us)
    except (NoPlant, UnknownTopic):  # no request has been made yet
        return {}, {}


def state_of(row: VendorStatus) -> str:
    """Return a vendor's state as text: paused, blocked, retrying, ok, or no request yet."""
    if row.until_us is not None:
        return f"paused until {time_text(row.until_us)}: {row.last_error}"
    if row.blocked_us is not None:
        return f"blocked until {time_text(row.blocked_us)}: {row.blocked_by}"
    if row.breaker != "closed":
        return f"retrying: {row.last_error}"
    if row.last_error_us is not None:
        return f"ok; last error {time_text(row.last_error_us)}: {row.last_error}"
    return "ok" if row.requests else "no request yet"


def time_text(us: int) -> str:
    """Return a time as text, without fractions of a second."""
    from tickerplant.core.times import iso

    return iso(us - us % SECOND_US)
