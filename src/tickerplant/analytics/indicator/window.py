"""Indicators that look at the last few bars alone: one formula, of which the step and the run both are made.

The state is a ring of the last `length` bars of each input, or of what `kept` makes of the inputs. A formula sees the
bars through `At`: `at(i, lag)` is input `i` (in the order of `INPUTS`), `lag` bars ago. It is made of elementwise
operations alone, the lags taken one after the other, so that many symbols side by side and many bars in a row give the
same bits, and nothing is ever subtracted from a running sum. A step costs as many operations as the formula has lags.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Place, Run
from tickerplant.analytics.indicator.ring_index import read, write
from tickerplant.core.times import Float64Array

At: TypeAlias = Callable[[int, int], Float64Array]
"""(number of the input, lag in bars) to the values then; zeros for a lag before the first bar."""


class Windowed(Indicator):
    """A pure function of the last `length` bars, this one among them. `declare` calls `looks_back`."""

    KEPT: ClassVar[int] = 0
    """How many series `kept` returns; 0 where it is left out."""

    length: int

    def kept(self, inputs: tuple[Float64Array, ...]) -> tuple[Float64Array, ...]:
        """Return the series to remember, each of a bar's own columns alone: the inputs unless said otherwise."""
        return inputs

    @abstractmethod
    def formula(self, at: At) -> tuple[Float64Array, ...]:
        """Return the outputs. May not write to what `at` gives, nor warn where bars are missing (and zeros instead)."""

    def looks_back(self, bars: int) -> None:
        """Set the sizes that follow from the number of bars that the formula sees; its value is due from then on."""
        self.length = self.warmup = self.block = bars
        self.width = bars * (self.KEPT or len(self.INPUTS))

    def step(
        self, state: Float64Array, rows: Place, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Take one bar of each symbol."""
        length = self.length
        inputs = self.kept(inputs)

        def at(number: int, lag: int) -> Float64Array:
            if lag == 0:
                return inputs[number]
            return read(state, number * length + (index - lag) % length, rows)

        outputs = self.formula(at)
        if keep:
            slot = index % length
            for number, values in enumerate(inputs):
                write(state, number * length + slot, rows, values)
        return outputs

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Take many bars of one symbol."""
        length, bars = self.length, len(inputs[0])
        inputs = self.kept(inputs)
        rings = state.reshape(len(inputs), length)
        before = np.arange(index - length, index) % length
        series = [np.concatenate([ring[before], values]) for ring, values in zip(rings, inputs, strict=True)]

        def at(number: int, lag: int) -> Float64Array:
            return series[number][length - lag : length - lag + bars]

        outputs = np.array(self.formula(at)).reshape(len(self.OUTPUTS), bars)
        after = np.arange(index + bars - length, index + bars) % length
        for ring, values in zip(rings, series, strict=True):
            ring[after] = values[len(values) - length :]
        return Run(outputs, None)
