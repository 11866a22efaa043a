"""Base class for indicators of the last few bars. `step` and `run` share one formula.

The state is a ring of the last `length` bars of each input, or of the series that `kept` derives from the inputs. A
formula reads bars through `At`: `at(i, lag)` is input `i`, in the order of `INPUTS`, `lag` bars ago. A formula consists
of elementwise operations and processes the lags in order. Many symbols at one bar and many bars of one symbol therefore
give the same bits. Nothing is subtracted from a running sum. The cost of a step is proportional to the count of lags.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, RowIndex, Run
from tickerplant.analytics.indicator.ring_index import read, write
from tickerplant.core.times import Float64Array

At: TypeAlias = Callable[[int, int], Float64Array]
"""A function from (index of the input, lag in bars) to the values at that bar; zeros before the first bar."""


class Windowed(Indicator):
    """A pure function of the last `length` bars, the current one included. `declare` calls `looks_back`."""

    KEPT: ClassVar[int] = 0
    """Count of series that `kept` returns; 0 if `kept` is not overridden."""

    length: int

    def kept(self, inputs: tuple[Float64Array, ...]) -> tuple[Float64Array, ...]:
        """Return the series to retain, each computed from a bar's own columns. The default returns the inputs."""
        return inputs

    @abstractmethod
    def formula(self, at: At) -> tuple[Float64Array, ...]:
        """Return one array per output. Must not modify the arrays of `at`, nor warn for missing bars (zeros)."""

    def looks_back(self, bars: int) -> None:
        """Set warm-up and state size for a formula that reads `bars` bars, the current one included."""
        self.length = self.warmup = self.block = bars
        self.width = bars * (self.KEPT or len(self.INPUTS))

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol by `formula`; return the outputs."""
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
        """Process many bars of one symbol by `formula`; return the outputs."""
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
