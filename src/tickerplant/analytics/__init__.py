"""Technical indicators and alert rules: bars in, indicator values and alerts out.

Input: `market.prices.ohlcv` (bars, marks and ends of feeds, settings, splits, alert rules). Output: `market.analytics`
(values, and the marks and ends), `market.alerts`, and dead letters. Begin with `stage` (one partition, pure), then
`realtime.engine`. `service` connects the stage to the log and the store. `indicator` contains the declarations, and
`alerts` the evaluation of alert rules. `ondemand` computes indicators over any bars (`compute`).
"""

from tickerplant.analytics.ondemand.batch import compute

__all__ = ["compute"]
