"""A front to ask without sockets, at a time of choice."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from tickerplant.core.times import micros_of
from tickerplant.protocols.http_types import Reply, Request
from tickerplant.sandbox.corporate_actions import Tape
from tickerplant.sandbox.fault_script import read_order
from tickerplant.sandbox.model import Market, MarketSettings
from tickerplant.sandbox.request_router import Admitted, Front, SandboxSettings

NOW = micros_of(dt.datetime(2026, 9, 23, 14, 34, 56, 500_000, dt.UTC))  # a Wednesday, 10:34 in New York


class Desk:
    """Asks a front, the time of which stands unless it is moved."""

    def __init__(self, **changes: Any) -> None:
        rate, sessions = changes.pop("rate", 8.0), changes.pop("sessions", "always")
        market = MarketSettings(("AAPL", "MSFT", "EUR/USD", "BTC/USD"), rate, sessions=sessions)
        self.settings = SandboxSettings(market, **changes)
        self.tape = Tape(Market(market))
        self.front = Front(self.settings, self.tape, NOW)
        self.now_us = NOW

    def order(self, text: str) -> None:
        self.front.take(read_order(text), self.now_us)

    def ask(self, path: str, method: str = "GET", body: bytes = b"", **query: Any) -> Reply:
        request = Request(path, {name: str(value) for name, value in query.items()}, {}, method, body)
        found = self.front.admit(request, self.now_us)
        if isinstance(found, Admitted):
            return self.front.finish(found, found.answer(), self.now_us)
        return found

    def json(self, path: str, **query: Any) -> Any:
        return msgspec.json.decode(self.ask(path, **query).body)
