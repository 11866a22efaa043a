"""The indicators: declarations by family, and `parse`, which turns `RSI(14)` into one."""

from __future__ import annotations

import re
from typing import Final

from tickerplant.analytics.indicator.declaration import Indicator
from tickerplant.analytics.indicator.momentum import RSI
from tickerplant.analytics.indicator.trend import EMA, SMA
from tickerplant.analytics.indicator.volatility import BBANDS
from tickerplant.core.errors import BadInput

INDICATORS: Final[dict[str, type[Indicator]]] = {kind.NAME: kind for kind in (SMA, EMA, RSI, BBANDS)}
"""Every indicator by name."""

_CALL = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*)\s*\(([^()]*)\)\s*\Z")
_NUMBER = re.compile(r"[+-]?\d{1,12}(\.\d{1,12})?\Z")


def parse(text: str) -> Indicator:
    """Return the indicator that `NAME(parameter,…)` names, in any case and with any blanks.

    Raises BadInput that says what is wrong: the form, the name, the number of parameters or a parameter's bounds.

    >>> parse("bbands( 20, 2 )").columns
    ('bbands_20_2_upper', 'bbands_20_2_middle', 'bbands_20_2_lower')
    """
    call = _CALL.match(text)
    if call is None:
        raise BadInput(f"{text!r} is no indicator; write NAME(parameter,…), such as RSI(14)")
    name, inside = call.group(1).upper(), call.group(2)
    kind = INDICATORS.get(name)
    if kind is None:
        raise BadInput(f"unknown indicator {name!r}; there are {', '.join(INDICATORS)}")
    words = [word.strip() for word in inside.split(",")] if inside.strip() else []
    for word in words:
        if not _NUMBER.match(word):
            raise BadInput(f"{text!r}: {word!r} is no number")
    return kind(*(float(word) for word in words))
