"""Parameter names in the spelling of other tools: `period`, `time_period`, `timeperiod`, `fast_k_period`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tickerplant.core.errors import BadInput

SERIES_TYPE: Final = "series_type"
"""The parameter that selects the column to read instead of the close."""
SERIES_TYPES: Final = ("close", "open", "high", "low", "volume", "vwap")
_ALIASES: Final = {"sd": "deviations", "nbdev": "deviations", "stddev": "deviations", "price": SERIES_TYPE}


class DuplicateName(BadInput):
    """A parameter was given twice, possibly under two of its names."""

    def __init__(self, indicator: str, name: str) -> None:
        super().__init__(f"{indicator}: {name} is given twice; give one value")


def match_name(given: str, known: Sequence[str], indicator: str, *, also: Sequence[str] = ()) -> str:
    """Return the name in `known` that `given` means. Case, underscores and the words `time` and `period` are ignored.

    `also` are further names for the error message. Raises BadInput with the known names.

    >>> match_name("time_period", ["period"], "RSI")
    'period'
    >>> match_name("fast_k_period", ["fastk_period", "slowk_period"], "STOCH")
    'fastk_period'
    """
    for word in (given, _ALIASES.get(given.lower(), given)):
        for form in (_plain, _bare):
            found = [name for name in known if form(name) == form(word)]
            if len(found) == 1:
                return found[0]
    names = ", ".join([*known, *also]) or "none"
    raise BadInput(f"{indicator} has no parameter {given[:64]!r}; the parameters are {names}")


def series_type(text: str) -> str:
    """Return the column of bars that `series_type` selects. Raises BadInput."""
    if text.lower() not in SERIES_TYPES:
        raise BadInput(f"{SERIES_TYPE} is {text[:64]!r}; use one of {', '.join(SERIES_TYPES)}")
    return text.lower()


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _bare(name: str) -> str:
    return _plain(name).replace("time", "").replace("period", "")
