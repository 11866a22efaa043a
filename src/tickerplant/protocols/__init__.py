"""Vendors' APIs from the server side: Twelve Data, Alpha Vantage, Yahoo and Binance. Pure.

In: an HTTP request or a stream's message, and a `market.Market` that contains the data. Out: the vendor's response,
errors included, or WebSocket frames. A protocol checks no quota and no key; the caller does, and asks the protocol for
the vendor's error. The sandbox calls the protocols over its simulated market.

Start with `http_types` (`RestProtocol`) and `market` (`Market`). Then read one vendor; `alphavantage.rest` is the
shortest.
"""
