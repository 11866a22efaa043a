"""Crypto exchanges through ccxt: `exchange` wraps one exchange, `client` requests bars, `stream` polls trades."""
