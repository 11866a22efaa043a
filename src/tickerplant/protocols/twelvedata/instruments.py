"""Twelve Data's description of an instrument. Pure."""

from __future__ import annotations

from tickerplant.protocols.market import CRYPTO, STOCK, Instrument


def meta_of(instrument: Instrument) -> dict[str, str]:
    """Return the fields that describe an instrument in answers and in the stream, the symbol first."""
    if instrument.kind == STOCK:
        return {
            "symbol": instrument.symbol, "currency": "USD", "exchange_timezone": "America/New_York",
            "exchange": instrument.exchange, "mic_code": instrument.mic_code, "type": "Common Stock",
        }  # fmt: skip
    base, quote = instrument.pair
    is_crypto = instrument.kind == CRYPTO
    return {
        "symbol": instrument.symbol, "currency_base": base, "currency_quote": quote,
        "type": "Digital Currency" if is_crypto else "Physical Currency",
        **({"exchange": instrument.exchange} if is_crypto else {}),
    }  # fmt: skip
