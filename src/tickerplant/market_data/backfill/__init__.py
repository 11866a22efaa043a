"""The backfill: it finds the bars that are missing in the store, and fetches them from vendors.

In: the calendar's expected bars, the bars and answers in the store, users' orders, and the gaps that a stream reports.
Out: records of the feed `backfill` in `market.prices.raw`: bars, splits, dividends, and answer records.

Begin with `manager.BackfillManager`, the loop:

- `targets` defines the bars that should be stored; `orders` adds the bars that users ordered.
- `gap_index` finds the missing bars, with one `series` for each symbol and interval.
- `rounds` and `planner` choose the next request; `vendor_penalties` lists the vendors that get no requests for a
series.
- `ingest` checks an answer, and `publish` appends it. `actions` requests splits and dividends.
- `progress` is stored in the log for other processes.
"""

from tickerplant.market_data.backfill.manager import BackfillManager
from tickerplant.market_data.backfill.progress import Progress
from tickerplant.market_data.backfill.targets import BackfillPlan, Depth, Order, WantedRange

__all__ = ["BackfillManager", "BackfillPlan", "Depth", "Order", "Progress", "WantedRange"]
