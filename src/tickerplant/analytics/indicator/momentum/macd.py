"""Moving average convergence/divergence.

Formula: line = EMA(fast) − EMA(slow); signal = EMA of the line; histogram = line − signal.

Warm-up: slow + signal − 1 bars. In the dialect `tradingview` the line needs only `slow` bars.

Source: TA-Lib MACD; G. Appel, Technical Analysis: Power Tools for Active Investors (2005).
"""

from __future__ import annotations

from tickerplant.analytics.indicator.declaration import TALIB, TRADINGVIEW, period
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import exponential
from tickerplant.core.errors import BadInput
from tickerplant.core.times import Float64Array


class MACD(Recursive):
    """Moving average convergence/divergence: fast EMA minus slow EMA, the EMA of that line, and their difference.

    In the dialect `talib` the fast average is seeded with the last `fast` closes of the slow average's seed. Both start
    together. The line is null until the signal starts. In `tradingview` each average is seeded with its own first
    closes, and the line needs only `slow` bars.
    """

    NAME = "MACD"
    PARAMETERS = (period(12, "fast"), period(26, "slow"), period(9, "signal", least=1))
    OUTPUTS = ("line", "signal", "histogram")
    SOURCE = "TA-Lib MACD, default compatibility; G. Appel, Technical Analysis: Power Tools for Active Investors (2005)"
    DIALECTS = (TALIB, TRADINGVIEW)

    def declare(self) -> None:
        """Set the warm-ups from the periods and the dialect; the state size is constant.

        Raises BadInput unless fast < slow.
        """
        fast, slow, signal = (int(value) for value in self.values)
        if fast >= slow:
            raise BadInput(f"MACD: fast is {fast}; it must be less than slow, which is {slow}")
        self._fast, self._slow, self._signal = exponential(fast), exponential(slow), exponential(signal)
        self._start = slow - fast if self.dialect == TALIB else 0
        due = slow + signal - 1
        self.warmups = (due if self.dialect == TALIB else slow, due, due)
        self.width = 3

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return line, signal and histogram, in units of price."""
        fast = past.smooth(self._fast, inputs[0], self._start)
        line = fast - past.smooth(self._slow, inputs[0])
        signal = past.smooth(self._signal, line, self._slow.seed - 1)
        return line, signal, line - signal
