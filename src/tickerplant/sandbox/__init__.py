"""The sandbox vendor: a local server with made-up prices that speaks the protocols of real vendors, errors included."""

from tickerplant.sandbox.endpoint import SandboxPlace
from tickerplant.sandbox.model import Market, MarketSettings
from tickerplant.sandbox.request_router import SandboxSettings
from tickerplant.sandbox.server import Sandbox, running

__all__ = ["Market", "MarketSettings", "Sandbox", "SandboxPlace", "SandboxSettings", "running"]
