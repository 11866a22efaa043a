"""The request scheduler and a shipped client never exceed the quotas that the sandbox counts."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from tests.market_data.vendors.support import MemoryStore
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from tickerplant.market_data.vendors import registry
from tickerplant.market_data.vendors.errors import VendorError
from tickerplant.market_data.vendors.port import BarsRequest, ProviderContext, Quota
from tickerplant.market_data.vendors.scheduler import Choice, Purpose, RequestScheduler, VendorPlan
from tickerplant.sandbox import MarketSettings, SandboxEndpoint, SandboxSettings, running
from tickerplant.system_clock import starting_at

BEGIN_US = 1_773_079_200_000_000  # 2026-03-09T18:00:00Z, in regular hours
PLAN = (Quota(8, MINUTE_US), Quota(90, DAY_US))
SPEED = 600.0


def desk_at(endpoint: SandboxEndpoint, store: MemoryStore) -> RequestScheduler:
    vendor = registry.provider(ProviderContext("twelvedata", "k", url=endpoint.url, clock=endpoint.clock))
    plan = VendorPlan({"twelvedata": vendor}, {"intraday": ["twelvedata"]}, {"twelvedata": PLAN}, reserve=0.25)
    return RequestScheduler(plan, clock=endpoint.clock, save=store, stored=store.values)


def counted(endpoint: SandboxEndpoint) -> Any:
    with urllib.request.urlopen(f"{endpoint.url}/sandbox/counts") as answer:
        return json.load(answer)["vendors"]["twelvedata"]


async def ask(desk: RequestScheduler, endpoint: SandboxEndpoint, purpose: Purpose) -> bool:
    """Request an hour of two symbols as soon as the scheduler allows; return False if that takes over an hour."""
    while True:
        now = endpoint.clock.now_us()
        choice = desk.choose("1m", "AAPL", BEGIN_US - HOUR_US, BEGIN_US, purpose)
        if isinstance(choice, Choice) and choice.credits >= 2:
            request = BarsRequest(("AAPL", "MSFT"), "1m", BEGIN_US - HOUR_US, BEGIN_US)
            answer = await desk.bars(choice, request, purpose)
            assert not any(isinstance(found, VendorError) for found in answer.found.values())
            return True
        again = now + SECOND_US if isinstance(choice, Choice) else choice.again_us
        assert again is not None
        if again - now > HOUR_US:
            return False
        await endpoint.clock.sleep((again - now) / SECOND_US)


@pytest.mark.timeout(120)
async def test_at_the_maximum_rate_the_vendor_rejects_nothing() -> None:
    settings = SandboxSettings(
        MarketSettings(("AAPL", "MSFT"), 5.0), quotas={"twelvedata": PLAN}, clock=starting_at(BEGIN_US, SPEED)
    )
    store = MemoryStore()
    with running(settings) as endpoint:
        for purpose in (Purpose.HISTORY, Purpose.GAP_FILL):
            desk = desk_at(endpoint, store)
            while await ask(desk, endpoint, purpose):
                pass
            await desk.close()
        counts = counted(endpoint)
    assert counts["refused"] == 0
    windows = {window["quota"]: window for window in counts["windows"]}
    assert windows["minute"]["largest_asked"] <= 8
    # Requests for history leave the reserve. Requests for gaps use it up. On a slow machine a day of the fast clock may
    # end meanwhile, so the credits of all days together may be more.
    assert windows["day"]["largest_asked"] == 90
