"""Splits and dividends: requested once a day for each symbol, a few symbols per round.

Only rows that the store does not contain are appended. Symbols of currency pairs (with `/`) are not requested.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa

from tickerplant.core import faults
from tickerplant.core.clock import Clock
from tickerplant.core.schemas import QUOTA
from tickerplant.core.times import DAY_US
from tickerplant.market_data.backfill.progress import Progress
from tickerplant.market_data.backfill.publish import AnswerRecords, Publisher
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.market_data.vendors.port import ACTIONS
from tickerplant.market_data.vendors.scheduler import Blocked, Purpose, RequestScheduler
from tickerplant.store import Store

EVERY_US: Final = DAY_US
DEPTH_US: Final = 3_653 * DAY_US
"""Length of the requested range: ten years."""
SYMBOLS_PER_ROUND: Final = 5


class _ResumeToken(msgspec.Struct):
    """The resume token of the feed: time of the last attempt to request actions, by symbol."""

    actions: dict[str, int] = {}


class ActionsRequester:
    """Requests splits and dividends. The times of the last attempts are stored in the feed's cursor."""

    def __init__(self, scheduler: RequestScheduler, publisher: Publisher, progress: Progress, clock: Clock) -> None:
        self._scheduler = scheduler
        self._publisher = publisher
        self._progress = progress
        self._clock = clock
        self._state = _ResumeToken()

    def restore(self, token: bytes | None) -> None:
        """Restore the state from the feed's cursor. A token that cannot be decoded is ignored: all symbols are due."""
        if token:
            with contextlib.suppress(msgspec.MsgspecError):
                self._state = msgspec.msgpack.decode(token, type=_ResumeToken)

    def resume_token(self) -> bytes:
        """Return the state to store in the feed's cursor."""
        return msgspec.msgpack.encode(self._state)

    async def request_due(self, writer: FeedWriter, store: Store, symbols: Sequence[str]) -> int:
        """Request the splits and dividends of up to SYMBOLS_PER_ROUND due symbols; return the number of requests."""
        if not self._scheduler.providers(ACTIONS):
            return 0
        now_us, requested = self._clock.now_us(), self._state.actions
        due = [symbol for symbol in symbols if "/" not in symbol and now_us - requested.get(symbol, 0) >= EVERY_US]
        requests = 0
        for symbol in due[:SYMBOLS_PER_ROUND]:
            faults.reach("backfill.request.before")
            answer = await self._scheduler.actions(symbol, now_us - DEPTH_US, now_us, Purpose.HISTORY)
            if isinstance(answer, Blocked):
                if answer.verdict == QUOTA and answer.again_us is not None:
                    break  # this symbol and the next ones stay due until credits are available
                # No vendor can answer now. The symbol is due again after a day and does not delay the others.
                requested[symbol] = now_us
                continue
            requests += 1
            self._progress.requests += 1
            requested[symbol] = now_us
            splits, dividends = await new_actions(store, answer.splits, answer.dividends)
            faults.reach("backfill.append.before")
            records = AnswerRecords(splits=splits, dividends=dividends, resume_token=self.resume_token())
            await self._publisher.append_records(writer, records)
        return requests


async def new_actions(
    store: Store, splits: pa.RecordBatch | None, dividends: pa.RecordBatch | None
) -> tuple[pa.RecordBatch | None, pa.RecordBatch | None]:
    """Return the splits and the dividends that are not in the store, each as a batch, or as None if there are none."""
    result: list[pa.RecordBatch | None] = []
    for batch, relation, values in (
        (splits, "splits", ("numerator", "denominator")),
        (dividends, "dividends", ("amount",)),
    ):
        if batch is None or not batch.num_rows:
            result.append(None)
            continue
        known: set[Any] = set()
        async with store.read() as session:
            for symbol in set(batch["symbol"].to_pylist()):
                stored = await getattr(session.actions, relation)(symbol)
                known |= {_key(row, values) for row in stored.to_pylist()}
        new = [_key(row, values) not in known for row in batch.to_pylist()]
        result.append(batch.filter(pa.array(new, pa.bool_())) if any(new) else None)
    return result[0], result[1]


def _key(row: Mapping[str, Any], values: Sequence[str]) -> tuple[Any, ...]:
    return (row["symbol"], row["time"], row["source"], *(row[name] for name in values))
