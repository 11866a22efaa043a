"""Binance's spot market API, server side."""
