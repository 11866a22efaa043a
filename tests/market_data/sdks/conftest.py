"""One sandbox for the tests of the vendors' SDKs, and the data of its market."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.waiting import PATIENCE
from tickerplant.core.clock import Clock
from tickerplant.sandbox import MarketSettings, SandboxEndpoint, SandboxSettings, running

SYMBOLS = ("AAPL", "MSFT", "SPY", "EUR/USD", "BTC/USD")


@dataclass
class Vendor:
    """A running sandbox, with requests for faults and for the data of its market."""

    endpoint: SandboxEndpoint

    def order(self, do: str, **options: object) -> None:
        query = {"do": do, **options}
        httpx.get(f"{self.endpoint.url}/sandbox/faults", params=query, timeout=PATIENCE.seconds(30)).raise_for_status()  # type: ignore[arg-type]

    def bars(self, symbol: str, interval: str, from_us: int, to_us: int) -> dict[str, Any]:
        """Return the bars of the market, as traded, as one list per column."""
        query = {"symbol": symbol, "interval": interval, "from_us": from_us, "to_us": to_us}
        found: dict[str, Any] = (
            httpx.get(f"{self.endpoint.url}/sandbox/bars", params=query, timeout=PATIENCE.seconds(30))
            .raise_for_status()
            .json()
        )
        return found

    def actions(self, symbol: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(
            f"{self.endpoint.url}/sandbox/actions", params={"symbol": symbol}, timeout=PATIENCE.seconds(30)
        ).json()
        return found

    @property
    def clock(self) -> Clock:
        return self.endpoint.clock


@pytest.fixture(scope="session")
def running_vendor() -> Iterator[Vendor]:
    with running(SandboxSettings(MarketSettings(SYMBOLS, 20.0))) as endpoint:
        yield Vendor(endpoint)


@pytest.fixture
def vendor(running_vendor: Vendor) -> Iterator[Vendor]:
    """Yield the sandbox, and clear its faults after the test."""
    yield running_vendor
    running_vendor.order("clear")
