"""`coverage`, `feeds`, `dead_letters` and `source_order`: completeness, feeds, unreadable records, source priority."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import TIMESTAMP
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import DAY_US, FOREVER_US, NEVER_US, BoolArray, Int64Array, datetime_of
from tickerplant.store.copy_protocol import stage_rows, table_of
from tickerplant.store.partitions import ensure_partitions, record_arrivals
from tickerplant.store.repositories.ohlcv import relation_of
from tickerplant.store.repositories.ranges import RowReader, in_order, read_numbered, slices_by_name

if TYPE_CHECKING:
    from tickerplant.store.session import Session

MAX_PAYLOAD_BYTES: Final = 64 * 1024
"""Maximum stored bytes of an unreadable payload. The dead letter in the log contains up to `MAX_DEAD_PAYLOAD_BYTES`."""

COVERAGE: Final = pa.schema(
    [
        pa.field("feed", pa.utf8(), nullable=False),
        pa.field("interval", pa.utf8(), nullable=False),
        pa.field("time", TIMESTAMP, nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("expected", pa.int32(), nullable=False),
        pa.field("emitted", pa.int32(), nullable=False),
        pa.field("silent", pa.list_(pa.utf8()), nullable=False),
    ]
)
FEEDS: Final = pa.schema(
    [
        pa.field("feed", pa.utf8(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("state", pa.utf8(), nullable=False),
        pa.field("since", TIMESTAMP),
        pa.field("reason", pa.utf8(), nullable=False),
        pa.field("late_ticks", pa.int64(), nullable=False),
        pa.field("unsupported", pa.int64(), nullable=False),
        pa.field("differences", pa.int64(), nullable=False),
        pa.field("sent_at", TIMESTAMP, nullable=False),
    ]
)
"""Columns of a feed's state in a log partition. `unsupported` is the count of unusable ticks and bars. `differences` is
the count of bars that differ from the bars of another source. These two counts and `late_ticks` are totals since the
store was created.
"""
EXCLUSION_COUNTS: Final = pa.schema(
    [
        pa.field("feed", pa.utf8(), nullable=False),
        pa.field("late_ticks", pa.int64(), nullable=False),
        pa.field("unsupported", pa.int64(), nullable=False),
        pa.field("differences", pa.int64(), nullable=False),
    ]
)
"""The counters of `FEEDS` summed over all partitions, for feeds with a count above 0."""

_INTERVAL_OVERS: Final = pa.schema(
    [
        ("feed", pa.utf8()),
        ("interval", pa.utf8()),
        ("time", TIMESTAMP),
        ("expected", pa.int32()),
        ("emitted", pa.int32()),
        ("silent", pa.utf8()),  # symbols contain no spaces
        ("version", pa.int64()),
        ("whole", pa.bool_()),
    ]
)


def _table_of(overs: Sequence[records.Record]) -> pa.RecordBatch:
    """Return `over` records as rows of `_INTERVAL_OVERS`."""
    headers = [over.header for over in overs if isinstance(over.header, records.Over)]
    columns: list[Sequence[Any]] = [
        [header.feed for header in headers],
        [header.interval for header in headers],
        [header.start_us for header in headers],
        [header.expected for header in headers],
        [header.emitted for header in headers],
        [" ".join(_silent(over.batch)) for over in overs],
        [header.cause for header in headers],
        [header.whole for header in headers],
    ]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, _INTERVAL_OVERS.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_INTERVAL_OVERS)


def _silent(batch: pa.RecordBatch) -> list[str]:
    """Return the expected symbols without a bar."""
    symbols: list[str] = batch.column("symbol").cast(pa.utf8()).filter(pc.invert(batch.column("emitted"))).to_pylist()
    return symbols


@dataclass(slots=True)
class _FeedUpdate:
    """Changes of one feed in a batch of records."""

    first: records.Header
    state: records.FeedState | None = None
    late: int = 0
    unsupported: int = 0
    differences: int = 0


def _day_counts(pairs: Sequence[tuple[int, int]]) -> tuple[Int64Array, Int64Array]:
    found = np.array(pairs, np.int64)
    return found[:, 0], found[:, 1]


class Coverage:
    """Coverage, feed states and dead letters, through one database session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def prepare(self, overs: Sequence[records.Record]) -> None:
        """Create missing partitions for these `over` records, before the transaction."""
        times = np.array(
            [over.header.start_us for over in overs if isinstance(over.header, records.Over)], dtype=np.int64
        )
        await ensure_partitions(self._session, "coverage", times)

    async def put_overs(self, overs: Sequence[records.Record], partition: int) -> None:
        """Store `over` records of one log partition, in a transaction; the newest of each feed and interval wins."""
        newest: dict[tuple[str, str, int], records.Record] = {}
        for over in overs:
            assert isinstance(over.header, records.Over)
            newest[over.header.feed, over.header.interval, over.header.start_us] = over
        times = np.array([start for _, _, start in newest], dtype=np.int64)
        batch = _table_of(list(newest.values()))
        source, arguments = await stage_rows(self._session, "coverage", batch)
        await self._session.execute(
            f"""INSERT INTO coverage AS t (feed, "interval", "time", partition, expected, emitted, silent, version,
                    whole)
                SELECT s.feed, s."interval", s."time", {partition:d}, s.expected, s.emitted,
                    string_to_array(s.silent, ' '), s.version, s.whole FROM {source}
                ON CONFLICT (feed, "interval", "time", partition) DO UPDATE SET expected = excluded.expected,
                    emitted = excluded.emitted, silent = excluded.silent, version = excluded.version,
                    whole = excluded.whole
                WHERE excluded.version >= t.version""",
            *arguments,
        )
        await record_arrivals(self._session, "coverage", partition, times)

    async def put_feeds(
        self,
        states: Sequence[records.FeedState],
        partition: int,
        differences: Sequence[tuple[records.Differences, int]] = (),
    ) -> None:
        """Store feed states in order, in the transaction that advances the position, so that each count is added once.

        The states `late` and `unsupported`, and `differences` (record, count), add to a feed's counters. The feed's
        state remains unchanged.
        """
        updates: dict[str, _FeedUpdate] = {}
        for state in states:
            one = updates.setdefault(state.feed, _FeedUpdate(state))
            if state.state == "late":
                one.late += state.count
            elif state.state == "unsupported":
                one.unsupported += state.count
            else:
                one.state = state
        for header, count in differences:
            updates.setdefault(header.feed, _FeedUpdate(header)).differences += count
        for feed, one in updates.items():
            await self._put_feed(feed, one, partition)

    async def _put_feed(self, feed: str, update: _FeedUpdate, partition: int) -> None:
        state = update.state or records.FeedState(
            sent_at_us=update.first.sent_at_us, cause=update.first.cause, state="unknown", since_us=NEVER_US
        )
        since = None if state.since_us in (NEVER_US, FOREVER_US) else datetime_of(state.since_us)
        await self._session.execute(
            """INSERT INTO feeds AS t (feed, partition, state, since, reason, late_ticks, unsupported, differences,
                   version, sent_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
               ON CONFLICT (feed, partition) DO UPDATE SET
                   state = CASE WHEN $11 THEN excluded.state ELSE t.state END,
                   since = CASE WHEN $11 THEN excluded.since ELSE t.since END,
                   reason = CASE WHEN $11 THEN excluded.reason ELSE t.reason END,
                   late_ticks = t.late_ticks + excluded.late_ticks,
                   unsupported = t.unsupported + excluded.unsupported,
                   differences = t.differences + excluded.differences,
                   version = excluded.version, sent_at = excluded.sent_at""",
            feed,
            partition,
            state.state,
            since,
            state.reason,
            update.late,
            update.unsupported,
            update.differences,
            state.cause,
            datetime_of(state.sent_at_us),
            update.state is not None,
        )

    async def put_dead(self, dead: records.Record, partition: int, offset: int) -> None:
        """Store a dead letter, keyed by its offset in the dead-letter topic."""
        rows = dead.batch.to_pylist()
        await self._session.execute(
            """INSERT INTO dead_letters (partition, "offset", row, from_topic, from_partition, from_offset, reason,
            payload,
                   sent_at)
               SELECT $1, $2, s.row, s.topic, s.partition, s."offset", s.reason, s.payload, $3
               FROM unnest($4::integer[], $5::text[], $6::integer[], $7::bigint[], $8::text[], $9::bytea[])
                   AS s (row, topic, partition, "offset", reason, payload)
               ON CONFLICT DO NOTHING""",
            partition, offset, datetime_of(dead.header.sent_at_us), list(range(len(rows))), [r["topic"] for r in rows],
            [r["partition"] for r in rows], [r["offset"] for r in rows], [r["reason"].replace("\0", "") for r in rows],
            [r["payload"][:MAX_PAYLOAD_BYTES] for r in rows],
        )  # fmt: skip

    async def put_source_order(self, sources: tuple[str, ...], partition: int) -> None:
        """Store the current order of sources. Historical bars compete by this order, also after a restart."""
        await self._session.execute(
            """INSERT INTO source_order VALUES ($1, $2)
               ON CONFLICT (partition) DO UPDATE SET sources = excluded.sources""",
            partition,
            list(sources),
        )

    async def source_orders(self) -> dict[int, tuple[str, ...]]:
        """Return the order of sources by log partition; {} until an order is stored."""
        rows = await self._session.rows("SELECT partition, sources FROM source_order")
        return {row["partition"]: tuple(row["sources"]) for row in rows}

    async def read(
        self, feed: str, interval: str, start_us: int | None = None, end_us: int | None = None, limit: int | None = None
    ) -> pa.Table:
        """Return a feed's completed intervals (`COVERAGE`); `RowReader.read_range` defines bounds and limit."""
        keys = [("feed", feed), ("interval", interval)]
        return await RowReader(self._session, "coverage", COVERAGE).read_range(keys, start_us, end_us, limit)

    async def stored_bars(self, symbol: str, interval: str, start_us: int, end_us: int) -> tuple[Int64Array, BoolArray]:
        """Return the ascending starts in µs, and the completeness, of a symbol's final bars in `[start_us, end_us)`."""
        found = await self.stored_bars_of([symbol], interval, start_us, end_us)
        return found.get(symbol, (np.empty(0, np.int64), np.empty(0, np.bool_)))

    async def stored_bars_of(
        self, symbols: Sequence[str], interval: str, start_us: int, end_us: int
    ) -> dict[str, tuple[Int64Array, BoolArray]]:
        """Return `stored_bars` by symbol, in one query; symbols without final bars in the range are omitted."""
        query = f"""SELECT t."time", n.number * 2 + t.complete::integer
            FROM unnest($1::text[]) WITH ORDINALITY AS n (symbol, number)
            JOIN "{relation_of(interval)}" AS t ON t.symbol = n.symbol
            WHERE t."interval" = $2 AND t.state = 'final' AND t."time" >= $3 AND t."time" < $4"""
        names, times, codes = await read_numbered(
            self._session, query, symbols, interval, datetime_of(start_us), datetime_of(end_us)
        )
        order = in_order(codes >> 1, times)
        times, codes = times[order], codes[order]
        complete = (codes & 1).astype(np.bool_)
        return {symbol: (times[rows], complete[rows]) for symbol, rows in slices_by_name(names, codes >> 1).items()}

    async def counts(
        self, symbols: Sequence[str], interval: str, start_us: int, end_us: int
    ) -> dict[str, tuple[Int64Array, Int64Array]]:
        """Return by symbol the count of complete final bars per UTC day of `[start_us, end_us)`: (days, counts).

        Days are the times of 00:00 UTC in µs, ascending. Days without such a bar are omitted.
        """
        rows = await self._session.rows(
            f"""SELECT symbol, floor(date_part('epoch', "time") / 86400)::bigint AS day, count(*)
                FROM {relation_of(interval)} WHERE symbol = ANY ($1) AND "interval" = $2 AND state = 'final'
                    AND complete AND "time" >= $3 AND "time" < $4
                GROUP BY 1, 2 ORDER BY 1, 2""",
            list(symbols), interval, datetime_of(start_us), datetime_of(end_us),
        )  # fmt: skip
        found: dict[str, list[tuple[int, int]]] = {}
        for row in rows:
            found.setdefault(row[0], []).append((row[1] * DAY_US, row[2]))
        return {symbol: _day_counts(pairs) for symbol, pairs in found.items()}

    async def silent_intervals(
        self, symbols: Sequence[str], interval: str, partition: int, start_us: int, end_us: int
    ) -> dict[str, Int64Array]:
        """Return by symbol the ascending starts of intervals in the range without trades in any covering feed.

        A covering feed was up for the whole interval. The feed lists the expected symbols without trades. A symbol that
        the feed does not list counts as traded, even if the feed never contains that symbol. Symbols without such an
        interval are omitted. All symbols belong to the given log partition.
        """
        # The query returns one row per feed (number 0) and one per listed symbol. The rows are counted here, because
        # the database would sort them or write them to disk.
        query = """SELECT c."time", x.number FROM coverage AS c CROSS JOIN LATERAL (
                SELECT 0::bigint AS number UNION ALL SELECT n.number FROM unnest(c.silent) AS q (symbol)
                JOIN unnest($1::text[]) WITH ORDINALITY AS n (symbol, number) ON n.symbol = q.symbol
            ) AS x
            WHERE c."interval" = $2 AND c.partition = $3 AND c.whole AND c."time" >= $4 AND c."time" < $5"""
        names, times, numbers = await read_numbered(
            self._session, query, symbols, interval, partition, datetime_of(start_us), datetime_of(end_us)
        )
        over, feeds = np.unique(times[numbers == 0], return_counts=True)
        times, numbers = times[numbers > 0], numbers[numbers > 0]
        order = in_order(numbers, times)
        times, numbers = times[order], numbers[order]
        first = np.flatnonzero((np.diff(numbers, prepend=0) > 0) | (np.diff(times, prepend=0) != 0))
        silent = first[np.diff(first, append=len(times)) == feeds[np.searchsorted(over, times[first])]]
        times, numbers = times[silent], numbers[silent]
        return {symbol: times[rows] for symbol, rows in slices_by_name(names, numbers).items()}

    async def feeds(self) -> pa.Table:
        """Return the state of each feed in each log partition (`FEEDS`)."""
        rows = await self._session.rows(
            """SELECT feed, partition, state, date_part('epoch', since), reason, late_ticks, unsupported,
                   differences, date_part('epoch', sent_at)
               FROM feeds ORDER BY feed, partition"""
        )
        return table_of(rows, FEEDS)

    async def is_over(self, symbol: str, interval: str, start_us: int) -> bool:
        """Return whether a feed of the symbol has passed the interval that starts at `start_us`, or a later interval.

        A feed reports each interval when it is over, with the symbols that had no trades in it. A symbol that trades
        again has bars, which show the same. A file reports nothing after its end.
        """
        count = await self._session.value("SELECT count(*) FROM positions WHERE topic = $1", schemas.RAW)
        found = await self._session.value(
            """SELECT EXISTS (SELECT 1 FROM coverage WHERE "interval" = $1 AND "time" >= $2 AND $3 = ANY (silent)
                   AND ($4::integer IS NULL OR partition = $4))""",
            interval,
            datetime_of(start_us),
            symbol,
            partition_of(symbol, count) if count else None,
        )
        return bool(found)

    async def exclusion_counts(self) -> pa.Table:
        """Return the counts of late, unusable and differing ticks and bars by feed (`EXCLUSION_COUNTS`)."""
        rows = await self._session.rows(
            """SELECT feed, sum(late_ticks)::bigint, sum(unsupported)::bigint, sum(differences)::bigint
               FROM feeds GROUP BY feed HAVING sum(late_ticks + unsupported + differences) > 0 ORDER BY feed"""
        )
        return table_of(rows, EXCLUSION_COUNTS)
