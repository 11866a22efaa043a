"""The base class of all indicators: the contents of a declaration, and its two functions `step` and `run`.

The engine owns states, nulls, revisions and snapshots. A declaration contains the name, the parameters with bounds,
dialects, inputs, outputs, warm-up and the source of the formula. Its state is `width` floats per symbol. The states of
all symbols of a partition are one array, float64[width, symbols].

`step` processes one bar of each of many symbols. `run` processes many bars of one symbol. Both must give the same bits,
so they apply the same operations in the same order. `run` is optional: the default calls `step` bar by bar, which is
slow. An indicator of the last few bars subclasses `window.Windowed`. An indicator whose state depends on all bars since
the first bar subclasses `recursive.Recursive`. Both bases implement `step` and `run` from one formula.

`step` receives its symbols in one of two forms. The general form is an array of rows with an array of bar counts. The
other form, for symbols with equal bar counts that close together, is a slice of rows with one bar count. Reading the
state through a slice returns a view: read all values, compute, then write. Never return a view of the state.

A revision gives the same values as a batch over the revised bars. `block` determines how the engine returns to an
earlier bar:

- `block` > 0: the state at a bar depends only on the bars since the start of the previous block. Blocks have `block`
  bars and are counted from the symbol's first bar. The engine replays these bars from an empty state.
- `block` = 0: the state depends on all bars. The engine stores it every few bars (`run` returns the states) and replays
  from there; `width` must be small.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, TypeAlias

import numpy as np

from tickerplant.core.deprecation import renamed
from tickerplant.core.errors import BadInput
from tickerplant.core.times import Float64Array, Int64Array

RowIndex: TypeAlias = Int64Array | slice
"""The symbols' rows in the state."""
Count: TypeAlias = Int64Array | int
"""Count of bars before this one: an array of one count per symbol for an array of rows, one count for a slice."""

BAR_INPUTS: Final = ("open", "high", "low", "close", "volume", "vwap", "session")
"""Columns of a bar that an indicator may declare as inputs.

`vwap` is the bar's own vwap, or the typical price (high + low + close) / 3 if the bar has none. `session` is a number
that is equal for all bars of a trading session: the session's date in days since 1970. A bar between sessions has the
UTC date plus one half."""

MIN_DIVISOR: Final = 1e-200
"""Smallest absolute value to divide by; smaller values count as 0. No price is smaller, and a quotient of prices up to
1e100 stays within float64."""

TALIB: Final = "talib"
"""The default dialect: TA-Lib in its default compatibility."""
METATRADER: Final = "metatrader"
"""The formulas of MetaTrader's built-in indicators."""
WILDER: Final = "wilder"
"""The formulas of J. Welles Wilder's book of 1978."""
TRADINGVIEW: Final = "tradingview"
"""The formulas of the built-in functions of TradingView's Pine Script."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter with inclusive bounds. A `whole` parameter must be an integer."""

    name: str
    least: float
    most: float
    whole: bool = True
    default: float | None = None

    def check(self, value: float, indicator: str) -> float:
        """Return the value, as an int if it has no fraction. Raises BadInput with the bounds."""
        if not self.least <= value <= self.most:
            raise BadInput(f"{indicator}: {self.name} is {value:g}; it must be in {self.least:g}..{self.most:g}")
        if self.whole and value != int(value):
            raise BadInput(f"{indicator}: {self.name} is {value:g}; it must be an integer")
        return int(value) if value == int(value) else value


def plain(value: float) -> str:
    """Return the shortest decimal number, without an exponent, that parses to this value."""
    return np.format_float_positional(value, trim="-")


class Run(NamedTuple):
    """Results of `run`: float64[outputs, bars]; if recursive, also the state after each bar, float64[bars, width]."""

    outputs: Float64Array
    trace: Float64Array | None


class Indicator(ABC):
    """One indicator with its parameters. Contains no state: two indicators with equal parameters are equal."""

    NAME: ClassVar[str]
    PARAMETERS: ClassVar[tuple[Parameter, ...]]
    INPUTS: ClassVar[tuple[str, ...]] = ("close",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("",)
    """The suffix of each output column; empty for an indicator with a single output."""
    SOURCE: ClassVar[str]
    """The source of the formula."""
    DIALECTS: ClassVar[tuple[str, ...]] = (TALIB,)
    """The supported variants of seeding and smoothing, the default first."""

    warmup: int
    """Ordinal of the first bar at which every output has a value, counted from 1."""
    warmups: tuple[int, ...] = ()
    """Ordinal of the first bar with a value, counted from 1, for each output in the order of OUTPUTS. `declare` sets
    `warmups` instead of `warmup` if the outputs start at different bars."""
    width: int
    block: int = 0

    def __init__(self, *values: float, dialect: str = "") -> None:
        wanted = ", ".join(parameter.name for parameter in self.PARAMETERS)
        given = [*values, *(parameter.default for parameter in self.PARAMETERS[len(values) :])]
        if len(values) > len(self.PARAMETERS) or None in given:
            raise BadInput(f"{self.NAME} takes {len(self.PARAMETERS)} parameters ({wanted}), not {len(values)}")
        self.values = tuple(
            parameter.check(value, self.NAME)
            for parameter, value in zip(self.PARAMETERS, given, strict=True)
            if value is not None
        )
        self.dialect = dialect or self.DIALECTS[0]
        if self.dialect not in self.DIALECTS:
            raise BadInput(f"{self.NAME} has no dialect {self.dialect!r}; use one of: {', '.join(self.DIALECTS)}")
        self._text, self._columns = self._named()
        self.declare()
        if self.warmups:
            self.warmup = max(self.warmups)
        else:
            self.warmups = (self.warmup,) * len(self.OUTPUTS)

    def _named(self) -> tuple[str, tuple[str, ...]]:
        """Return the canonical text of this indicator, and the names of its columns."""
        texts = [plain(value) for value in self.values]
        words = [self.NAME.lower(), *(text.replace(".", "p") for text in texts)]
        call = f"{self.NAME}({','.join(texts)})"
        if self.dialect != self.DIALECTS[0]:
            words.append(self.dialect)
            call = f"{call}@{self.dialect}"
        stem = "_".join(words)
        return call, tuple(f"{stem}_{suffix}" if suffix else stem for suffix in self.OUTPUTS)

    @abstractmethod
    def declare(self) -> None:
        """Set `warmup` (or `warmups`), `width` and, for a window, `block` from `values` and `dialect`.

        Raises BadInput for values that exclude each other.
        """

    @abstractmethod
    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol in `rows` and return the outputs: for each an array with one value per symbol.

        `index` is each symbol's count of bars before this one. If `keep` is False, the state must not change: the bar
        is forming, and the outputs are its values so far. Outputs during the warm-up are ignored, but must not cause a
        warning.
        """

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol and return their outputs and states.

        `state` is float64[width] and is updated in place. `index` is the count of bars before these bars.
        """
        bars = len(inputs[0])
        outputs = np.empty((len(self.OUTPUTS), bars))
        trace = np.empty((bars, self.width))
        row = np.zeros(1, dtype=np.int64)
        column = state[:, None]
        for bar in range(bars):
            one = tuple(values[bar : bar + 1] for values in inputs)
            made = self.step(column, row, np.array([index + bar]), one, keep=True)
            for output, value in enumerate(made):
                outputs[output, bar] = value[0]
            trace[bar] = state
        return Run(outputs, None if self.block else trace)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the output columns: `sma_20`, `bbands_20_2_upper`. A decimal point is written as p.

        A dialect other than the default precedes the output: `macd_12_26_9_tradingview_line`.
        """
        return self._columns

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"<{self._text}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Indicator) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def period(default: int, name: str = "period", least: int = 2) -> Parameter:
    """Return the parameter for the length of a window.

    The maximum is 1,000 bars: four years of daily bars. They need 8 kB of memory per symbol and input.
    """
    return Parameter(name, least, 1_000, default=default)


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Place": ("RowIndex", RowIndex), "SMALLEST": ("MIN_DIVISOR", MIN_DIVISOR)})
