"""Builds bars from ticks and vendors' bars. Only this package writes `market.prices.ohlcv`.

In: one partition of `market.prices.raw`, record by record. Out: bars and passed-on records (`market.prices.ohlcv`),
interval and feed status, differences between sources (`market.status`), and dead letters. `service` does the IO; every
other module is pure.

Seven concepts and their modules:

1. window (`windows`): the ticks of one feed, symbol and minute until the window closes.
2. candidate (`candidates`): a closed bar of one source. Several candidates of one bar compete.
3. winner (`candidates`, `source_priority`): the candidate that is published.
4. roll-up (`rollup`): a bar built from the winners of the next finer interval: 5m from 1m, 1d from 5m.
5. forming bar (`forming`): the state that an open bar would have if it closed now.
6. correction, cancel (`corrections`): a message that changes or removes an earlier trade. The engine recomputes the
   trade's bar from the log.
7. completeness (`completeness`): which bars are complete, and which expected symbols had no bar.

Read `bar_aggregator` first: its docstring describes how these concepts work together. `dispatch` maps raw records to
the methods of `BarAggregator`. `BarAggregator._add_late_ticks` makes a revision from late ticks.
"""
