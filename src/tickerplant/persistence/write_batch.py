"""One database transaction of persistence: rows and their log positions. It executes Steps 2 to 5 of `service`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from tickerplant.core import faults
from tickerplant.core.rules import DEFAULT_RULES
from tickerplant.core.sources import SourceOrder
from tickerplant.persistence.batching import WriteBatch
from tickerplant.store.repositories.actions import Actions
from tickerplant.store.repositories.alerts import Firings
from tickerplant.store.repositories.analytics import Analytics
from tickerplant.store.repositories.answers import VendorAnswers
from tickerplant.store.repositories.coverage import Coverage
from tickerplant.store.repositories.ohlcv import Ohlcv
from tickerplant.store.repositories.positions import Advance, Log, advance_all
from tickerplant.store.repositories.prices import Prices, sorted_ticks
from tickerplant.store.session import Session


async def apply(
    session: Session, log: Log, batches: Sequence[WriteBatch], sources: Mapping[int, Sequence[str]]
) -> None:
    """Write these batches in one database transaction. `sources` contains the order of sources by partition.

    A partition without an order uses the default order. Raises PositionConflict, and writes no rows, if a position
    differs from the expected position.
    """
    ticks = [batch.ticks for batch in batches if batch.ticks is not None]
    prices = sorted_ticks(pa.concat_tables(ticks).unify_dictionaries()) if ticks else None
    # Step 2
    if prices is not None:
        await Prices(session).prepare(prices)
    for batch in batches:
        await _prepare(session, batch)
    faults.reach("persistence.commit.before")
    async with session.transaction():
        # Step 3
        steps = [
            Advance(
                *batch.source, batch.change.expected, batch.change.position, batch.change.cause, batch.change.resume
            )
            for batch in batches
        ]
        await advance_all(session, log, steps)
        # Step 4
        if prices is not None:
            await Prices(session).append(prices, next(w.source.partition for w in batches if w.ticks is not None))
        await _upsert_bars(session, batches, sources)
        await _upsert_values(session, batches)
        for batch in batches:
            await _upsert(session, batch)
        faults.reach("persistence.commit.within")
        # Step 5: leaving the block
    faults.reach("persistence.commit.after")


async def _upsert_bars(session: Session, batches: Sequence[WriteBatch], sources: Mapping[int, Sequence[str]]) -> None:
    """Upsert bars with one statement per order of sources."""
    by_order: dict[tuple[str, ...], list[WriteBatch]] = {}
    for batch in batches:
        if batch.bars is not None:
            order = batch.sources or sources.get(batch.source.partition, DEFAULT_RULES.sources)
            by_order.setdefault(tuple(order), []).append(batch)
    for order, some in by_order.items():
        bars = _concatenated([batch.bars for batch in some if batch.bars is not None])
        await Ohlcv(session).upsert(bars, some[0].source.partition, sources=SourceOrder(order))


async def _upsert_values(session: Session, batches: Sequence[WriteBatch]) -> None:
    """Upsert values with one statement per set of columns."""
    by_columns: dict[tuple[str, ...], list[pa.Table]] = {}
    first = next((batch.source.partition for batch in batches if batch.values), 0)
    for batch in batches:
        for values in batch.values:
            by_columns.setdefault(tuple(values.schema.names), []).append(values)
    for tables in by_columns.values():
        await Analytics(session).upsert(_concatenated(tables), first)


async def _upsert(session: Session, batch: WriteBatch) -> None:
    partition = batch.source.partition
    coverage, actions = Coverage(session), Actions(session)
    if batch.sources is not None:
        await coverage.put_source_order(batch.sources, partition)
    for splits, version in batch.splits:
        await actions.put_splits(splits, version)
    for dividends, version in batch.dividends:
        await actions.put_dividends(dividends, version)
    for answers, version in batch.answers:
        await VendorAnswers(session).put(answers, version)
    if batch.interval_overs:
        await coverage.put_overs(batch.interval_overs, partition)
    if batch.feeds or batch.differences:
        await coverage.put_feeds(batch.feeds, partition, batch.differences)
    for alerts, fired_us in batch.alerts:
        await Firings(session).put(alerts, fired_us)
    for dead, offset in batch.dead:
        await coverage.put_dead(dead, partition, offset)


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables).unify_dictionaries()


async def _prepare(session: Session, batch: WriteBatch) -> None:
    if batch.bars is not None:
        await Ohlcv(session).prepare(batch.bars)
    for values in batch.values:
        await Analytics(session).prepare(values)
    if batch.interval_overs:
        await Coverage(session).prepare(batch.interval_overs)
