"""Technical indicators and alert rules: bars in, indicator values and alerts out.

Input: `market.prices.ohlcv` (bars, settings, splits, alert rules). Output: `market.analytics` (values) and
`market.alerts`. Begin with `stage` (one partition, pure), then `realtime.engine`. `service` connects the stage to the
log and the store. `indicator` contains the declarations. `ondemand` computes indicators over any bars (`compute`).
"""

from tickerplant.analytics.ondemand.batch import compute

__all__ = ["compute"]
