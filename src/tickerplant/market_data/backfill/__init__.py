"""The backfill: what is missing of history, and every hole that a disconnection left, fetched from vendors.

`series` knows what is missing of one symbol, `ledger` of all, `plan` cuts requests out of it, `taking` makes of answers
what `publish` brings into the log, `setbacks` remembers whom not to ask, `actions` asks for splits and dividends, and
`manager` runs all of it.
"""

from tickerplant.market_data.backfill.manager import BackfillManager
from tickerplant.market_data.backfill.progress import Order, Progress
from tickerplant.market_data.backfill.series import Depth, Wanted

__all__ = ["BackfillManager", "Depth", "Order", "Progress", "Wanted"]
