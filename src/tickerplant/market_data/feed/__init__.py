"""One ordered stream into `market.prices.raw`.

In: batches of ticks, vendors' bars, corporate actions and rows that could not be read. Out: records of the raw topic,
dead letters, and the cursor of the feed, committed in one transaction.

Begin with `writer.FeedWriter`. `committer` owns the transaction and its recovery. `cursor` is the stored state of a
feed. `validation` checks rows, `dead_letters` encodes rejected rows, `flood` limits their number, and `partitioner`
splits batches. `commands` writes records that belong to no feed: settings, rebuilds, a user's splits and dividends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tickerplant.core.deprecation import renamed
from tickerplant.market_data.feed import dead_letters

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"DeadRow": ("dead_letters.DeadRow", dead_letters.DeadRow)})
