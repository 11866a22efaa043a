"""Splits and dividends: asked for once a day of each symbol, a few symbols a round, and said if they are new."""

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
from tickerplant.market_data.backfill.publish import Publisher, Saying
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.market_data.vendors.port import ACTIONS
from tickerplant.market_data.vendors.scheduler import Blocked, Purpose, RequestScheduler
from tickerplant.store import Store

EVERY_US: Final = DAY_US
DEPTH_US: Final = 3_653 * DAY_US
A_ROUND: Final = 5


class _Place(msgspec.Struct):
    """What the feed's cursor keeps: when splits and dividends of each symbol were asked for last."""

    actions: dict[str, int] = {}


class Actions:
    """Whose turn it is, kept with the feed's cursor."""

    def __init__(self, desk: RequestScheduler, publisher: Publisher, progress: Progress, clock: Clock) -> None:
        self._desk = desk
        self._publisher = publisher
        self._progress = progress
        self._clock = clock
        self._place = _Place()

    def begin(self, place: bytes | None) -> None:
        """Go on from what the cursor keeps; what cannot be read is of another version, and all are asked for again."""
        if place:
            with contextlib.suppress(msgspec.MsgspecError):
                self._place = msgspec.msgpack.decode(place, type=_Place)

    def place(self) -> bytes:
        """Return what the cursor is to keep."""
        return msgspec.msgpack.encode(self._place)

    async def ask(self, writer: FeedWriter, store: Store, symbols: Sequence[str]) -> int:
        """Ask for some of the symbols whose turn it is; return how many requests that were."""
        if not self._desk.providers(ACTIONS):
            return 0
        now_us, asked = self._clock.now_us(), self._place.actions
        due = [one for one in symbols if "/" not in one and now_us - asked.get(one, 0) >= EVERY_US]
        requests = 0
        for symbol in due[:A_ROUND]:
            faults.reach("backfill.asking")
            answer = await self._desk.actions(symbol, now_us - DEPTH_US, now_us, Purpose.HISTORY)
            if isinstance(answer, Blocked):
                if answer.verdict == QUOTA and answer.again_us is not None:
                    break  # credits are back later, for this symbol and those behind it
                # Nobody has it now; its turn comes again tomorrow, and it holds up nobody.
                asked[symbol] = now_us
                continue
            requests += 1
            self._progress.requests += 1
            asked[symbol] = now_us
            splits, dividends = await new_actions(store, answer.splits, answer.dividends)
            faults.reach("backfill.saying")
            await self._publisher.note(writer, Saying(splits=splits, dividends=dividends, place=self.place()))
        return requests


async def new_actions(
    store: Store, splits: pa.RecordBatch | None, dividends: pa.RecordBatch | None
) -> tuple[pa.RecordBatch | None, pa.RecordBatch | None]:
    """Return what the store does not have of these."""
    result: list[pa.RecordBatch | None] = []
    for batch, relation, values in (
        (splits, "splits", ("numerator", "denominator")),
        (dividends, "dividends", ("amount",)),
    ):
        if batch is None or not batch.num_rows:
            result.append(None)
            continue
        known: set[Any] = set()
        async with store.read() as look:
            for symbol in set(batch["symbol"].to_pylist()):
                stored = await getattr(look.actions, relation)(symbol)
                known |= {_key(row, values) for row in stored.to_pylist()}
        keep = [_key(row, values) not in known for row in batch.to_pylist()]
        result.append(batch.filter(pa.array(keep, pa.bool_())) if any(keep) else None)
    return result[0], result[1]


def _key(row: Mapping[str, Any], values: Sequence[str]) -> tuple[Any, ...]:
    return (row["symbol"], row["time"], row["source"], *(row[name] for name in values))
