"""Keltner channels.

Formula: EMA(period) of the close ± ranges · ATR(range).

Warm-up: `period` bars for the middle. The bands need as many bars as the slower of EMA and ATR.

Source: L. B. Raschke's form of C. Keltner, How to Make Money in Commodities (1960); StockCharts, TradingView.
"""

from __future__ import annotations

from tickerplant.analytics.indicator.declaration import TALIB, TRADINGVIEW, Parameter, period
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import exponential, wilder
from tickerplant.analytics.indicator.volatility.atr import first_range_index, true_range
from tickerplant.core.times import Float64Array


class KELTNER(Recursive):
    """Keltner channels: the EMA of the close over `period`, ± `ranges` average true ranges over `range` bars.

    The dialects are those of ATR.
    """

    NAME = "KELTNER"
    PARAMETERS = (period(20), period(10, "range", least=1), Parameter("ranges", 0.01, 100, whole=False, default=2))
    INPUTS = ("high", "low", "close")
    OUTPUTS = ("upper", "middle", "lower")
    SOURCE = "L. B. Raschke's form of C. Keltner, How to Make Money in Commodities (1960); StockCharts, TradingView"
    DIALECTS = (TALIB, TRADINGVIEW)

    def declare(self) -> None:
        """Set the warm-ups from the periods and the dialect; the state size is constant."""
        self._middle, self._range = exponential(int(self.values[0])), wilder(int(self.values[1]))
        self._start = first_range_index(self.dialect)
        middle = self._middle.seed
        band = max(middle, self._range.seed + self._start)
        self.warmups = (band, middle, band)
        self.width = 3

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return upper band, middle and lower band, in units of price."""
        middle = past.smooth(self._middle, inputs[2])
        distance = self.values[2] * past.smooth(self._range, true_range(past, *inputs), self._start)
        return middle + distance, middle, middle - distance
