"""Crypto exchanges through ccxt: `exchange` wraps one exchange, `client` requests bars, `stream` polls trades.

`trades` holds the trades of each symbol that are known, and turns new ones into ticks (pure).
"""
