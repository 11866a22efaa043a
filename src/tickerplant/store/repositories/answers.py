"""`answers`: what vendors said of the stretches that they were asked for.

Of each instant the answer that came last counts, whoever gave it, so the table holds that one alone: its rows do not
overlap, and neighbours that say the same are one row, however many requests they come from. Then a row may take the
version of the newest that went into it without hiding anything: what was said otherwise in between has its own stretch.
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
    from tickerplant.store.pool import Session

_NAMES = ", ".join(schemas.ANSWERS.names)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch `[from_us, to_us)` of one symbol and interval, and what was `said` of it, in the columns' order."""

    from_us: int
    to_us: int
    said: tuple[Any, ...]
    version: int


def laid_over(pieces: Iterable[Piece], new: Piece) -> list[Piece]:
    """Return the pieces with another laid over those of older versions and under the others; none overlap.

    Said again, of the same version or a later one, what is there stays as it is.
    """
    result: list[Piece] = []
    free = [(new.from_us, new.to_us)]
    for old in pieces:
        if old.version >= new.version:
            result.append(old)
            free = [part for begin, end in free for part in _outside(begin, end, old)]
        else:
            result += [replace(old, from_us=a, to_us=b) for a, b in _outside(old.from_us, old.to_us, new)]
    return [*result, *(replace(new, from_us=begin, to_us=end) for begin, end in free)]


def _outside(begin: int, end: int, piece: Piece) -> list[tuple[int, int]]:
    """Return what of `[begin, end)` lies before and behind the piece."""
    parts = ((begin, min(end, piece.from_us)), (max(begin, piece.to_us), end))
    return [(a, b) for a, b in parts if a < b]


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Return the pieces, none of which overlap, in order; those that touch and say the same as one, of the newer
    version.

    >>> joined([Piece(5, 8, ("a",), 2), Piece(0, 5, ("a",), 1), Piece(8, 9, ("b",), 1)])[0]
    Piece(from_us=0, to_us=8, said=('a',), version=2)
    """
    result: list[Piece] = []
    for piece in sorted(pieces, key=lambda each: each.from_us):
        last = result[-1] if result else None
        if last is not None and last.to_us == piece.from_us and last.said == piece.said:
            result[-1] = replace(last, to_us=piece.to_us, version=max(last.version, piece.version))
        else:
            result.append(piece)
    return result


class VendorAnswers:
    """Answers of one session or look."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def put(self, answers: pa.Table, version: int) -> None:
        """Keep the answers (`schemas.ANSWERS`) of one record, in a transaction; of its rows a later one counts.

        They replace what older records say of their stretches, of any source. Applied again they change nothing.
        """
        told = _told(answers, version)
        if not told:
            return
        bounds = [(*key, min(p.from_us for p in of), max(p.to_us for p in of)) for key, of in told.items()]
        stored = await self._touching(bounds)
        gone: list[tuple[str, str, Piece]] = []
        come: list[tuple[str, str, Piece]] = []
        for key, pieces in told.items():
            before = stored.get(key, [])
            after = before
            for piece in pieces:
                after = laid_over(after, piece)
            after = joined(after)
            gone += [(*key, piece) for piece in set(before).difference(after)]
            come += [(*key, piece) for piece in set(after).difference(before)]
        await self._replace(gone, come)

    async def _touching(self, bounds: Sequence[tuple[str, str, int, int]]) -> dict[tuple[str, str], list[Piece]]:
        """Return by symbol and interval the rows that touch `[from, to]`."""
        symbols, intervals, begins, ends = zip(*bounds, strict=True)
        rows = await self._session.rows(
            """SELECT t.symbol, t.interval, t.from_time, t.to_time, t.source, t.verdict, t.note, t.again_at, t.version
               FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[])
                   AS s (symbol, interval, from_time, to_time)
               JOIN answers AS t ON t.symbol = s.symbol AND t.interval = s.interval
                   AND t.from_time <= s.to_time AND t.to_time >= s.from_time""",
            symbols, intervals, [datetime_of(us) for us in begins], [datetime_of(us) for us in ends],
        )  # fmt: skip
        found: dict[tuple[str, str], list[Piece]] = {}
        for symbol, interval, from_time, to_time, *said, version in rows:
            piece = Piece(micros_of(from_time), micros_of(to_time), tuple(said), version)
            found.setdefault((symbol, interval), []).append(piece)
        return found

    async def _replace(self, gone: Sequence[tuple[str, str, Piece]], come: Sequence[tuple[str, str, Piece]]) -> None:
        if gone:
            await self._session.execute(
                """DELETE FROM answers AS t
                   USING unnest($1::text[], $2::text[], $3::timestamptz[]) AS s (symbol, interval, from_time)
                   WHERE t.symbol = s.symbol AND t.interval = s.interval AND t.from_time = s.from_time""",
                [symbol for symbol, _, _ in gone],
                [interval for _, interval, _ in gone],
                [datetime_of(piece.from_us) for _, _, piece in gone],
            )
        if come:
            columns = zip(
                *((s, i, datetime_of(p.from_us), datetime_of(p.to_us), *p.said, p.version) for s, i, p in come),
                strict=True,
            )
            await self._session.execute(
                f"""INSERT INTO answers ({_NAMES}, version)
                    SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[],
                        $6::text[], $7::text[], $8::timestamptz[], $9::bigint[])""",
                *(list(column) for column in columns),
            )

    async def read(
        self, symbols: Sequence[str], interval: str, from_us_: int, to_us: int
    ) -> dict[str, coverage.Answers]:
        """Return by symbol the answers that touch `[from, to)`, oldest first; symbols without any are left out."""
        rows = await self._session.rows(
            """SELECT symbol, date_part('epoch', from_time), date_part('epoch', to_time), verdict, source,
                   coalesce(note, ''), coalesce(date_part('epoch', again_at), 0)
               FROM answers WHERE symbol = ANY ($1) AND interval = $2 AND from_time < $4 AND to_time > $3
               ORDER BY symbol, version, from_time""",
            list(symbols),
            interval,
            datetime_of(from_us_),
            datetime_of(to_us),
        )
        by_symbol: dict[str, list[Any]] = {}
        for row in rows:
            by_symbol.setdefault(row[0], []).append(row)
        return {symbol: _columns(some) for symbol, some in by_symbol.items()}


def _told(answers: pa.Table, version: int) -> dict[tuple[str, str], list[Piece]]:
    """Return by symbol and interval what one record says; stretches without length say nothing."""
    found: dict[tuple[str, str], list[Piece]] = {}
    for number, row in enumerate(plain(answers).to_pylist()):
        said = (row["source"], row["verdict"], row["note"] or None, row["again_at"])
        piece = Piece(micros_of(row["from_time"]), micros_of(row["to_time"]), said, number)
        if piece.from_us < piece.to_us:
            key = (row["symbol"], row["interval"])
            found[key] = laid_over(found.get(key, []), piece)
    return {key: joined(replace(piece, version=version) for piece in pieces) for key, pieces in found.items()}


def _columns(rows: Sequence[Any]) -> coverage.Answers:
    def times(at: int) -> Any:
        return np.rint(np.array([row[at] for row in rows], np.float64) * 1e6).astype(np.int64)

    return coverage.Answers(
        times(1), times(2), [row[3] for row in rows], [row[4] for row in rows], [row[5] for row in rows], times(6)
    )
