"""Status of every expected bar of many symbols: stored, or the reason why it is missing.

Inputs are stored bars, vendors' answers and three facts about feeds. A completed interval of a feed lists the expected
symbols without trades. A live feed that is up records every minute of a session. A missing minute means that the feed
was down. A feed in state `down` has been down since its last recorded minute. A feed belongs to a symbol if it lists
the symbol as silent. It also belongs to the symbol if it is the source of a bar in the range or of the last earlier
bar.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tickerplant.core import schemas
from tickerplant.core.coverage import Answers, Statuses, classify, expected
from tickerplant.core.errors import BadInput
from tickerplant.core.interval import Interval, parse
from tickerplant.core.sessions import Calendar
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import MINUTE_US, BoolArray, Int64Array, datetime_of, micros_of
from tickerplant.store.copy_protocol import read_numbers
from tickerplant.store.repositories.answers import VendorAnswers
from tickerplant.store.repositories.ohlcv import relation_of

if TYPE_CHECKING:
    from tickerplant.store.session import Session

GRACE_US: Final = MINUTE_US
"""Microseconds from the end of a bar until it counts as missing. Covers lateness, source priority and the store's
delay."""
AT_ONCE: Final = 64
"""Maximum symbols per query."""
MAX_BARS_AT_ONCE: Final = 2_000_000
"""Maximum intervals of the symbols of one query, unless one symbol has more. 2,000,000 bars need 100 MB."""

MAX_BARS: Final = 2_000_000
"""Maximum intervals of a range, including closed hours: a year of minutes is half a million."""
MAX_BARS_OF_ALL: Final = 20_000_000
"""Maximum intervals of all symbols: 500 symbols have 3.6 million minutes in five sessions round the clock."""

Span = tuple[int, int]


@dataclass(slots=True)
class _Feed:
    """Times at which a live feed was up in one log partition: ordered pieces within the known range `[begin, end)`."""

    begin_us: int
    end_us: int
    pieces: list[Span] = field(default_factory=list)

    def covers(self, starts: Int64Array, ends: Int64Array) -> tuple[BoolArray, BoolArray]:
        """Return two masks of ranges: the feed was up throughout; the range is within the known range."""
        known: BoolArray = (starts >= self.begin_us) & (ends <= self.end_us)
        if not self.pieces:
            return np.zeros(len(starts), np.bool_), known
        begins, until = np.array(self.pieces, np.int64).T
        at = np.searchsorted(begins, starts, "right") - 1
        return (at >= 0) & (ends <= until[at]), known


class CoverageStatuses:
    """Coverage statuses, through one database session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def symbols(self) -> list[str]:
        """Return every symbol with closed bars or vendor answers, sorted."""
        rows = await self._session.rows("SELECT symbol FROM symbols UNION SELECT symbol FROM answers ORDER BY 1")
        return [row["symbol"] for row in rows]

    async def of(
        self,
        calendars: Mapping[str, Calendar],
        interval: str,
        start_us: int,
        end_us: int,
        now_us: int,
        *,
        extended_hours: bool = False,
    ) -> dict[str, Statuses]:
        """Return for each symbol of `calendars` the status of every bar expected in `[start_us, end_us)`.

        A daily bar ends with the extended session if `extended_hours` is set. Raises the errors of
        `core.coverage.expected`, and BadInput for more than `MAX_BARS` per symbol or `MAX_BARS_OF_ALL` in total.
        """
        groups = self._groups(calendars, interval, start_us, end_us, now_us, extended_hours=extended_hours)
        return {symbol: statuses async for group in groups for symbol, statuses in group.items()}

    async def counts(
        self,
        calendars: Mapping[str, Calendar],
        interval: str,
        start_us: int,
        end_us: int,
        now_us: int,
        *,
        extended_hours: bool = False,
    ) -> dict[str, dict[str, int]]:
        """Return for each symbol of `calendars` the count of bars by status. Has the arguments and errors of `of`.

        Needs the memory of `MAX_BARS_AT_ONCE` bars, for any number of symbols.
        """
        groups = self._groups(calendars, interval, start_us, end_us, now_us, extended_hours=extended_hours)
        return {symbol: statuses.counts() async for group in groups for symbol, statuses in group.items()}

    async def _groups(
        self,
        calendars: Mapping[str, Calendar],
        interval: str,
        start_us: int,
        end_us: int,
        now_us: int,
        *,
        extended_hours: bool,
    ) -> AsyncIterator[dict[str, Statuses]]:
        """Yield the statuses by symbol, a group of symbols at a time."""
        step = parse(interval)
        _check(step, len(calendars), start_us, end_us)
        starts, over = _expected(calendars, step, start_us, end_us, now_us, extended_hours=extended_hours)
        count = await self._session.value("SELECT count(*) FROM positions WHERE topic = $1", schemas.RAW)
        symbols = [*calendars]
        # The number of partitions is unknown until the log's first record is applied. Until then, the silent intervals
        # of all partitions are read, and no feed counts as up or down.
        partition = {symbol: partition_of(symbol, count) for symbol in symbols} if count else {}
        feeds = await self._feeds(start_us, end_us, now_us, partition)
        longest = max((len(each) for each in starts.values()), default=0)
        at_once = max(1, min(AT_ONCE, MAX_BARS_AT_ONCE // max(1, longest)))
        for at in range(0, len(symbols), at_once):
            some = symbols[at : at + at_once]
            found: dict[str, Statuses] = {}
            answers = await VendorAnswers(self._session).read(some, step.name, start_us, end_us)
            have = await self._have(some, step, start_us, end_us)
            silent = await self._silent(some, step, start_us, end_us, partition)
            theirs = await self._feeds_of(some, step, start_us, end_us, partition) if feeds else {}
            for number, symbol in enumerate(some):
                calendar = calendars[symbol]
                expected_here = starts[calendar.name]
                mine = [
                    feeds[key]
                    for feed in theirs.get(symbol, ())
                    if symbol in partition and (key := (feed, partition[symbol])) in feeds
                ]
                down = _down(mine, calendar, step, expected_here)
                quiet, covered = silent[number]
                # A daily `over` record does not show whether the feed was up; the feed's minutes show this.
                silent_starts = quiet[covered] if step.is_intraday else np.setdiff1d(quiet, down)
                found[symbol] = classify(
                    expected_here,
                    *have[number],
                    answers.get(symbol, Answers.none()),
                    silent=silent_starts,
                    down=np.concatenate([down, quiet[~covered]]),
                    over_us=over[calendar.name],
                )
            yield found

    async def _have(
        self, symbols: Sequence[str], step: Interval, start_us: int, end_us: int
    ) -> list[tuple[Int64Array, BoolArray]]:
        """Return the starts of final bars in microseconds, by symbol, and whether each is complete."""
        query = f"""SELECT t."time", n.number * 2 + t.complete::integer
            FROM unnest($1::text[]) WITH ORDINALITY AS n (symbol, number)
            JOIN "{relation_of(step.name)}" AS t ON t.symbol = n.symbol
            WHERE t."interval" = $2 AND t.state = 'final' AND t."time" >= $3 AND t."time" < $4"""
        return await self._by_symbol(query, symbols, step, start_us, end_us)

    async def _silent(
        self, symbols: Sequence[str], step: Interval, start_us: int, end_us: int, partition: Mapping[str, int]
    ) -> list[tuple[Int64Array, BoolArray]]:
        """Return by symbol the starts of intervals without trades in a feed, and whether a feed was up throughout."""
        query = """SELECT c."time", n.number * 2 + bool_or(c.whole)::integer
            FROM coverage AS c CROSS JOIN LATERAL unnest(c.silent) AS s (symbol)
            JOIN unnest($1::text[]) WITH ORDINALITY AS n (symbol, number) ON n.symbol = s.symbol
            WHERE c."interval" = $2 AND c."time" >= $3 AND c."time" < $4
                AND ($5::integer[] IS NULL OR c.partition = ANY ($5)) GROUP BY c."time", n.number"""
        return await self._by_symbol(query, symbols, step, start_us, end_us, _partitions_of(partition, symbols))

    async def _by_symbol(
        self, query: str, symbols: Sequence[str], step: Interval, start_us: int, end_us: int, *more: Any
    ) -> list[tuple[Int64Array, BoolArray]]:
        """Return (time, flag) by symbol, for a query that returns times and the numbers 2 · ordinal + flag."""
        times, codes = await read_numbers(
            self._session, query, 0, [*symbols], step.name, datetime_of(start_us), datetime_of(end_us), *more
        )
        order = np.argsort(codes >> 1, kind="stable")
        times, codes = times[order], codes[order].astype(np.int64)
        edges = np.searchsorted(codes >> 1, np.arange(1, len(symbols) + 2))
        flags = (codes & 1).astype(np.bool_)
        return [(times[low:high], flags[low:high]) for low, high in itertools.pairwise(edges)]

    async def _feeds(
        self, start_us: int, end_us: int, now_us: int, partition: Mapping[str, int]
    ) -> dict[tuple[str, int], _Feed]:
        """Return the times at which live feeds were up, by (feed, log partition), derived from their minutes."""
        rows = await self._session.rows(
            """SELECT feed, partition, min("time") AS begin, max("time") AS last
               FROM (SELECT feed, partition, "time", "time" - interval '1 minute'
                         * row_number() OVER (PARTITION BY feed, partition ORDER BY "time") AS piece
                     FROM coverage WHERE "interval" = '1m' AND whole AND "time" >= $1 AND "time" < $2
                         AND partition = ANY ($3::integer[])) AS t
               GROUP BY feed, partition, piece ORDER BY feed, partition, begin""",
            datetime_of(start_us),
            datetime_of(end_us),
            _partitions_of(partition, partition) or [],
        )
        pieces: dict[tuple[str, int], list[Span]] = {}
        for row in rows:
            span = micros_of(row["begin"]), micros_of(row["last"]) + MINUTE_US
            pieces.setdefault((row["feed"], row["partition"]), []).append(span)
        # A known feed was down before its first minute. A feed in state `down` has been down since its last minute.
        earlier = await self._session.rows(
            """SELECT f.feed, f.partition, f.state, EXISTS (SELECT FROM coverage AS c WHERE c.feed = f.feed
                   AND c.partition = f.partition AND c."interval" = '1m' AND c."time" < $1) AS came_before
               FROM feeds AS f""",
            datetime_of(start_us),
        )
        found: dict[tuple[str, int], _Feed] = {}
        for row in earlier:
            key = (row["feed"], row["partition"])
            mine = pieces.get(key, [])
            down = row["state"] == "down"
            if not mine and not (down and row["came_before"]):
                continue
            begin = start_us if row["came_before"] else mine[0][0]
            end = max(min(end_us, now_us), mine[-1][1] if mine else begin) if down else mine[-1][1]
            found[key] = _Feed(begin, end, mine)
        return found

    async def _feeds_of(
        self, symbols: Sequence[str], step: Interval, start_us: int, end_us: int, partition: Mapping[str, int]
    ) -> dict[str, list[str]]:
        """Return the feeds that belong to each symbol. Omits symbols without feeds."""
        rows = await self._session.rows(
            f"""SELECT symbol, source AS feed FROM "{relation_of(step.name)}"
                WHERE symbol = ANY ($1::text[]) AND "interval" = $2 AND "time" >= $3 AND "time" < $4
                GROUP BY symbol, source
                UNION SELECT n.symbol, b.source FROM unnest($1::text[]) AS n (symbol), LATERAL (
                    SELECT t.source FROM "{relation_of(step.name)}" AS t
                    WHERE t.symbol = n.symbol AND t."interval" = $2 AND t."time" < $3 ORDER BY t."time" DESC LIMIT 1
                ) AS b
                UNION SELECT s.symbol, c.feed FROM coverage AS c CROSS JOIN LATERAL unnest(c.silent) AS s (symbol)
                WHERE c."interval" = $2 AND c."time" >= $3 AND c."time" < $4 AND s.symbol = ANY ($1::text[])
                    AND ($5::integer[] IS NULL OR c.partition = ANY ($5))
                GROUP BY s.symbol, c.feed ORDER BY 1, 2""",
            [*symbols],
            step.name,
            datetime_of(start_us),
            datetime_of(end_us),
            _partitions_of(partition, symbols),
        )
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row["symbol"], []).append(row["feed"])
        return found


def _partitions_of(partition: Mapping[str, int], symbols: Iterable[str]) -> list[int] | None:
    """Return the partitions of these symbols, or None if they are unknown."""
    return sorted({partition[symbol] for symbol in symbols}) if partition else None


def _check(step: Interval, symbols: int, start_us: int, end_us: int) -> None:
    bars = (end_us - start_us) // max(step.us, 1)
    if bars > MAX_BARS or bars * symbols > MAX_BARS_OF_ALL:
        of = "a symbol has" if bars > MAX_BARS else f"{symbols} symbols have"
        most = MAX_BARS if bars > MAX_BARS else MAX_BARS_OF_ALL
        raise BadInput(f"{of} more than {most:,} intervals of {step}; request a shorter range or fewer symbols")


def _expected(
    calendars: Mapping[str, Calendar],
    step: Interval,
    start_us: int,
    end_us: int,
    now_us: int,
    *,
    extended_hours: bool,
) -> tuple[dict[str, Int64Array], dict[str, int]]:
    """Return by calendar name the expected starts, and a time in µs: bars that start earlier are due."""
    starts, over = {}, {}
    for name, calendar in {each.name: each for each in calendars.values()}.items():
        starts[name] = expected(calendar, step.name, start_us, end_us)
        over[name] = now_us - GRACE_US - step.us + 1
        if not step.is_intraday:
            ends = calendar.bounds_of(starts[name])[1] if extended_hours else calendar.close_of(starts[name])
            open_ = np.flatnonzero(ends + GRACE_US > now_us)
            over[name] = int(starts[name][open_[0]]) if len(open_) else end_us
    return starts, over


def _down(feeds: Sequence[_Feed], calendar: Calendar, step: Interval, starts: Int64Array) -> Int64Array:
    """Return the starts, in µs, of intervals that no feed covers although the times of at least one feed are known.

    A feed covers an interval if the feed was up throughout.
    """
    if not feeds or not len(starts):
        return starts[:0]
    begins, ends = starts, starts + step.us
    if not step.is_intraday:
        begins, ends = calendar.open_of(starts), calendar.close_of(starts)
    up, known = np.zeros(len(starts), np.bool_), np.zeros(len(starts), np.bool_)
    for feed in feeds:
        was_up, is_known = feed.covers(begins, ends)
        up |= was_up
        known |= is_known
    return starts[known & ~up]
