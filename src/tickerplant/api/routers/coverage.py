"""`/v1/coverage`: the stored bars, and the reasons for the missing bars."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Depends, Request, Response

from tickerplant.api.blocking import in_thread
from tickerplant.api.http import formats, params
from tickerplant.api.http.lanes import LaneRoute
from tickerplant.api.http.openapi import REFUSALS, Format, Symbol, Times, Zone
from tickerplant.api.http.queries import CoverageFrom, CoverageInterval, CoverageQuery, CoverageTo
from tickerplant.api.http.responses import csv_response, positioned_response, unknown_symbol
from tickerplant.api.positions import HEADER
from tickerplant.api.state import ApiState
from tickerplant.core.coverage import HAVE, STATUSES, StatusRange, default_range, share, status_ranges
from tickerplant.core.errors import BadInput
from tickerplant.core.interval import D1, M1, M5, Interval
from tickerplant.core.rules import Rules
from tickerplant.core.sessions import Calendar, Calendars

INTERVALS: Final = (M1, M5, D1)

_RANGE: Final = {
    "from": "2026-03-09T10:02:00-04:00", "to": "2026-03-09T10:05:00-04:00", "status": "quota", "bars": 3,
    "source": "alphavantage", "note": "25 a day", "again_at": "2026-03-10T00:00:00-04:00",
}  # fmt: skip
_COUNTS: Final = dict.fromkeys(STATUSES, 0) | {"have": 387, "quota": 3}
_HEAD: Final = {
    "symbol": "AAPL", "interval": "1m", "tz": "America/New_York", "from": "2026-03-09T00:00:00-04:00",
    "to": "2026-03-10T00:00:00-04:00",
}  # fmt: skip
_NUMBERS: Final = {"expected": 390, "have": 387, "share": 0.992308, "counts": _COUNTS}
_POSITION: Final = {"log_id": "3f0c", "generation": 1, "offsets": {"market.prices.raw": {"0": 812}}}


def _documented(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return REFUSALS | {
        200: {
            "description": "Counts of the expected bars, by status.",
            "headers": {HEADER: {"description": "The position, as JSON.", "schema": {"type": "string"}}},
            "content": {"application/json": {"example": example}, "text/csv": {"schema": {"type": "string"}}},
        },
    }


router = APIRouter(prefix="/v1/coverage", tags=["market data"], route_class=LaneRoute)


@router.get(
    "",
    responses=_documented({key: value for key, value in _HEAD.items() if key != "symbol"}
                          | {"backfill": None, "position": _POSITION, "count": 1,
                             "symbols": [{"symbol": "AAPL", **_NUMBERS}]}),
    summary="Coverage of all symbols",
)  # fmt: skip
async def of_all(
    request: Request, interval: CoverageInterval = "1m", from_: CoverageFrom = None, to: CoverageTo = None,
    tz: Zone = "UTC", format: Format = "json", times: Times = "iso",
) -> Response:  # fmt: skip
    """Return one row for each symbol that has bars or an answer of a vendor: the number of expected bars, by status.

    `share` is the fraction of due bars that are stored and complete, or had no trades. It is null if no bar is due.
    `backfill` is the newest progress report of the backfill, or null if there is none.
    """
    state: ApiState = request.app.state.api
    zone, step = params.parse_zone(tz), params.parse_interval(interval, INTERVALS, "/v1/coverage")
    facts = await state.log_facts()
    async with state.store.read() as transaction:
        names = await transaction.covered_symbols()
        calendars = await in_thread(state.pools.compute, lambda: _calendars(facts.rules, names))
        start_us, end_us = _range(from_, to, zone, step, list(calendars.values()), facts.now_us)
        counts = await transaction.status_counts(
            calendars, step, start_us, end_us, facts.now_us, extended_hours=facts.rules.extended_hours
        )
        position = transaction.position
    head = {
        "interval": step.name, "tz": tz, **_bounds(start_us, end_us, zone, times, step), "backfill": facts.progress,
        "position": position, "count": len(names),
    }  # fmt: skip
    if format == "csv":
        return csv_response(formats.to_csv(_count_table(counts)), f"coverage-{step}", position)
    rows = [{"symbol": name, **_numbers(each)} for name, each in counts.items()]
    return positioned_response(formats.encode({**head, "symbols": rows}), position)


@router.get(
    "/{symbol:path}",
    responses=_documented(_HEAD | _NUMBERS | {"backfill": None, "position": _POSITION, "count": 1, "next": None,
                                              "stretches": [_RANGE]})
    | {404: {"description": "Unknown symbol."}},
    summary="Coverage of one symbol, as ranges of one status",
)  # fmt: skip
async def of_one(request: Request, symbol: Symbol, query: Annotated[CoverageQuery, Depends()]) -> Response:
    """Return the range as consecutive parts (`stretches`), each with one status.

    - `have`: stored and complete
    - `partial`: stored, but not complete, for example because the feed was down for a part of the bar
    - `no_trade`: no trade in the interval, as a live feed or a vendor's answer shows
    - `outage`: the expected feeds were down, or the vendor was unavailable
    - `quota`: missing; the request waits for a vendor's quota
    - `unavailable`: no vendor offers the bar, or the vendor's bars differ from stored bars
    - `missing`: not stored, and not requested yet
    - `pending`: the interval is not over, or has ended less than a minute ago
    - `closed`: time between sessions, without bars

    `source` is the vendor, and `note` is the reason in its answer. `again_at` is the time from which a request may
    succeed. CSV contains only the parts.
    """
    state: ApiState = request.app.state.api
    name, zone = params.parse_symbol(symbol), params.parse_zone(query.tz)
    step = params.parse_interval(query.interval, INTERVALS, "/v1/coverage")
    params.parse_range(None, None, query.limit, zone)
    facts = await state.log_facts()
    calendars = await in_thread(state.pools.compute, lambda: _calendars(facts.rules, [name]))
    start_us, end_us = _range(query.from_, query.to, zone, step, list(calendars.values()), facts.now_us)
    async with state.store.read() as transaction:
        known = await transaction.covered_symbols()
        if name not in known:
            raise unknown_symbol(name, known)
        found = await transaction.statuses(
            calendars, step, start_us, end_us, facts.now_us, extended_hours=facts.rules.extended_hours
        )
        position = transaction.position
    head = {
        "symbol": name, "interval": step.name, "tz": query.tz, **_bounds(start_us, end_us, zone, query.times, step),
        **_numbers(found[name].counts()), "backfill": facts.progress, "position": position,
    }  # fmt: skip
    ranges = status_ranges(found[name], step.name, start_us, end_us)
    following = None
    if len(ranges) > query.limit:
        next_us = ranges[query.limit].from_us
        following = {"from": formats.exact_time(next_us, zone, query.times, sessions=not step.is_intraday)}
        ranges = ranges[: query.limit]
    table = _range_table(ranges, zone, query.times, step)
    if query.format == "csv":
        return csv_response(formats.to_csv(table), f"{name}-coverage-{step}", position, following)
    document = {**head, "count": len(ranges), "next": following}
    return positioned_response(formats.to_json(document, "stretches", table), position)


def _calendars(rules: Rules, symbols: Sequence[str]) -> dict[str, Calendar]:
    calendars = Calendars(rules)
    return {symbol: calendars.of(symbol) for symbol in symbols}


def _range(
    from_: str | None, to: str | None, zone: dt.tzinfo, step: Interval, calendars: Sequence[Calendar], now_us: int
) -> tuple[int, int]:
    """Return the requested range in µs. A missing bound is the earliest default start, or the latest default end.

    Each calendar has a default range. Raises BadInput.
    """
    requested = params.parse_range(from_, to, 1, zone, sessions=not step.is_intraday, names=("from", "to"))
    until_us = now_us if requested.end_us is None else requested.end_us
    defaults = [default_range(calendar, step.name, until_us) for calendar in calendars] or [
        (until_us - step.us, until_us)
    ]
    end_us = max(end for _, end in defaults) if requested.end_us is None else requested.end_us
    start_us = min(start for start, _ in defaults) if requested.start_us is None else requested.start_us
    if start_us >= end_us:
        raise BadInput(f"`from` {from_!r} is not before now; send `to` for a range in the future")
    return start_us, end_us


def _bounds(start_us: int, end_us: int, zone: dt.tzinfo, times: str, step: Interval) -> dict[str, Any]:
    by_session = not step.is_intraday
    return {
        "from": formats.exact_time(start_us, zone, times, sessions=by_session),
        "to": formats.exact_time(end_us, zone, times, sessions=by_session),
    }


def _numbers(counts: Mapping[str, int]) -> dict[str, Any]:
    return {"expected": sum(counts.values()), "have": counts[HAVE], "share": share(counts), "counts": counts}


def _count_table(counts: Mapping[str, Mapping[str, int]]) -> pa.Table:
    columns: dict[str, Any] = {
        "symbol": pa.array(list(counts), pa.utf8()),
        "expected": pa.array([sum(each.values()) for each in counts.values()], pa.int64()),
        "share": pa.array([share(each) for each in counts.values()], pa.float64()),
    }
    columns |= {status: pa.array([each[status] for each in counts.values()], pa.int64()) for status in STATUSES}
    return pa.table(columns)


def _range_table(ranges: Sequence[StatusRange], zone: dt.tzinfo, times: str, step: Interval) -> pa.Table:
    by_session = not step.is_intraday
    starts = np.array([each.from_us for each in ranges], np.int64)
    ends = np.array([each.to_us for each in ranges], np.int64)
    again = [
        formats.exact_time(each.again_us, zone, times, sessions=False) if each.again_us else None for each in ranges
    ]
    return pa.table(
        {
            "from": formats.time_column(starts, zone, times, sessions=by_session),
            "to": formats.time_column(ends, zone, times, sessions=by_session),
            "status": pa.array([each.status for each in ranges], pa.utf8()),
            "bars": pa.array([each.bars for each in ranges], pa.int64()),
            "source": pa.array([each.source or None for each in ranges], pa.utf8()),
            "note": pa.array([each.note or None for each in ranges], pa.utf8()),
            "again_at": pa.array(again, pa.utf8() if times == "iso" else pa.int64()),
        }
    )
