"""Streaming indicators: the state of one partition, updated bar by bar.

`engine.Engine` applies `Bars` batches and returns values. It owns one `interval_engine.IntervalEngine` per interval. An
`IntervalEngine` owns one `indicator_state.IndicatorState` per indicator, and the `history` of closed bars.
`recompute_queue` lists the series that must be computed again from `stored_history`. Begin with `engine`.
"""
