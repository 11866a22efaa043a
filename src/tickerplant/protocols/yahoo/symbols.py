"""Yahoo's names of symbols: `EURUSD=X` is EUR/USD, `BTC-USD` is BTC/USD. Pure."""

from __future__ import annotations

from tickerplant.protocols.market import FOREX, Instrument


def symbol_of(name: str) -> str:
    """Return the symbol for a Yahoo name.

    >>> symbol_of("eurusd=x"), symbol_of("BTC-USD"), symbol_of("AAPL")
    ('EUR/USD', 'BTC/USD', 'AAPL')
    """
    name = name.upper()
    if name.endswith("=X") and len(name) == 8:
        return f"{name[:3]}/{name[3:6]}"
    return name.replace("-", "/")


def name_of(instrument: Instrument) -> str:
    """Return Yahoo's name of an instrument."""
    base, quote = instrument.pair
    if not quote:
        return base
    return f"{base}{quote}=X" if instrument.kind == FOREX else f"{base}-{quote}"
