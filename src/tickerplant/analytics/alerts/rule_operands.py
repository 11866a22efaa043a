"""The sides of alert rules as indicators, so that the engine that computes indicators computes them too.

A price is an indicator that looks at nothing but the bar; a percent change is one made of another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np

from tickerplant.analytics.indicator import parse
from tickerplant.analytics.indicator.declaration import Count, Indicator, Place, Run
from tickerplant.core import alerts
from tickerplant.core.alerts import PERCENT_CHANGE, Rule, number_of
from tickerplant.core.errors import BadInput
from tickerplant.core.times import Float64Array

_SIDE: Final = re.compile(r"(.*?)(?:\.([A-Za-z_][A-Za-z0-9_]*))?\s*\Z", re.DOTALL)


class Price(Indicator):
    """A column of the bar itself, named by `INPUTS`."""

    PARAMETERS = ()
    SOURCE = "the bar"

    def declare(self) -> None:
        """Nothing is remembered."""
        self.warmup, self.width, self.block = 1, 0, 1

    def step(
        self, state: Float64Array, rows: Place, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Return the column."""
        return (inputs[0],)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Return the column."""
        return Run(inputs[0][None].copy(), None)


class _Open(Price):
    NAME, INPUTS = "OPEN", ("open",)


class _High(Price):
    NAME, INPUTS = "HIGH", ("high",)


class _Low(Price):
    NAME, INPUTS = "LOW", ("low",)


class _Close(Price):
    NAME, INPUTS = "CLOSE", ("close",)


class _Volume(Price):
    NAME, INPUTS = "VOLUME", ("volume",)


_PRICES: Final = {kind.NAME.lower(): kind() for kind in (_Open, _High, _Low, _Close, _Volume)}


class Change(Indicator):
    """The percent by which an output of another indicator has changed over `bars` bars; null where that was 0.

    The state is the other's, and a ring of its last `bars` values.
    """

    NAME = "CHANGE"
    PARAMETERS = ()
    SOURCE = "100 · (x / x[bars ago] − 1)"
    of: Indicator
    output: int
    bars: int

    def declare(self) -> None:
        """Set the sizes: those of the other, and the ring's."""
        self.warmup = self.of.warmup + self.bars
        self.width = self.of.width + self.bars

    def step(
        self, state: Float64Array, rows: Place, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Take one bar of each symbol."""
        own = self.of.width
        now = self.of.step(state[:own], rows, index, inputs, keep=keep)[self.output]
        slot = own + index % self.bars
        before = state[slot, rows]
        there = before != 0.0
        change = np.where(there, 100.0 * (now / np.where(there, before, 1.0) - 1.0), np.nan)
        if keep:
            state[slot, rows] = now
        return (change,)

    def _named(self) -> tuple[str, tuple[str, ...]]:
        name = f"CHANGE({self.of}.{self.output},{self.bars})"
        return name, (name,)


def _change(other: Indicator, of_output: int, over: int) -> Change:
    class _Of(Change):
        INPUTS = other.INPUTS
        of, output, bars = other, of_output, over

    return _Of()


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a rule: an output of an indicator, or (`indicator` None) a number."""

    text: str
    indicator: Indicator | None = None
    output: int = 0
    number: float = 0.0

    @property
    def column(self) -> str:
        """The name of the output's column, "" for a number."""
        return "" if self.indicator is None else self.indicator.columns[self.output]


@lru_cache(maxsize=4096)
def side_of(text: str) -> Side:
    """Return what a side's text names, with the text in the plant's form. Raises BadInput for what nobody knows."""
    number = number_of(text)
    if number is not None:
        return Side(text, number=number)
    if text in _PRICES:
        return Side(text, _PRICES[text])
    found = _SIDE.match(text)
    call, output = (found.group(1), (found.group(2) or "").lower()) if found is not None else (text, "")
    indicator = parse(call)
    if output not in indicator.OUTPUTS:
        named = ", ".join(f"{indicator}.{name}" for name in indicator.OUTPUTS if name) or "one, which has no name"
        raise BadInput(f"{text!r}: the outputs of {indicator} are {named}")
    full = f"{indicator}.{output}" if output else str(indicator)
    return Side(full, indicator, indicator.OUTPUTS.index(output))


@lru_cache(maxsize=4096)
def left_of(text: str, operator: str, bars: int) -> Side:
    """Return the left side of a rule: with `percent_change` the change of what the text names."""
    side = side_of(text)
    if operator != PERCENT_CHANGE or side.indicator is None:
        return side
    return Side(side.text, _change(side.indicator, side.output, bars))


def check_rule(rule: Rule) -> Rule:
    """Return the rule in the plant's form, with known sides. Raises BadInput that says what is wrong."""
    rule = alerts.check(rule)
    left, right = side_of(rule.left), side_of(rule.right)
    if left.text == right.text:
        raise BadInput(f"both sides are {left.text}")
    return msgspec.structs.replace(rule, left=left.text, right=right.text)
