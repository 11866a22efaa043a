"""The sandbox vendor: a local server with a simulated market that serves the APIs of real vendors, errors included.

In: settings (`SandboxSettings`), HTTP requests and stream messages on one port, faults. Out: responses and prices in
the formats of `tickerplant.protocols`. Layers, from the inside: `model` (prices and trades), `corporate_actions`
(prices as traded), `market_view` (the market interface of the protocols), `request_router` (keys, quotas, faults),
`server` (sockets). Start with `model`, then `request_router`. Only `app` imports this package.
"""

from tickerplant.sandbox.endpoint import SandboxEndpoint
from tickerplant.sandbox.model import MarketSettings, SimulatedMarket
from tickerplant.sandbox.request_router import SandboxSettings
from tickerplant.sandbox.server import Sandbox, running

__all__ = ["MarketSettings", "Sandbox", "SandboxEndpoint", "SandboxSettings", "SimulatedMarket", "running"]
