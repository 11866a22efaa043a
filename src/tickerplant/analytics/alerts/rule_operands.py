"""The operands of alert rules as indicators, so that one engine computes all of them.

A price is an indicator of the bar itself. A percent change is an indicator that wraps another indicator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np

from tickerplant.analytics.indicator import parse
from tickerplant.analytics.indicator.declaration import Count, Indicator, RowIndex, Run
from tickerplant.core import alerts
from tickerplant.core.alerts import PERCENT_CHANGE, Rule, number_of
from tickerplant.core.errors import BadInput
from tickerplant.core.times import Float64Array

_OPERAND: Final = re.compile(r"(.*?)(?:\.([A-Za-z_][A-Za-z0-9_]*))?\s*\Z", re.DOTALL)


class Price(Indicator):
    """One column of the bar, named by `INPUTS`."""

    PARAMETERS = ()
    SOURCE = "the bar"

    def declare(self) -> None:
        """Set a warm-up of one bar and no state."""
        self.warmup, self.width, self.block = 1, 0, 1

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Return the price or volume of each symbol's bar, unchanged."""
        return (inputs[0],)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Return the price or volume of each bar, unchanged."""
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
    """Percent change of another indicator's output over `bars` bars; null if the earlier value was 0.

    The change is relative to the absolute value of the earlier value. A rise of a negative value is therefore positive:
    from -40 to -30 is +25 percent, and from -10 to 5 is +150 percent.

    The state contains the state of the other indicator (`of`), then a ring of its last `bars` values.
    """

    NAME = "CHANGE"
    PARAMETERS = ()
    SOURCE = "100 · (x − x[bars ago]) / |x[bars ago]|"
    of: Indicator
    output: int
    bars: int

    def declare(self) -> None:
        """Set warm-up and state size: those of the other indicator, plus `bars` bars and the ring."""
        self.warmup = self.of.warmup + self.bars
        self.width = self.of.width + self.bars

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return the change in percent."""
        own = self.of.width
        now = self.of.step(state[:own], rows, index, inputs, keep=keep)[self.output]
        slot = own + index % self.bars
        before = state[slot, rows]
        known = before != 0.0
        # Sign times ratio keeps the bits of positive prices: 15 / 10 is exactly 50 percent.
        ratio = now / np.where(known, before, 1.0) - 1.0
        change = np.where(known, np.copysign(100.0, before) * ratio, np.nan)
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
class Operand:
    """One operand of a rule: an output of an indicator, or, if `indicator` is None, a number."""

    text: str
    indicator: Indicator | None = None
    output: int = 0
    number: float = 0.0

    @property
    def column(self) -> str:
        """Return the name of the value column; "" for a number."""
        return "" if self.indicator is None else self.indicator.columns[self.output]


@lru_cache(maxsize=4096)
def operand_of(text: str) -> Operand:
    """Return the operand in canonical form. Raises BadInput for an unknown name or output."""
    number = number_of(text)
    if number is not None:
        return Operand(text, number=number)
    if text in _PRICES:
        return Operand(text, _PRICES[text])
    found = _OPERAND.match(text)
    call, output = (found.group(1), (found.group(2) or "").lower()) if found is not None else (text, "")
    indicator = parse(call)
    if output not in indicator.OUTPUTS:
        named = ", ".join(f"{indicator}.{name}" for name in indicator.OUTPUTS if name) or str(indicator)
        raise BadInput(f"{text!r} is not an output of {indicator}; use {named}")
    full = f"{indicator}.{output}" if output else str(indicator)
    return Operand(full, indicator, indicator.OUTPUTS.index(output))


@lru_cache(maxsize=4096)
def left_operand(text: str, operator: str, bars: int) -> Operand:
    """Return the left operand of a rule. The operator `percent_change` wraps its indicator in a `Change`."""
    operand = operand_of(text)
    if operator != PERCENT_CHANGE or operand.indicator is None:
        return operand
    return Operand(operand.text, _change(operand.indicator, operand.output, bars))


def operands(rule: Rule) -> tuple[Operand, Operand]:
    """Return the left and the right operand. Raises BadInput for an unknown operand."""
    return left_operand(rule.left, rule.operator, rule.bars), operand_of(rule.right)


def check_rule(rule: Rule) -> Rule:
    """Return the rule in canonical form, with valid operands. Raises BadInput with the cause."""
    rule = alerts.check(rule)
    left, right = operand_of(rule.left), operand_of(rule.right)
    if left.text == right.text:
        raise BadInput(f"both operands are {left.text}; use two different operands")
    return msgspec.structs.replace(rule, left=left.text, right=right.text)
