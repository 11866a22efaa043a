"""The registry of indicators by name, and `parse`, which converts `RSI(14)` to an indicator.

Importing this module registers every indicator in the modules of the families `trend`, `momentum`, `volatility` and
`volume`. `register` adds an indicator of another package.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pkgutil import iter_modules
from typing import Final

from tickerplant.analytics.indicator.declaration import BAR_INPUTS, Indicator
from tickerplant.core.errors import BadInput

FAMILIES: Final = ("trend", "momentum", "volatility", "volume")
INDICATORS: Final[dict[str, type[Indicator]]] = {}
"""All registered indicators by name."""

_NAME = re.compile(r"[A-Z][A-Z0-9]*\Z")
_CALL = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*)\s*(?:\(([^()]*)\)\s*)?(?:@\s*([A-Za-z]+)\s*)?\Z")
_NUMBER = re.compile(r"[+-]?[0-9]{1,12}(\.[0-9]{1,12})?\Z")


def register(kind: type[Indicator]) -> None:
    """Register an indicator. Raises BadInput for an invalid declaration, or for the name of another indicator."""
    name = kind.NAME
    if not _NAME.match(name):
        raise BadInput(f"{name!r} cannot be an indicator's name; use a capital letter, then capital letters and digits")
    if INDICATORS.get(name, kind) is not kind:
        raise BadInput(f"the indicator name {name} is already in use by {INDICATORS[name].__module__}")
    unknown = [column for column in kind.INPUTS if column not in BAR_INPUTS]
    if unknown:
        raise BadInput(f"{name} has the unknown input {unknown[0]!r}; the inputs are {', '.join(BAR_INPUTS)}")
    INDICATORS[name] = kind


def parse(text: str) -> Indicator:
    """Parse `NAME(parameter,…)`. Case and blanks are ignored.

    Omitted parameters have their defaults; a suffix `@dialect` selects a dialect. Raises BadInput with the cause: the
    form, the name, the count of parameters, a parameter's bounds, or the dialect.

    >>> parse("bbands( 20, 2 )").columns[:3]
    ('bbands_20_2_upper', 'bbands_20_2_middle', 'bbands_20_2_lower')
    >>> parse("RSI")
    <RSI(14)>
    """
    call = _CALL.match(text)
    if call is None:
        raise BadInput(f"{text!r} is not an indicator; write NAME(parameter,…), such as RSI(14)")
    name, inside, dialect = call.group(1).upper(), call.group(2) or "", (call.group(3) or "").lower()
    kind = INDICATORS.get(name)
    if kind is None:
        raise BadInput(f"unknown indicator {name!r}; use one of {', '.join(INDICATORS)}")
    words = [word.strip() for word in inside.split(",")] if inside.strip() else []
    for word in words:
        if not _NUMBER.match(word):
            raise BadInput(f"{text!r}: {word!r} is not a number; write numbers, as in RSI(14)")
    return kind(*(float(word) for word in words), dialect=dialect)


def _register_families() -> None:
    for family in FAMILIES:
        package = import_module(f"{__package__}.{family}")
        for found in sorted(iter_modules(package.__path__), key=lambda module: module.name):
            module = import_module(f"{package.__name__}.{found.name}")
            for _, kind in inspect.getmembers(module, inspect.isclass):
                if kind.__module__ == module.__name__ and issubclass(kind, Indicator) and hasattr(kind, "NAME"):
                    register(kind)


_register_families()
