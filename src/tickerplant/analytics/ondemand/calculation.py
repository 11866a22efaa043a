"""One interface for everything that can be computed over bars: a declared indicator, or a function of TA-Lib.

`parse_calculation` parses text, such as `RSI(14)` or `APO(fastperiod=12, matype=ema)`; `choose` uses a name and named
parameters. A name that is declared selects the declaration. The prefix `TA_` selects TA-Lib's function: `TA_RSI(14)`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tickerplant.analytics import plugins
from tickerplant.analytics.indicator import INDICATORS
from tickerplant.analytics.indicator.declaration import Indicator
from tickerplant.analytics.ondemand import talib_functions
from tickerplant.analytics.ondemand.parameter_names import SERIES_TYPE, DuplicateName, match_name, series_type
from tickerplant.analytics.realtime.indicator_state import IndicatorState
from tickerplant.core.errors import BadInput, UnknownIndicator
from tickerplant.core.times import Float64Array

DIALECT: Final = "dialect"
_CALL = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*(?:\(([^()]*)\)\s*)?(?:@\s*([A-Za-z]+)\s*)?\Z")
_MAX_SUGGESTIONS: Final = 5


class Calculation(Protocol):
    """One declared indicator, or one function of TA-Lib, with its parameters."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the columns of bars that `run` needs, in this order."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the output columns."""

    @property
    def warmups(self) -> tuple[int, ...]:
        """Return the ordinal of the first bar with a value, counted from 1, for each output."""

    @property
    def memory(self) -> int | None:
        """Return the count of earlier bars that determine a bar's value; None if all bars do."""

    def run(self, inputs: tuple[Float64Array, ...]) -> Float64Array:
        """Return float64[outputs, bars] over one symbol's bars in order of time; NaN for no value.

        All inputs must be finite.
        """
        ...


@dataclass(frozen=True, slots=True)
class DeclaredIndicator:
    """A declared indicator over bars, computed by the code of the stream."""

    indicator: Indicator
    series: str = ""
    """The column that is read instead of the close; "" for the close."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the columns of bars that `run` needs."""
        return (self.series,) if self.series else self.indicator.INPUTS

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the output columns."""
        return tuple(f"{name}_{self.series}" if self.series else name for name in self.indicator.columns)

    @property
    def warmups(self) -> tuple[int, ...]:
        """Return the ordinal of the first bar with a value, counted from 1, for each output."""
        return self.indicator.warmups

    @property
    def memory(self) -> int | None:
        """Return the count of earlier bars that determine a bar's value; None for a recursion.

        The count is at least two blocks, because reading may start inside a block.
        """
        block = self.indicator.block
        return max(2 * block, self.indicator.warmup - 1) if block else None

    def run(self, inputs: tuple[Float64Array, ...]) -> Float64Array:
        """Return float64[outputs, bars] over one symbol's bars; NaN for no value."""
        return IndicatorState(self.indicator, 0, 1).run(0, 0, inputs)

    def __str__(self) -> str:
        return f"{self.indicator} of {self.series}" if self.series else str(self.indicator)


def parse_calculation(text: str | Indicator) -> Calculation:
    """Parse `NAME(parameter,…)`; parameters are positional, named, or omitted for their defaults.

    Raises UnknownIndicator for an unknown name, and BadInput for an invalid form or parameter.

    >>> str(parse_calculation("bbands(deviations=2)"))
    'BBANDS(20,2)'
    """
    if isinstance(text, Indicator):
        return DeclaredIndicator(text)
    call = _CALL.match(text)
    if call is None:
        raise BadInput(f"{text!r} is not an indicator; write NAME(parameter,…), such as RSI(14)")
    name, inside, dialect = call.group(1), call.group(2) or "", call.group(3)
    ordered: list[str] = []
    named: dict[str, str] = {}
    for word in inside.split(",") if inside.strip() else []:
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals and named:
            raise BadInput(f"{text!r}: {key!r} has no name, but follows named parameters; name it too")
        if not equals:
            ordered.append(key)
        elif key in named:
            raise BadInput(f"{text!r} contains {key} twice; give one value")
        else:
            named[key] = value
    if dialect:
        named[DIALECT] = dialect
    return choose(name, named, ordered)


def choose(name: str, named: Mapping[str, str], ordered: Sequence[str] = ()) -> Calculation:
    """Return the indicator with that name. Raises UnknownIndicator, or BadInput for an invalid parameter."""
    plugins.load()
    plain = name.strip().upper()
    kind = INDICATORS.get(plain)
    if kind is not None:
        return _declared(kind, named, ordered)
    function = talib_functions.name_of(plain)
    if function is None:
        raise UnknownIndicator(_unknown(plain))
    return talib_functions.choose(plain, named, ordered)


def _declared(kind: type[Indicator], named: Mapping[str, str], ordered: Sequence[str]) -> DeclaredIndicator:
    known = [parameter.name for parameter in kind.PARAMETERS]
    if len(ordered) > len(known):
        raise BadInput(f"{kind.NAME} takes {len(known)} parameters ({', '.join(known)}), not {len(ordered)}")
    series, dialect = "", ""
    values = dict(zip(known, ordered, strict=False))
    single = kind.INPUTS == ("close",)
    for given, value in named.items():
        if given.lower() == DIALECT:
            dialect = value.lower()
            continue
        chosen = match_name(given, [*known, *([SERIES_TYPE] if single else [])], kind.NAME, also=(DIALECT,))
        if chosen in values or (chosen == SERIES_TYPE and series):
            raise DuplicateName(kind.NAME, chosen)
        if chosen == SERIES_TYPE:
            series = series_type(value)
        else:
            values[chosen] = value
    numbers = []
    for parameter in kind.PARAMETERS:
        if parameter.name in values:
            numbers.append(_number(values[parameter.name], kind.NAME, parameter.name))
        elif parameter.default is not None:
            numbers.append(parameter.default)
        else:
            raise BadInput(f"{kind.NAME} takes ({', '.join(known)}); {parameter.name} has no default: give a value")
    return DeclaredIndicator(kind(*numbers, dialect=dialect), "" if series == "close" else series)


def _number(text: str, indicator: str, parameter: str) -> float:
    if not re.fullmatch(r"[+-]?[0-9]{1,12}(\.[0-9]{1,12})?", text):
        raise BadInput(f"{indicator}: {parameter} is {text[:64]!r}, not a number; use digits, such as 14 or 2.5")
    return float(text)


def _unknown(name: str) -> str:
    known = {*INDICATORS, *talib_functions.names()}
    near = difflib.get_close_matches(name, known, n=_MAX_SUGGESTIONS, cutoff=0.5)
    guess = f"; did you mean {' or '.join(near)}?" if near else "."
    broken = "".join(f"; {problem}" for problem in plugins.load())
    return (
        f"there is no indicator {name[:64]!r}{guess} The declared indicators are {', '.join(INDICATORS)}. TA-Lib has "
        f"{len(talib_functions.names())} more functions; see `tickerplant indicators` or /v1/indicators{broken}"
    )
