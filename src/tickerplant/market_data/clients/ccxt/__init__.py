"""Crypto exchanges through ccxt: `exchange` wraps one exchange, `client` requests bars, `stream` polls trades.

`trades` stores the known trades of each symbol, and converts new trades to ticks (pure).
"""
