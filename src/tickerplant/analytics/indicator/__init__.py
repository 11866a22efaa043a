"""The indicators: declarations by family, and `parse`, which turns `RSI(14)` into one.

Every module of the families `momentum`, `trend`, `volatility` and `volume` is read, and each indicator that it declares
is known by its name; `register` adds one from elsewhere.
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
"""Every indicator by name."""

_NAME = re.compile(r"[A-Z][A-Z0-9]*\Z")
_CALL = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*)\s*(?:\(([^()]*)\)\s*)?(?:@\s*([A-Za-z]+)\s*)?\Z")
_NUMBER = re.compile(r"[+-]?\d{1,12}(\.\d{1,12})?\Z")


def register(kind: type[Indicator]) -> None:
    """Make an indicator known. Raises BadInput for a declaration that is not whole or a name that is taken."""
    name = kind.NAME
    if not _NAME.match(name):
        raise BadInput(f"{name!r} cannot be an indicator's name: a capital letter, then capital letters and digits")
    if INDICATORS.get(name, kind) is not kind:
        raise BadInput(f"there is an indicator {name} already: {INDICATORS[name].__module__}")
    unknown = [column for column in kind.INPUTS if column not in BAR_INPUTS]
    if unknown:
        raise BadInput(f"{name} asks for the input {unknown[0]!r}; bars have {', '.join(BAR_INPUTS)}")
    INDICATORS[name] = kind


def parse(text: str) -> Indicator:
    """Return the indicator that `NAME(parameter,…)` names, in any case and with any blanks.

    Parameters that are left out have their defaults; `@dialect` behind it chooses a dialect. Raises BadInput that says
    what is wrong: the form, the name, the number of parameters, a parameter's bounds, the dialect.

    >>> parse("bbands( 20, 2 )").columns[:3]
    ('bbands_20_2_upper', 'bbands_20_2_middle', 'bbands_20_2_lower')
    >>> parse("RSI")
    <RSI(14)>
    """
    call = _CALL.match(text)
    if call is None:
        raise BadInput(f"{text!r} is no indicator; write NAME(parameter,…), such as RSI(14)")
    name, inside, dialect = call.group(1).upper(), call.group(2) or "", (call.group(3) or "").lower()
    kind = INDICATORS.get(name)
    if kind is None:
        raise BadInput(f"unknown indicator {name!r}; there are {', '.join(INDICATORS)}")
    words = [word.strip() for word in inside.split(",")] if inside.strip() else []
    for word in words:
        if not _NUMBER.match(word):
            raise BadInput(f"{text!r}: {word!r} is no number")
    return kind(*(float(word) for word in words), dialect=dialect)


def _find() -> None:
    for family in FAMILIES:
        package = import_module(f"{__name__}.{family}")
        for found in sorted(iter_modules(package.__path__), key=lambda module: module.name):
            module = import_module(f"{package.__name__}.{found.name}")
            for _, kind in inspect.getmembers(module, inspect.isclass):
                if kind.__module__ == module.__name__ and issubclass(kind, Indicator) and hasattr(kind, "NAME"):
                    register(kind)


_find()
