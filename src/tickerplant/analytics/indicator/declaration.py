"""What an indicator declares, and the two functions it gives; the engine owns states, nulls, revisions, snapshots.

A declaration says its name, parameters with bounds, inputs, outputs, warm-up and the source of its formula. Its state
is `width` floats a symbol; the states of all symbols of a partition are one array, float64[width, symbols].

`step` takes one bar of each of many symbols, `run` many bars of one symbol. Both must give the same bits, so they do
the same sums in the same order; `run` may be left out, then it is `step` bar by bar, which is slow. An indicator that
looks at the last few bars alone says so by being a `window.Windowed`, and has both from there; one whose state goes
back to the first bar writes its formula as a `recursive.Recursive`.

`step` is given its symbols in one of two forms: an array of rows with an array of bar numbers, or, where all symbols
close together and have had equally many bars, a slice of rows with one bar number. Through a slice, what is read from
the state is a view of it: read everything, compute, and write last; never return a view of the state.

How the engine returns to a former
bar, so that a revision gives what a batch over the revised bars would, depends on what the state is made of:

- `block` > 0: the state at a bar comes from the bars since the beginning of the block before the last alone, blocks of
  `block` bars being counted from the symbol's first bar. The engine runs those again from an empty state.
- `block` = 0: the state goes back to the first bar. The engine keeps one every few bars (`run` gives the states it went
  through) and runs on from there; `width` must be small.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple, TypeAlias

import numpy as np

from tickerplant.core.errors import BadInput
from tickerplant.core.times import Float64Array, Int64Array

Place: TypeAlias = Int64Array | slice
"""The symbols' rows in the state."""
Count: TypeAlias = Int64Array | int
"""Each symbol's number of bars before this one: an array beside an array of rows, one number beside a slice."""

BAR_INPUTS: Final = ("open", "high", "low", "close", "volume", "vwap", "session")
"""The columns of a bar that an indicator may name as its inputs.

`vwap` is the bar's own, and the typical price (high + low + close) / 3 of a bar that has none; `session` is a number
that is the same for all bars of a trading session: days since 1970 of its date (between sessions: of the UTC date, and
a half).
"""

SMALLEST: Final = 1e-200
"""What is nearer to 0 is none to divide by: no price is, and with prices up to 1e100 the quotient stays in float64."""

TALIB: Final = "talib"
"""The default dialect."""
METATRADER: Final = "metatrader"
"""As MetaTrader's own indicators do it."""
WILDER: Final = "wilder"
"""As in J. Welles Wilder's book of 1978."""
TRADINGVIEW: Final = "tradingview"
"""As the built-in functions of TradingView's Pine Script do it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter and its bounds, both allowed; `whole` parameters take no fraction."""

    name: str
    least: float
    most: float
    whole: bool = True
    default: float | None = None

    def check(self, value: float, indicator: str) -> float:
        """Return the value, an int where it must be whole. Raises BadInput naming the bounds."""
        if not self.least <= value <= self.most:
            raise BadInput(f"{indicator}: {self.name} is {value:g}, it must lie in {self.least:g}..{self.most:g}")
        if self.whole and value != int(value):
            raise BadInput(f"{indicator}: {self.name} is {value:g}, it must be a whole number")
        return int(value) if value == int(value) else value


def plain(value: float) -> str:
    """Return the shortest decimal number, without an exponent, that is this value and no other."""
    return np.format_float_positional(value, trim="-")


class Run(NamedTuple):
    """What `run` gives: float64[outputs, bars] and, if recursive, the state after each bar, float64[bars, width]."""

    outputs: Float64Array
    trace: Float64Array | None


class Indicator(ABC):
    """One indicator with its parameters. Holds no state of its own: two of equal parameters are the same."""

    NAME: ClassVar[str]
    PARAMETERS: ClassVar[tuple[Parameter, ...]]
    INPUTS: ClassVar[tuple[str, ...]] = ("close",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("",)
    """A suffix for each output column; the empty one for an indicator with a single output."""
    SOURCE: ClassVar[str]
    """Where the formula comes from."""
    DIALECTS: ClassVar[tuple[str, ...]] = (TALIB,)
    """The ways of seeding and smoothing that it knows, the default first."""

    warmup: int
    """Bars until every output has a value: of bar number `warmup` (from 1) for the first time none is null."""
    warmups: tuple[int, ...] = ()
    """The same for each output, in the order of OUTPUTS. `declare` sets it where they do not begin together, and then
    leaves `warmup` alone."""
    width: int
    block: int = 0

    def __init__(self, *values: float, dialect: str = "") -> None:
        wanted = ", ".join(parameter.name for parameter in self.PARAMETERS)
        given = [*values, *(parameter.default for parameter in self.PARAMETERS[len(values) :])]
        if len(values) > len(self.PARAMETERS) or None in given:
            raise BadInput(f"{self.NAME} takes ({wanted}), {len(self.PARAMETERS)} in number, not {len(values)}")
        self.values = tuple(
            parameter.check(value, self.NAME)
            for parameter, value in zip(self.PARAMETERS, given, strict=True)
            if value is not None
        )
        self.dialect = dialect or self.DIALECTS[0]
        if self.dialect not in self.DIALECTS:
            raise BadInput(f"{self.NAME} has no dialect {self.dialect!r}; there are {', '.join(self.DIALECTS)}")
        self._text, self._columns = self._named()
        self.declare()
        if self.warmups:
            self.warmup = max(self.warmups)
        else:
            self.warmups = (self.warmup,) * len(self.OUTPUTS)

    def _named(self) -> tuple[str, tuple[str, ...]]:
        """Return what tells this indicator from all others, and the names of its columns."""
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
        """Set `warmup` (or `warmups`), `width` and, where it has one, `block` from `values` and `dialect`.

        Raises BadInput for values that do not go together.
        """

    @abstractmethod
    def step(
        self, state: Float64Array, rows: Place, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Take one bar of each symbol in `rows` and return the outputs, an array each of one value a symbol.

        `index` is each symbol's number of bars before this one. `keep` False leaves the state as it is: the value as
        if the bar closed now. What is returned before the warm-up is over does not matter, but may not be a warning.
        """

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Take many bars of one symbol, whose state is float64[width] and whose first bar here has number `index`."""
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
        """The names of the output columns: `sma_20`, `bbands_20_2_upper`; a fraction's point is written p.

        A dialect that is not the default stands before the output: `ema_20_tradingview`.
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
    """Return the parameter of a moving window.

    1,000 bars, the most, are 8 kB of memory a symbol and input; daily, they are four years.
    """
    return Parameter(name, least, 1_000, default=default)
