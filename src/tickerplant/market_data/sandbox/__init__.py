"""The sandbox vendor: a local server with made-up prices that speaks the protocols of real vendors, errors included."""

from tickerplant.market_data.sandbox.front import SandboxSettings
from tickerplant.market_data.sandbox.model import Market, MarketSettings
from tickerplant.market_data.sandbox.place import SandboxPlace
from tickerplant.market_data.sandbox.server import Sandbox, running

__all__ = ["Market", "MarketSettings", "Sandbox", "SandboxPlace", "SandboxSettings", "running"]
