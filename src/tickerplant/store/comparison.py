"""Comparison of published 5m bars with the check roll-up of their ticks, in the ranges of time that changed."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from tickerplant.core.reasons import OF_TICKS
from tickerplant.core.times import DAY_US, MINUTE_US, datetime_of, micros_of

if TYPE_CHECKING:
    from tickerplant.store.session import Session

LAG: Final = dt.timedelta(minutes=10)
"""Minimum age of compared bars. The check roll-up lags by about five minutes, and bars lag by the allowed lateness."""

_CLAIM: Final = """
    UPDATE arrivals SET comparing_from = least(comparing_from, changed_from), changed_from = NULL
    WHERE relation IN ('realtime_prices', 'intraday_ohlcv') AND changed_from IS NOT NULL
"""
# Days with ticks, in which ticks or bars changed. `pending`: the check roll-up lacks ticks of the day.
_DAYS: Final = """
    SELECT t.starts_at, min(least(t.comparing_from, greatest(b.comparing_from, t.starts_at))) AS from_time,
        bool_or(coalesce(t.dirty_from, t.claimed_from) IS NOT NULL) AS pending
    FROM arrivals AS t LEFT JOIN arrivals AS b ON b.relation = 'intraday_ohlcv'
        AND b.comparing_from < t.starts_at + INTERVAL '1 day' AND b.starts_at + INTERVAL '7 days' > t.starts_at
    WHERE t.relation = 'realtime_prices'
    GROUP BY t.starts_at HAVING count(t.comparing_from) + count(b.comparing_from) > 0
    ORDER BY t.starts_at
"""
_RELEASE_TICKS: Final = """
    UPDATE arrivals SET comparing_from = $2 WHERE relation = 'realtime_prices' AND starts_at = $1
"""
# The week of a bar stays claimed while one of its days is pending, or is not over.
_RELEASE_BARS: Final = """
    UPDATE arrivals SET
        comparing_from = CASE WHEN starts_at + INTERVAL '7 days' > $1 THEN greatest(comparing_from, $1) END
    WHERE relation = 'intraday_ohlcv' AND comparing_from IS NOT NULL
        AND NOT EXISTS (SELECT FROM unnest($2::timestamptz[]) AS p (day)
            WHERE p.day + INTERVAL '1 day' > comparing_from AND p.day < starts_at + INTERVAL '7 days')
"""
_COMPARE: Final = """
    WITH bars AS (
        SELECT b.*, NOT b.history AND b.reason = ANY ($3) AND NOT EXISTS (
                SELECT FROM intraday_ohlcv AS m WHERE m.symbol = b.symbol AND m.interval = '1m'
                    AND m.time >= b.time AND m.time < b.time + INTERVAL '5 minutes'
                    AND (m.history OR m.source <> b.source OR NOT m.reason = ANY ($3))) AS of_ticks
        FROM intraday_ohlcv AS b WHERE b.interval = '5m' AND b.time >= $1 AND b.time < $2
    ), rolled AS (
        SELECT * FROM ohlcv_5m_rollup WHERE time >= $1 AND time < $2
    ), pairs AS (
        SELECT b.symbol, b.time, b.complete AND b.state = 'final' AS closed, b.of_ticks, r.symbol IS NOT NULL AS paired,
            coalesce(r.corrections, 0) > 0 AS corrected, r.ordered,
            NOT (b.high IS NOT DISTINCT FROM r.high AND b.low IS NOT DISTINCT FROM r.low
                AND b.trades IS NOT DISTINCT FROM r.trades
                AND (NOT r.ordered OR b.open IS NOT DISTINCT FROM r.open AND b.close IS NOT DISTINCT FROM r.close)
                AND abs(b.volume - r.volume) <= 1e-9 * greatest(abs(b.volume), abs(r.volume))) AS differs
        FROM bars AS b LEFT JOIN rolled AS r ON r.symbol = b.symbol AND r.time = b.time AND r.source = b.source
    )
    SELECT count(*) FILTER (WHERE closed AND of_ticks AND paired AND NOT corrected) AS compared,
        count(*) FILTER (WHERE closed AND of_ticks AND paired AND NOT corrected AND differs) AS differing,
        min(symbol || ' ' || time::text) FILTER (WHERE closed AND of_ticks AND paired AND NOT corrected AND differs)
            AS example,
        count(*) FILTER (WHERE closed AND of_ticks AND paired AND NOT corrected AND NOT ordered) AS unordered,
        count(*) FILTER (WHERE closed AND of_ticks AND corrected) AS corrected,
        count(*) FILTER (WHERE NOT of_ticks) AS other,
        count(*) FILTER (WHERE of_ticks AND NOT closed) AS incomplete,
        count(*) FILTER (WHERE closed AND of_ticks AND NOT paired) AS alone,
        (SELECT count(*) FROM rolled AS r WHERE r.corrections = 0
            AND NOT EXISTS (SELECT FROM bars AS b WHERE b.symbol = r.symbol AND b.time = r.time)) AS unpublished
    FROM pairs
"""


@dataclass(slots=True)
class _Counts:
    """Counts of published 5m bars, summed over the compared ranges. `unpublished` counts bars of the check roll-up."""

    compared: int = 0
    differing: int = 0
    unordered: int = 0
    corrected: int = 0
    other: int = 0
    incomplete: int = 0
    alone: int = 0
    unpublished: int = 0
    example: str = ""

    def add(self, row: Any) -> None:
        for one in fields(self):
            if one.name != "example":
                setattr(self, one.name, getattr(self, one.name) + row[one.name])
        self.example = self.example or row["example"] or ""

    def text(self) -> str:
        example = f", e.g. {self.example}" if self.example else ""
        notes = (
            (self.unordered, "compared without open and close, because the order of their ticks is unknown"),
            (self.corrected, "left out, with cancels or corrections"),
            (self.other, "left out, not built from ticks of one source"),
            (self.incomplete, "left out, incomplete or forming"),
            (self.alone, "bars without a bar in the check roll-up"),
            (self.unpublished, "bars of the check roll-up without a published bar"),
        )
        found = "".join(f"; {text}: {count}" for count, text in notes if count)
        differing = f"{self.differing} of {self.compared} 5m bars differ from the check roll-up of their ticks"
        return f"{differing}{example}{found}"


async def compare(session: Session, now: dt.datetime) -> str:
    """Compare the ranges that have changed, and return the counts as text.

    If all counts are 0, the function returns the previous text of the job, if there is one.

    A difference is not necessarily an error. The check roll-up is built from all ticks of a source. It includes late
    ticks that are in no published bar, and the ticks of all feeds of the source. `rebuild` repairs a wrong bar through
    the log.

    1. Claim the changed ranges. Later rows set a new mark.
    2. Compare each day up to `LAG` before now. A finished day whose ticks are not all in the
       check roll-up stays claimed for the next run.
    3. Release the claims up to the compared time. After a failure the claims remain for the next run.
    """
    await session.execute(_CLAIM)
    counts, pending = _Counts(), []
    limit = datetime_of(micros_of(now - LAG) // (5 * MINUTE_US) * (5 * MINUTE_US))
    days = await session.rows(_DAYS)
    for day in days:
        over = day["starts_at"] + dt.timedelta(microseconds=DAY_US)
        if day["pending"] and over <= limit:
            pending.append(day["starts_at"])
            continue
        from_time = datetime_of(micros_of(day["from_time"]) // (5 * MINUTE_US) * (5 * MINUTE_US))
        if from_time < min(over, limit):
            [row] = await session.rows(_COMPARE, from_time, min(over, limit), OF_TICKS)
            counts.add(row)
        await session.execute(_RELEASE_TICKS, day["starts_at"], None if over <= limit else max(from_time, limit))
    await session.execute(_RELEASE_BARS, limit, pending)
    if counts == _Counts():
        former = await session.value("SELECT detail FROM jobs WHERE name = 'compare' AND ok")
        if former:
            return str(former)
    return counts.text()
