"""The indicators: their declarations by family, the registry, and the kernels that formulas share.

`declaration.Indicator` is the base class. Most indicators are a `window.Windowed` (a value depends on the last bars
only) or a `recursive.Recursive` (the state depends on all bars). The others combine kernels: `moments`, `extremes`,
`short_windows` and `returns`. Input: columns of bars; output: float64 columns, NaN during the warm-up. Begin with
`declaration`, then read `trend/sma.py` and `momentum/rsi.py`.
"""

from tickerplant.analytics.indicator.registry import FAMILIES, INDICATORS, parse, register

__all__ = ["FAMILIES", "INDICATORS", "parse", "register"]
