"""Currency codes: ISO 4217, and the minor units in which some exchanges quote prices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

ISO_4217: Final = frozenset(
    """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE
    CHF CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ
    GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL
    LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR
    PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY
    TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS VED VES VND VUV WST XAF XAG XAU XCD XCG XOF XPD XPF XPT YER ZAR ZMW
    ZWG CNH
    """.split()  # noqa: SIM905 - a list has one line per code
)
"""Codes of ISO 4217 without test codes and supranational units such as XDR, and CNH, the code of offshore CNY."""

_MINOR: Final[Mapping[str, tuple[str, str]]] = {
    "GBp": ("GBp", "GBP"), "GBX": ("GBp", "GBP"), "GBPENCE": ("GBp", "GBP"),
    "ZAc": ("ZAc", "ZAR"), "ZAC": ("ZAc", "ZAR"), "ILA": ("ILA", "ILS"), "ILa": ("ILA", "ILS"),
}  # fmt: skip
"""Usual spelling of a minor unit, and currency of 100 units, by spelling. Case matters: GBp is a hundredth of GBP."""


_PAIR: Final = re.compile(r"(?:C:)?([A-Z]{3})[-_.:]?([A-Z]{3})(?:=X)?")
"""Pattern of pairs without a slash: EURUSD, EUR-USD, EUR.USD, Massive's C:EURUSD and Yahoo's EURUSD=X."""


def slashed_pair(symbol: str) -> str | None:
    """Return a symbol such as EURUSD as a pair of currencies with a slash; None for other symbols.

    >>> slashed_pair("EURUSD"), slashed_pair("EURUSD=X"), slashed_pair("GOOGLE"), slashed_pair("BTCUSD")
    ('EUR/USD', 'EUR/USD', None, None)
    """
    found = _PAIR.fullmatch(symbol)
    return "/".join(found.groups()) if found is not None and ISO_4217.issuperset(found.groups()) else None


def normal_currency(text: str) -> str | None:
    """Return the usual spelling of a minor unit (`GBp` for pence), or three letters in upper case; otherwise None.

    >>> normal_currency("usd"), normal_currency("GBX"), normal_currency("GBp"), normal_currency("dollar")
    ('USD', 'GBp', 'GBp', None)
    """
    text = text.strip()
    if text in _MINOR:
        return _MINOR[text][0]
    return text.upper() if len(text) == 3 and text.isascii() and text.isalpha() else None


def units_of(amount_in: str, prices_in: str) -> float | None:
    """Return the factor that converts an amount to the unit of the prices; None if the currencies differ.

    >>> units_of("GBP", "GBp"), units_of("ILA", "ILS"), units_of("EUR", "EUR"), units_of("USD", "GBp")
    (100.0, 0.01, 1.0, None)
    """
    given, wanted = _MINOR.get(amount_in, (amount_in, None)), _MINOR.get(prices_in, (prices_in, None))
    if given[0] == wanted[0]:
        return 1.0
    if given[0] == wanted[1]:
        return 100.0
    if given[1] == wanted[0]:
        return 0.01
    return None
