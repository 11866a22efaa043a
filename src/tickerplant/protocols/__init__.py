"""Vendors' APIs from the server side: Twelve Data, Alpha Vantage, Yahoo and Binance. Pure.

In: an HTTP request or a stream's message, and a `market.Market` that contains the data. Out: the vendor's response,
errors included, or WebSocket frames. A protocol checks neither quotas nor keys. The caller checks them, and gets the
vendor's error from the protocol. The sandbox serves its simulated market through the protocols.

Start with `http_types` (`RestProtocol`) and `market` (`Market`). Then read one vendor; `alphavantage.rest` is the
shortest.
"""
