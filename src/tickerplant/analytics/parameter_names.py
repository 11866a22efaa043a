"""Names of parameters as users of other tools write them: `period`, `time_period`, `timeperiod`, `fast_k_period`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tickerplant.core.errors import BadInput

SERIES_TYPE: Final = "series_type"
"""The parameter that names the column read in place of the close."""
SERIES_TYPES: Final = ("close", "open", "high", "low", "volume", "vwap")
_ALIASES: Final = {"sd": "deviations", "nbdev": "deviations", "stddev": "deviations", "price": SERIES_TYPE}


class DuplicateName(BadInput):
    """A parameter was said twice, perhaps under two of its names."""

    def __init__(self, indicator: str, name: str) -> None:
        super().__init__(f"{indicator}: {name} is given twice")


def match(given: str, known: Sequence[str], indicator: str, *, also: Sequence[str] = ()) -> str:
    """Return which of the known names is meant; case, underscores and the words `time` and `period` do not matter.

    `also` are names that the message mentions besides. Raises BadInput that says which names there are.

    >>> match("time_period", ["period"], "RSI"), match("fast_k_period", ["fastk_period", "slowk_period"], "STOCH")
    ('period', 'fastk_period')
    """
    for word in (given, _ALIASES.get(given.lower(), given)):
        for form in (_plain, _bare):
            found = [name for name in known if form(name) == form(word)]
            if len(found) == 1:
                return found[0]
    names = ", ".join([*known, *also]) or "none"
    raise BadInput(f"{indicator} has no parameter {given[:64]!r}; there are {names}")


def series_type(text: str) -> str:
    """Return the column of bars that `series_type` names. Raises BadInput."""
    if text.lower() not in SERIES_TYPES:
        raise BadInput(f"{SERIES_TYPE} is {text[:64]!r}; it may be {', '.join(SERIES_TYPES)}")
    return text.lower()


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _bare(name: str) -> str:
    return _plain(name).replace("time", "").replace("period", "")
