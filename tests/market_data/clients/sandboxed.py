"""A sandbox whose clock is two days after a split of AAPL, with its market data and its faults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
import numpy as np
import pyarrow as pa
import pytest

from tests.support.waiting import PATIENCE
from tickerplant.core import interval as intervals
from tickerplant.core.arrow_values import times_of
from tickerplant.core.times import DAY_US
from tickerplant.market_data.vendors.errors import Burst, QuotaSpent, VendorDown, VendorError
from tickerplant.market_data.vendors.port import BarsRequest, Provider, ProviderContext
from tickerplant.sandbox import MarketSettings, SandboxEndpoint, SandboxSettings, running
from tickerplant.sandbox.endpoint import make_clock

COMMON_FAULTS: Final = [
    ({"do": "429", "kind": "minute"}, Burst | QuotaSpent),
    ({"do": "down", "status": "503"}, VendorDown),
    ({"do": "down", "how": "reset"}, VendorDown),
]
"""Faults of the sandbox, and the error that each client raises for the fault."""
START = "2019-10-02T18:13:20Z"


@dataclass
class Sandboxed:
    """A running sandbox, and checks of a provider against its market data."""

    endpoint: SandboxEndpoint

    def get(self, page: str, **query: Any) -> dict[str, Any]:
        found: dict[str, Any] = (
            httpx.get(f"{self.endpoint.url}/sandbox/{page}", params=query, timeout=PATIENCE.seconds(30))
            .raise_for_status()
            .json()
        )
        return found

    def order(self, do: str, **options: Any) -> None:
        httpx.get(
            f"{self.endpoint.url}/sandbox/faults", params={"do": do, **options}, timeout=PATIENCE.seconds(30)
        ).raise_for_status()

    def context(self, vendor: str, **options: str) -> ProviderContext:
        return ProviderContext(vendor, "key", options, self.endpoint.url, clock=self.endpoint.clock)

    async def trouble(self, provider: Provider, symbol: str, order: dict[str, str]) -> VendorError:
        """Request a fault for 60 s; return the exception that a request for daily bars of the symbol raises."""
        self.order(**order, seconds=60)
        now_us = self.endpoint.clock.now_us()
        with pytest.raises(VendorError) as caught:
            await provider.bars(BarsRequest((symbol,), "1d", now_us - 9 * DAY_US, now_us))
        return caught.value

    async def equal(self, provider: Provider, symbol: str, interval: str, days: int, *, volume: bool = True) -> int:
        """Check that the bars of the last `days` equal the market's, except for rounding; return their number."""
        length = intervals.parse(interval)
        now_us = length.floor(self.endpoint.clock.now_us())
        from_us = now_us - days * intervals.D1.us
        answer = await provider.bars(BarsRequest((symbol,), interval, from_us, now_us))
        found = answer.found[symbol]
        assert isinstance(found, pa.RecordBatch), found
        found.validate(full=True)
        truth = self.get("bars", symbol=symbol, interval=interval, from_us=from_us, to_us=now_us - 1)
        assert times_of(found["time"]).tolist() == truth["time_us"]
        for name in ("open", "high", "low", "close", *(["volume"] if volume else [])):
            # A 30m volume is the sum of two 15m volumes that are rounded to integers.
            digits = {"rtol": 0, "atol": 1} if name == "volume" else {"rtol": 2e-7, "atol": 1e-4}
            np.testing.assert_allclose(found[name].to_numpy(), truth[name], err_msg=name, **digits)
        return found.num_rows


@contextmanager
def sandboxed() -> Iterator[Sandboxed]:
    market = MarketSettings(("AAPL", "EUR/USD", "BTC/USD"), 20.0, 7, "us")
    with running(SandboxSettings(market, clock=make_clock(START, 1.0))) as endpoint:
        yield Sandboxed(endpoint)
