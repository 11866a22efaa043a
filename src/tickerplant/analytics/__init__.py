"""Bars to indicator values, one set of arrays for all symbols of a partition."""

from tickerplant.analytics.ondemand.batch import compute

__all__ = ["compute"]
