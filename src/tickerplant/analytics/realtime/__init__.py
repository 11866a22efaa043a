"""Streaming indicators.

`engine` owns one partition, `interval_engine` one interval, `indicator_state` one indicator.
"""
