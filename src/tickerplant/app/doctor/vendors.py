"""Checks of the vendors. On request, also checks of their keys, with one cheap request to each vendor.

The request is debited to the plant's quotas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tickerplant.app.doctor.finding import FAIL, OK, WARN, Finding
from tickerplant.core.errors import TickerplantError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.market_data.vendors.scheduler import RequestScheduler

REQUEST_S: Final = 30.0
DAYS: Final = 7
"""Number of days of daily bars in one request. Except for the longest holidays, each such period contains a session."""


def vendors(settings: Settings, *, ask: bool, running: bool) -> Iterator[Finding]:
    """Yield the state of each vendor, or one finding for all vendors if none is asked.

    `ask`: send one request to each vendor. `running`: a plant runs on this log.

    No request is sent while a plant runs, because only one process may debit the quotas. The state that the plant has
    stored is reported instead.
    """
    from tickerplant.app.wiring import vendors as wiring

    try:
        order = wiring.orders(settings)
    except TickerplantError as error:
        yield Finding("vendors", FAIL, str(error))
        return
    names = list(dict.fromkeys(name for some in order.values() for name in some))
    if not names:
        yield Finding("vendors", OK, "no vendor has a key; `tickerplant up` uses the sandbox")
    elif not ask:
        advice = "to check the keys, run `tickerplant doctor --vendors`; it sends one request to each vendor"
        yield Finding("vendors", OK, f"configured: {', '.join(names)}; their keys are not checked", advice)
    elif running:
        yield from _stored(settings)
    else:
        yield from _asked(settings, names)


def _stored(settings: Settings) -> Iterator[Finding]:
    from tickerplant.app.wiring import vendors as wiring

    for row in wiring.status(settings):
        state = wiring.state_of(row)
        bad = not (state.startswith("ok") or state == "no request yet")
        advice = "see tickerplant vendors" if bad else ""
        yield Finding(
            f"vendor {row.vendor}", WARN if bad else OK, f"state stored by the running plant: {state}", advice
        )


def _asked(settings: Settings, names: list[str]) -> Iterator[Finding]:
    from tickerplant.app.wiring import vendors as wiring
    from tickerplant.app.wiring.log import has_log, open_log

    if not has_log(settings):
        advice = "start the plant once, so that it has quotas to debit"
        yield Finding("vendors", WARN, "no request was sent, because there is no log with the quotas yet", advice)
        return

    async def run() -> list[Finding]:
        with open_log(settings) as event_log:
            async with wiring.open_scheduler(settings, event_log) as scheduler:
                return [await _one(scheduler, name, settings.symbols) for name in names]

    try:
        yield from asyncio.run(run())
    except TickerplantError as error:
        yield Finding("vendors", FAIL, str(error))


async def _one(scheduler: RequestScheduler, name: str, symbols: tuple[str, ...]) -> Finding:
    """Request a few bars of the first symbol that the vendor may have, through the scheduler; return the finding."""
    from tickerplant.core.times import DAY_US
    from tickerplant.market_data.vendors.errors import NoData, VendorError
    from tickerplant.market_data.vendors.port import DAILY, INTRADAY, KINDS, BarsRequest
    from tickerplant.market_data.vendors.rate_limits import Purpose
    from tickerplant.market_data.vendors.scheduler import Blocked, Choice
    from tickerplant.system_clock import SystemClock

    title = f"vendor {name}"
    made = {provider.name: provider for kind in KINDS for provider in scheduler.providers(kind)}
    now_us = SystemClock().now_us()
    end_us = now_us - now_us % DAY_US
    offered = [interval for interval in ("1d", "5m", "1m") if made[name].offer.of(interval) is not None]
    kinds = [kind for kind in (DAILY, INTRADAY) if name in {provider.name for provider in scheduler.providers(kind)}]
    if not offered or not kinds:
        return Finding(title, OK, "the vendor supplies no bars to this plant, so no request was sent")
    interval = "1d" if DAILY in kinds and "1d" in offered else next((one for one in offered if one != "1d"), "")
    others = [other for other in made if other != name]
    choice: Choice | Blocked = Blocked("", "it offers no bars of these symbols")
    for symbol in symbols if interval else ():
        choice = scheduler.choose(interval, symbol, end_us - DAYS * DAY_US, end_us, Purpose.GAP_FILL, without=others)
        if isinstance(choice, Choice):
            break
    if isinstance(choice, Blocked):
        return Finding(title, WARN, f"no request was sent: {choice.note}", "see tickerplant vendors")
    start_us = end_us - (DAYS * DAY_US if interval == "1d" else DAY_US // 24)
    request = BarsRequest((symbol,), interval, start_us, end_us)
    try:
        async with asyncio.timeout(REQUEST_S):
            answer = await scheduler.bars(choice, request, Purpose.GAP_FILL)
    except TimeoutError:
        return Finding(title, FAIL, f"no answer within {REQUEST_S:g} s", "check the network, and the vendor's status")
    except VendorError as error:
        return _failed(title, error)
    found = answer.found.get(symbol)
    if isinstance(found, VendorError) and not isinstance(found, NoData):
        return _failed(title, found)
    rows = 0 if found is None or isinstance(found, VendorError) else found.num_rows
    return Finding(title, OK, f"accepted the key: {rows} {interval} bars of {symbol}; the quota is debited")


def _failed(title: str, error: Exception) -> Finding:
    from tickerplant.market_data.vendors.errors import QuotaSpent

    spent = isinstance(error, QuotaSpent)
    advice = "wait until the quota resets" if spent else "check the key and the plan on the vendor's page"
    return Finding(title, WARN if spent else FAIL, str(error) or type(error).__name__, advice)
