"""From the settings to the vendors: whom to ask for what, with which keys and quotas, and how they stand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tickerplant.core.errors import ConfigError, NoPlant, UnknownTopic

if TYPE_CHECKING:
    from tickerplant.app.settings import Settings
    from tickerplant.log.port import EventLog
    from tickerplant.market_data.clock import Clock
    from tickerplant.market_data.desk.account import VendorStatus
    from tickerplant.market_data.desk.desk import Desk
    from tickerplant.market_data.providers.port import Provider, Quota
    from tickerplant.market_data.sandbox import SandboxPlace

SANDBOX: Final = "sandbox"
NEEDS_KEY: Final = {"twelvedata": "vendors.twelve_data_key", "alphavantage": "vendors.alpha_vantage_key"}


def orders(settings: Settings, *, sandbox: bool = False) -> dict[str, tuple[str, ...]]:
    """Return the order of vendors by kind of data. With `sandbox` it is asked alone, where the user has named nobody.

    Raises ConfigError for a vendor that is named and lacks its key.
    """
    from tickerplant.market_data.providers.port import KINDS

    vendors = settings.vendors
    result = {kind: vendors.order(kind) for kind in KINDS}
    if sandbox:
        result = {kind: order if getattr(vendors, kind) else (SANDBOX,) for kind, order in result.items()}
    for kind, order in result.items():
        for name in order:
            if name in NEEDS_KEY and not vendors.key(name):
                raise ConfigError(f"vendors.{kind} names {name}, which needs a key: set {NEEDS_KEY[name]}")
    return result


def quotas(settings: Settings) -> dict[str, tuple[Quota, ...]]:
    """Return the quotas that the settings give in place of the vendors' own; the sandbox has none unless they do."""
    from tickerplant.market_data.providers.port import Quota

    said = {name: tuple(map(Quota.parse, texts)) for name, texts in settings.vendors.quotas.items()}
    return {SANDBOX: (), **said}


def providers(
    settings: Settings, names: Sequence[str], clock: Clock, place: SandboxPlace | None
) -> dict[str, Provider]:
    """Return the vendors of these names. Raises ConfigError for one that is unknown, broken, or lacks what it needs."""
    from tickerplant.market_data.providers import registry
    from tickerplant.market_data.providers.port import ProviderContext

    result = {}
    for name in dict.fromkeys(names):
        options = dict(settings.vendors.options.get(name, {}))
        url, stream_url = options.pop("url", ""), options.pop("stream_url", "")
        key = settings.vendors.key(name)
        if name == SANDBOX:
            key = key or SANDBOX  # any will do
            url, stream_url = url or (place.url if place else ""), stream_url or (place.stream_url if place else "")
            if not url:
                raise ConfigError("the vendor sandbox does not run: start it with --sandbox, or say where it is in "
                                  "vendors.options.sandbox.url")  # fmt: skip
        result[name] = registry.provider(ProviderContext(name, key, options, url, stream_url, clock))
    return result


@contextlib.asynccontextmanager
async def desk(
    settings: Settings, log: EventLog, *, clock: Clock | None = None, place: SandboxPlace | None = None
) -> AsyncIterator[Desk]:
    """Open the desk for the block, in this process alone: it takes the desk from any other process.

    `place`: the sandbox, if it is to be asked. Raises ConfigError, SnapshotRefused, LogError.
    """
    from tickerplant.market_data.clock import Clock
    from tickerplant.market_data.desk.desk import Desk
    from tickerplant.market_data.desk.keeping import Keeping

    clock = clock or Clock()
    order = orders(settings, sandbox=place is not None)
    names = [name for names in order.values() for name in names]
    made = providers(settings, names, clock, place)
    keeping = await asyncio.to_thread(Keeping, log)
    try:
        opened = Desk(
            made, order, quotas(settings),
            reserve=settings.vendors.reserve, clock=clock, keep=keeping.keep, kept=keeping.kept,
        )  # fmt: skip
        try:
            yield opened
        finally:
            await opened.close()
    finally:
        await asyncio.to_thread(keeping.close)


def status(settings: Settings, *, sandbox: bool | None = None) -> list[VendorStatus]:
    """Return how each vendor stands by what is kept on the log, whether a plant runs or not; takes nobody's desk."""
    from tickerplant.market_data.clock import Clock
    from tickerplant.market_data.desk.desk import standing
    from tickerplant.market_data.sandbox import SandboxPlace

    asked = settings.wants_sandbox if sandbox is None else sandbox
    order = orders(settings, sandbox=asked)
    names = [name for names in order.values() for name in names]

    async def look() -> list[VendorStatus]:
        nowhere = SandboxPlace("http://127.0.0.1", "ws://127.0.0.1", ())
        made = providers(settings, names, Clock(), nowhere)
        try:
            return standing(
                made, order, quotas(settings),
                reserve=settings.vendors.reserve, kept=_kept(settings), now_us=time.time_ns() // 1_000,
            )  # fmt: skip
        finally:
            for provider in made.values():
                await provider.close()

    return asyncio.run(look())


def _kept(settings: Settings) -> Mapping[str, bytes]:
    from tickerplant.app import looking
    from tickerplant.market_data.desk.keeping import kept

    try:
        with looking.log_of(settings) as log:
            return kept(log)
    except (NoPlant, UnknownTopic):  # nobody has asked anything yet
        return {}
