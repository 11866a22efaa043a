"""The stored bars of a partition, read from the store: the implementation of `realtime.stored_history`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tickerplant.analytics.realtime.series import Series
from tickerplant.analytics.realtime.stored_history import HistorySession
from tickerplant.analytics.splits import Split, splits_of
from tickerplant.core import schemas
from tickerplant.core.errors import StoreError, StoreMismatch
from tickerplant.core.symbols import partition_of
from tickerplant.log.port import EventLog

if TYPE_CHECKING:
    from tickerplant.store.pool import ReadSession, Store


class StoreConnection:
    """One connection to the store for a thread without an event loop, opened on first use."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._runner: asyncio.Runner | None = None
        self._store: Store | None = None

    def run(self, work: Callable[[Store], Any]) -> Any:
        """Run the coroutine that `work` returns, and return its result. Blocks. Raises StoreError."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        if self._store is None:
            from tickerplant.store.pool import Store

            self._store = self._runner.run(Store.open(self._dsn, min_size=1, max_size=1))
        return self._runner.run(work(self._store))

    def close(self) -> None:
        """Close the connection. May be called twice."""
        store, self._store = self._store, None
        runner, self._runner = self._runner, None
        if runner is not None:
            with contextlib.suppress(StoreError):
                if store is not None:
                    runner.run(store.close())
            runner.close()


class StorePartition:
    """The stored bars of one partition. `session` raises StoreMismatch if the store follows another log."""

    def __init__(self, connection: StoreConnection, event_log: EventLog, partition: int) -> None:
        self._connection, self._log, self._partition = connection, event_log, partition

    def session(self) -> AbstractContextManager[HistorySession]:
        """Open a read in one REPEATABLE READ transaction. A StoreError closes the connection."""
        return self._session()

    @contextlib.contextmanager
    def _session(self) -> Iterator[HistorySession]:
        connection = self._connection
        try:
            context, session = connection.run(_open_session)
        except StoreError:
            connection.close()
            raise
        try:
            bound = connection.run(lambda _: session.bound_to())
            identity = self._log.identity()
            if bound is not None and (bound.log_id, bound.generation) != (identity.log_id, identity.generation):
                raise StoreMismatch(
                    f"the store follows log {bound.log_id}, but the service reads log {identity.log_id}; "
                    "use the store of that log"
                )
            positions = connection.run(lambda _: session.positions())
            position = positions.get((schemas.OHLCV, self._partition), 0)
            partitions = self._log.partitions(schemas.OHLCV)
            yield _PartitionSession(connection, session, position, self._partition, partitions)
        except StoreError:
            with contextlib.suppress(StoreError):
                connection.run(lambda _: context.__aexit__(None, None, None))
            connection.close()
            raise
        except BaseException:
            with contextlib.suppress(StoreError):
                connection.run(lambda _: context.__aexit__(None, None, None))
            raise
        else:
            connection.run(lambda _: context.__aexit__(None, None, None))


async def _open_session(store: Store) -> tuple[Any, ReadSession]:
    context = store.read()
    return context, await context.__aenter__()


class _PartitionSession:
    """One read session, limited to the symbols of one partition."""

    def __init__(
        self, connection: StoreConnection, session: ReadSession, position: int, partition: int, partitions: int
    ) -> None:
        self._connection, self._session, self.position = connection, session, position
        self._partition, self._partitions = partition, partitions

    def series(self) -> list[Series]:
        table = self._connection.run(lambda _: self._session.symbols.list())
        names = zip(table.column("symbol").to_pylist(), table.column("intervals").to_pylist(), strict=True)
        return [
            Series(interval, symbol)
            for symbol, intervals in names
            if partition_of(symbol, self._partitions) == self._partition
            for interval in intervals
        ]

    def bars(self, series: Series) -> pa.RecordBatch:
        return self._connection.run(lambda _: self._session.ohlcv.history(series.symbol, series.interval))

    def splits(self) -> list[Split]:
        found = splits_of(self._connection.run(lambda _: self._session.actions.newest_splits()))
        return [split for split in found if partition_of(split.symbol, self._partitions) == self._partition]
