"""A client of the sandbox's request router, without sockets and at a chosen time."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from tickerplant.core.times import micros_of
from tickerplant.protocols.http_types import Request
from tickerplant.sandbox import SandboxEndpoint
from tickerplant.sandbox.corporate_actions import TradedMarket
from tickerplant.sandbox.fault_injector import FaultyResponse
from tickerplant.sandbox.fault_script import parse_fault
from tickerplant.sandbox.model import MarketSettings, SimulatedMarket
from tickerplant.sandbox.request_router import AdmittedRequest, RequestRouter, SandboxSettings

NOW = micros_of(dt.datetime(2026, 9, 23, 14, 34, 56, 500_000, dt.UTC))  # a Wednesday, 10:34 in New York


class SandboxClient:
    """Sends requests to a router. The time is `now_us`: NOW until a test changes it."""

    def __init__(self, **changes: Any) -> None:
        rate, sessions = changes.pop("rate", 8.0), changes.pop("sessions", "always")
        market = MarketSettings(("AAPL", "MSFT", "EUR/USD", "BTC/USD"), rate, sessions=sessions)
        self.settings = SandboxSettings(market, **changes)
        self.market = TradedMarket(SimulatedMarket(market))
        self.router = RequestRouter(self.settings, self.market, NOW)
        self.now_us = NOW

    def fault(self, text: str) -> None:
        """Apply a fault."""
        self.router.apply(parse_fault(text), self.now_us)

    def request(self, path: str, method: str = "GET", body: bytes = b"", **query: Any) -> FaultyResponse:
        """Return the response to a request."""
        request = Request(path, {name: str(value) for name, value in query.items()}, {}, method, body)
        found = self.router.admit(request, self.now_us)
        if isinstance(found, AdmittedRequest):
            return self.router.finish(found, found.respond(), self.now_us)
        return found

    def json(self, path: str, **query: Any) -> Any:
        """Return the decoded body of a response."""
        return msgspec.json.decode(self.request(path, **query).body)


def yahoo_stream_url(endpoint: SandboxEndpoint) -> str:
    """Return the address of Yahoo's stream."""
    return f"ws://{endpoint.url.removeprefix('http://')}/?version=2"
