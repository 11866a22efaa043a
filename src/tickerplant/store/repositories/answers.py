"""`answers`: vendors' answers for requested ranges.

The newest answer of any vendor wins at each instant, and the table contains only that answer. Rows do not overlap.
Adjacent rows with the same content are merged, even if several requests caused them. A merged row has the version of
its newest request. The merge hides no answer, because a different answer in between has its own range.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tickerplant.core import coverage, schemas
from tickerplant.core.times import datetime_of, micros_of
from tickerplant.store.copy_protocol import plain

if TYPE_CHECKING:
    from tickerplant.store.session import Session

_NAMES = ", ".join(schemas.ANSWERS.names)


@dataclass(frozen=True, slots=True)
class Segment:
    """A range `[start_us, end_us)` of one symbol and interval, and its `answer` in the order of the columns."""

    start_us: int
    end_us: int
    answer: tuple[Any, ...]
    version: int


def overlay(segments: Iterable[Segment], new: Segment) -> list[Segment]:
    """Return the segments with `new`, which replaces older versions and fills the ranges between the others.

    The result does not overlap. Segments of the same or a later version remain unchanged, so a repeated overlay changes
    nothing.
    """
    result: list[Segment] = []
    free = [(new.start_us, new.end_us)]
    for old in segments:
        if old.version >= new.version:
            result.append(old)
            free = [part for begin, end in free for part in _outside(begin, end, old)]
        else:
            result += [replace(old, start_us=a, end_us=b) for a, b in _outside(old.start_us, old.end_us, new)]
    return [*result, *(replace(new, start_us=begin, end_us=end) for begin, end in free)]


def _outside(begin: int, end: int, segment: Segment) -> list[tuple[int, int]]:
    """Return the parts of `[begin, end)` before and after the segment."""
    parts = ((begin, min(end, segment.start_us)), (max(begin, segment.end_us), end))
    return [(a, b) for a, b in parts if a < b]


def merge_adjacent(segments: Iterable[Segment]) -> list[Segment]:
    """Return non-overlapping segments in order, with adjacent equal segments merged; the newer version is kept.

    >>> merge_adjacent([Segment(5, 8, ("a",), 2), Segment(0, 5, ("a",), 1), Segment(8, 9, ("b",), 1)])[0]
    Segment(start_us=0, end_us=8, answer=('a',), version=2)

    """
    result: list[Segment] = []
    for segment in sorted(segments, key=lambda each: each.start_us):
        last = result[-1] if result else None
        if last is not None and last.end_us == segment.start_us and last.answer == segment.answer:
            result[-1] = replace(last, end_us=segment.end_us, version=max(last.version, segment.version))
        else:
            result.append(segment)
    return result


class VendorAnswers:
    """Vendors' answers, through one database session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def put(self, answers: pa.Table, version: int) -> None:
        """Store the answers (`schemas.ANSWERS`) of one record, in a transaction. Later rows of the record win.

        The rows replace older answers for their ranges, of any source. Applying them twice changes nothing.
        """
        new = _segments_of(answers, version)
        if not new:
            return
        bounds = [(*key, min(p.start_us for p in of), max(p.end_us for p in of)) for key, of in new.items()]
        stored = await self._touching(bounds)
        removed: list[tuple[str, str, Segment]] = []
        added: list[tuple[str, str, Segment]] = []
        for key, segments in new.items():
            before = stored.get(key, [])
            after = before
            for segment in segments:
                after = overlay(after, segment)
            after = merge_adjacent(after)
            removed += [(*key, segment) for segment in set(before).difference(after)]
            added += [(*key, segment) for segment in set(after).difference(before)]
        await self._replace(removed, added)

    async def _touching(self, bounds: Sequence[tuple[str, str, int, int]]) -> dict[tuple[str, str], list[Segment]]:
        """Return by symbol and interval the rows that overlap or adjoin the given ranges."""
        symbols, intervals, begins, ends = zip(*bounds, strict=True)
        rows = await self._session.rows(
            """SELECT t.symbol, t.interval, t.from_time, t.to_time, t.source, t.verdict, t.note, t.again_at, t.version
               FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[])
                   AS s (symbol, interval, from_time, to_time)
               JOIN answers AS t ON t.symbol = s.symbol AND t.interval = s.interval
                   AND t.from_time <= s.to_time AND t.to_time >= s.from_time""",
            symbols, intervals, [datetime_of(us) for us in begins], [datetime_of(us) for us in ends],
        )  # fmt: skip
        found: dict[tuple[str, str], list[Segment]] = {}
        for symbol, interval, from_time, to_time, *answer, version in rows:
            segment = Segment(micros_of(from_time), micros_of(to_time), tuple(answer), version)
            found.setdefault((symbol, interval), []).append(segment)
        return found

    async def _replace(
        self, removed: Sequence[tuple[str, str, Segment]], added: Sequence[tuple[str, str, Segment]]
    ) -> None:
        if removed:
            await self._session.execute(
                """DELETE FROM answers AS t
                   USING unnest($1::text[], $2::text[], $3::timestamptz[]) AS s (symbol, interval, from_time)
                   WHERE t.symbol = s.symbol AND t.interval = s.interval AND t.from_time = s.from_time""",
                [symbol for symbol, _, _ in removed],
                [interval for _, interval, _ in removed],
                [datetime_of(segment.start_us) for _, _, segment in removed],
            )
        if added:
            columns = zip(
                *((s, i, datetime_of(p.start_us), datetime_of(p.end_us), *p.answer, p.version) for s, i, p in added),
                strict=True,
            )
            await self._session.execute(
                f"""INSERT INTO answers ({_NAMES}, version)
                    SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[],
                        $6::text[], $7::text[], $8::timestamptz[], $9::bigint[])""",
                *(list(column) for column in columns),
            )

    async def read(
        self, symbols: Sequence[str], interval: str, start_us: int, end_us: int
    ) -> dict[str, coverage.Answers]:
        """Return by symbol the answers that overlap the range, oldest first. Omits symbols without answers."""
        rows = await self._session.rows(
            """SELECT symbol, date_part('epoch', from_time), date_part('epoch', to_time), verdict, source,
                   coalesce(note, ''), coalesce(date_part('epoch', again_at), 0)
               FROM answers WHERE symbol = ANY ($1) AND interval = $2 AND from_time < $4 AND to_time > $3
               ORDER BY symbol, version, from_time""",
            list(symbols),
            interval,
            datetime_of(start_us),
            datetime_of(end_us),
        )
        by_symbol: dict[str, list[Any]] = {}
        for row in rows:
            by_symbol.setdefault(row[0], []).append(row)
        return {symbol: _columns(some) for symbol, some in by_symbol.items()}


def _segments_of(answers: pa.Table, version: int) -> dict[tuple[str, str], list[Segment]]:
    """Return the segments of one record by symbol and interval; empty ranges are skipped."""
    found: dict[tuple[str, str], list[Segment]] = {}
    for number, row in enumerate(plain(answers).to_pylist()):
        answer = (row["source"], row["verdict"], row["note"] or None, row["again_at"])
        segment = Segment(micros_of(row["from_time"]), micros_of(row["to_time"]), answer, number)
        if segment.start_us < segment.end_us:
            key = (row["symbol"], row["interval"])
            found[key] = overlay(found.get(key, []), segment)
    return {
        key: merge_adjacent(replace(segment, version=version) for segment in segments)
        for key, segments in found.items()
    }


def _columns(rows: Sequence[Any]) -> coverage.Answers:
    def times(at: int) -> Any:
        return np.rint(np.array([row[at] for row in rows], np.float64) * 1e6).astype(np.int64)

    return coverage.Answers(
        times(1), times(2), [row[3] for row in rows], [row[4] for row in rows], [row[5] for row in rows], times(6)
    )
