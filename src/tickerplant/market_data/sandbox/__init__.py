"""The sandbox vendor: a local server with made-up prices that speaks the protocol of a real vendor, errors included."""

from tickerplant.market_data.sandbox.model import Market, MarketSettings
from tickerplant.market_data.sandbox.server import Sandbox, SandboxPlace, SandboxSettings, running

__all__ = ["Market", "MarketSettings", "Sandbox", "SandboxPlace", "SandboxSettings", "running"]
