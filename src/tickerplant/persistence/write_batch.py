"""One database transaction of persistence: positions, and the rows that belong to them. Steps 2 to 5 of `service`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from tickerplant.core import faults
from tickerplant.core.rules import DEFAULT_RULES
from tickerplant.core.sources import SourceOrder
from tickerplant.persistence.batching import Work
from tickerplant.store.pool import Session
from tickerplant.store.repositories.actions import Actions
from tickerplant.store.repositories.alerts import Firings
from tickerplant.store.repositories.analytics import Analytics
from tickerplant.store.repositories.answers import VendorAnswers
from tickerplant.store.repositories.coverage import Coverage
from tickerplant.store.repositories.ohlcv import Ohlcv
from tickerplant.store.repositories.positions import Advance, Log, advance_all
from tickerplant.store.repositories.prices import Prices, sorted_ticks


async def apply(session: Session, log: Log, works: Sequence[Work], sources: Mapping[int, Sequence[str]]) -> None:
    """Write these works in one database transaction. `sources`: the order in force, by partition.

    Raises PositionConflict, and nothing is written, where a position is not where a work expects it.
    """
    ticks = [work.ticks for work in works if work.ticks is not None]
    prices = sorted_ticks(pa.concat_tables(ticks).unify_dictionaries()) if ticks else None
    # Step 2
    if prices is not None:
        await Prices(session).prepare(prices)
    for work in works:
        await _prepare(session, work)
    faults.reach("persistence.commit.before")
    async with session.transaction():
        # Step 3
        steps = [
            Advance(*work.source, work.move.expected, work.move.position, work.move.cause, work.move.resume)
            for work in works
        ]
        await advance_all(session, log, steps)
        # Step 4
        if prices is not None:
            await Prices(session).append(prices, next(w.source.partition for w in works if w.ticks is not None))
        await _upsert_bars(session, works, sources)
        await _upsert_values(session, works)
        for work in works:
            await _upsert(session, work)
        faults.reach("persistence.commit.within")
        # Step 5: leaving the block
    faults.reach("persistence.commit.after")


async def _upsert_bars(session: Session, works: Sequence[Work], sources: Mapping[int, Sequence[str]]) -> None:
    """One statement for the bars of all partitions that are under one order of sources."""
    by_order: dict[tuple[str, ...], list[Work]] = {}
    for work in works:
        if work.bars is not None:
            order = work.sources or sources.get(work.source.partition, DEFAULT_RULES.sources)
            by_order.setdefault(tuple(order), []).append(work)
    for order, some in by_order.items():
        bars = _joined([work.bars for work in some if work.bars is not None])
        await Ohlcv(session).upsert(bars, some[0].source.partition, sources=SourceOrder(order))


async def _upsert_values(session: Session, works: Sequence[Work]) -> None:
    """One statement for the values of all partitions that have the same columns."""
    by_columns: dict[tuple[str, ...], list[pa.Table]] = {}
    first = next((work.source.partition for work in works if work.values), 0)
    for work in works:
        for values in work.values:
            by_columns.setdefault(tuple(values.schema.names), []).append(values)
    for tables in by_columns.values():
        await Analytics(session).upsert(_joined(tables), first)


async def _upsert(session: Session, work: Work) -> None:
    partition = work.source.partition
    coverage, actions = Coverage(session), Actions(session)
    if work.sources is not None:
        await coverage.put_source_order(work.sources, partition)
    for splits, version in work.splits:
        await actions.put_splits(splits, version)
    for dividends, version in work.dividends:
        await actions.put_dividends(dividends, version)
    for answers, version in work.answers:
        await VendorAnswers(session).put(answers, version)
    if work.overs:
        await coverage.put_overs(work.overs, partition)
    if work.feeds or work.differences:
        await coverage.put_feeds(work.feeds, partition, work.differences)
    for alerts, fired_us in work.alerts:
        await Firings(session).put(alerts, fired_us)
    for dead, offset in work.dead:
        await coverage.put_dead(dead, partition, offset)


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables).unify_dictionaries()


async def _prepare(session: Session, work: Work) -> None:
    if work.bars is not None:
        await Ohlcv(session).prepare(work.bars)
    for values in work.values:
        await Analytics(session).prepare(values)
    if work.overs:
        await Coverage(session).prepare(work.overs)
