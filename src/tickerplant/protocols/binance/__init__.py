"""Binance's spot market API, server side: requests and a `Market` in, responses out. Pure. Start at `rest`."""
