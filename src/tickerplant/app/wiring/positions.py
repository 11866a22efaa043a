"""The progress of the services: positions in the store, committed offsets and end offsets in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tickerplant.app.ingest_progress import Applied, Positions
from tickerplant.app.wiring.log import ends

if TYPE_CHECKING:
    from tickerplant.log.port import EventLog
    from tickerplant.store import Store


class StorePositions:
    """Reads the store's position of each partition.

    Holds one connection open, because it is polled often. Belongs to one thread.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._runner = asyncio.Runner()
        self._store: Store | None = None

    def applied(self) -> dict[tuple[str, int], Applied]:
        """Return the applied positions, by topic and partition."""
        return self._runner.run(self._read())

    async def _read(self) -> dict[tuple[str, int], Applied]:
        from tickerplant.store import Store

        if self._store is None:
            self._store = await Store.open(self._dsn, min_size=1, max_size=1)
        found = await self._store.applied()
        return {partition: Applied(applied.position, applied.cause) for partition, applied in found.items()}

    def __enter__(self) -> StorePositions:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._store is not None:
            self._runner.run(self._store.close())
        self._runner.close()


def read_positions(log: EventLog, store: StorePositions) -> Positions:
    """Return the positions of the store, of aggregation and of analytics, and the end offsets of the log."""
    committed = {
        group: {(tp.topic, tp.partition): position for tp, position in log.committed(group).items()}
        for group in ("aggregation", "analytics")
    }
    return Positions(store.applied(), committed, ends(log, read_uncommitted=True))


def queued_series(log: EventLog, partitions: Iterable[int], symbol: str | None) -> int:
    """Return the count of series that analytics must recompute, of `symbol`, or of all symbols if `symbol` is None."""
    from tickerplant.core.schemas import STATE_ANALYTICS
    from tickerplant.core.streams import QUEUED_KEY

    stored = [log.get_state(STATE_ANALYTICS, partition, QUEUED_KEY) for partition in partitions]
    values = [value for value in stored if value is not None]
    if not values:
        return 0
    import msgspec

    from tickerplant.analytics.realtime.recompute_queue import QueuedSeries

    return sum(msgspec.json.decode(value, type=QueuedSeries).of(symbol) for value in values)
