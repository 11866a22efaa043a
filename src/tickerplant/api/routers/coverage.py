"""Coverage: which bars there are of a stretch, and why the others are missing."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Query, Request, Response

from tickerplant.api.http import formats, params
from tickerplant.api.http.params import MAX_LIMIT
from tickerplant.api.log_state import backfill_progress, market_now, rules_in_force
from tickerplant.api.positions import HEADER
from tickerplant.api.routers.market import (
    REFUSALS,
    THREAD_ROWS,
    Format,
    Symbol,
    Times,
    Zone,
    csv_response,
    unknown,
)
from tickerplant.api.state import ApiState
from tickerplant.core.coverage import HAVE, STATUSES, StatusRange, default_range, share, status_ranges
from tickerplant.core.errors import BadInput
from tickerplant.core.interval import D1, M1, M5, Interval
from tickerplant.core.rules import Rules
from tickerplant.core.sessions import Calendar, Calendars

INTERVALS: Final = (M1, M5, D1)

From = Annotated[
    str | None,
    Query(alias="from", description="First instant, inclusive, as `start` elsewhere. Unless said: of the last five "
          "sessions, of daily bars the last year.", examples=["2026-03-09"]),
]  # fmt: skip
To = Annotated[
    str | None, Query(alias="to", description="First instant that is not wanted any more; unless said, now.")
]
Step = Annotated[str, Query(description="`1m`, `5m` or `1d`.", examples=["1m"])]
Limit = Annotated[
    int, Query(description=f"At most this many stretches, up to {MAX_LIMIT:,}; `next` says how to go on.")
]

_STRETCH: Final = {
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
            "description": "Of the bars that regular hours should have, how many there are and why others are missing.",
            "headers": {HEADER: {"description": "The position, as JSON.", "schema": {"type": "string"}}},
            "content": {"application/json": {"example": example}},
        },
    }


router = APIRouter(prefix="/v1/coverage", tags=["market data"])


@router.get(
    "",
    responses=_documented({key: value for key, value in _HEAD.items() if key != "symbol"}
                          | {"backfill": None, "position": _POSITION, "count": 1,
                             "symbols": [{"symbol": "AAPL", **_NUMBERS}]}),
    summary="What there is of all symbols' bars",
)  # fmt: skip
async def of_all(
    request: Request, interval: Step = "1m", from_: From = None, to: To = None, tz: Zone = "UTC",
    format: Format = "json", times: Times = "iso",
) -> Response:  # fmt: skip
    """A row for each symbol that has bars, or of which a vendor has said something: bars expected, by status.

    `share` is the part of the bars that should be there by now which is, or was not traded. `backfill` says how far
    fetching has come; null where nothing is fetched.
    """
    state: ApiState = request.app.state.api
    zone, step = params.parse_zone(tz), params.parse_interval(interval, INTERVALS, "/v1/coverage")
    rules, progress, now_us = await asyncio.to_thread(_of_log, state)
    async with state.source.read() as reading:
        names = await reading.covered_symbols()
        calendars = await asyncio.to_thread(_calendars, rules, names)
        begin, end = _stretch(from_, to, zone, step, list(calendars.values()), now_us)
        found = await reading.statuses(calendars, step, begin, end, now_us, extended_hours=rules.extended_hours)
        position = reading.position
    counts = {name: found[name].counts() for name in names}
    head = {
        "interval": step.name, "tz": tz, **_bounds(begin, end, zone, times, step), "backfill": progress,
        "position": position, "count": len(names),
    }  # fmt: skip
    if format == "csv":
        return csv_response(formats.to_csv(_summaries(counts)), f"coverage-{step}", position)
    rows = [{"symbol": name, **_numbers(each)} for name, each in counts.items()]
    return Response(
        formats.encode({**head, "symbols": rows}), media_type="application/json", headers={HEADER: position.json()}
    )


@router.get(
    "/{symbol:path}",
    responses=_documented(_HEAD | _NUMBERS | {"backfill": None, "position": _POSITION, "count": 1, "next": None,
                                              "stretches": [_STRETCH]})
    | {404: {"description": "The symbol is not known."}},
    summary="What there is of a symbol's bars, and why the rest is missing",
)  # fmt: skip
async def of_one(
    request: Request, symbol: Symbol, interval: Step = "1m", from_: From = None, to: To = None,
    limit: Limit = MAX_LIMIT, tz: Zone = "UTC", format: Format = "json", times: Times = "iso",
) -> Response:  # fmt: skip
    """The stretch cut into pieces of one status, without a hole between them.

    `have`, `partial` (the feed was not up for all of it), `no_trade`, `outage`, `quota`, `unavailable` (no vendor has
    it, or its bars were refused), `missing` (nobody has been asked yet), `pending` (not over yet), and `closed` between
    sessions. `source` and `note` are the vendor's answer, `again_at` when asking again may help. As CSV the stretches.
    """
    state: ApiState = request.app.state.api
    name, zone = params.parse_symbol(symbol), params.parse_zone(tz)
    step = params.parse_interval(interval, INTERVALS, "/v1/coverage")
    params.parse_span(None, None, limit, zone)
    rules, progress, now_us = await asyncio.to_thread(_of_log, state)
    calendars = await asyncio.to_thread(_calendars, rules, [name])
    begin, end = _stretch(from_, to, zone, step, list(calendars.values()), now_us)
    async with state.source.read() as reading:
        known = await reading.covered_symbols()
        if name not in known:
            raise unknown(name, known)
        found = await reading.statuses(calendars, step, begin, end, now_us, extended_hours=rules.extended_hours)
        position = reading.position
    head = {
        "symbol": name, "interval": step.name, "tz": tz, **_bounds(begin, end, zone, times, step),
        **_numbers(found[name].counts()), "backfill": progress, "position": position,
    }  # fmt: skip

    def encode() -> tuple[bytes, dict[str, Any] | None]:
        pieces = status_ranges(found[name], step.name, begin, end)
        following = None
        if len(pieces) > limit:
            at = formats.exact_time(pieces[limit].from_us, zone, times, sessions=not step.is_intraday)
            pieces, following = pieces[:limit], {"from": at}
        table = _table(pieces, zone, times, step)
        if format == "csv":
            return formats.to_csv(table), following
        return formats.to_json({**head, "count": len(pieces), "next": following}, "stretches", table), following

    body, following = await asyncio.to_thread(encode) if len(found[name].starts) > THREAD_ROWS else encode()
    if format == "csv":
        return csv_response(body, f"{name}-coverage-{step}", position, following)
    return Response(body, media_type="application/json", headers={HEADER: position.json()})


def _of_log(state: ApiState) -> tuple[Rules, dict[str, Any] | None, int]:
    now_us = market_now(state.log) if state.now_us is None else state.now_us()
    return rules_in_force(state.log, state.rules), backfill_progress(state.log), now_us


def _calendars(rules: Rules, symbols: Sequence[str]) -> dict[str, Calendar]:
    calendars = Calendars(rules)
    return {symbol: calendars.of(symbol) for symbol in symbols}


def _stretch(
    from_: str | None, to: str | None, zone: dt.tzinfo, step: Interval, calendars: Sequence[Calendar], now_us: int
) -> tuple[int, int]:
    """Return the stretch asked for, or that of the calendar that goes back the furthest. Raises BadInput."""
    span = params.parse_span(from_, to, 1, zone, sessions=not step.is_intraday, names=("from", "to"))
    until = now_us if span.end_us is None else span.end_us
    usual = [default_range(calendar, step.name, until) for calendar in calendars] or [(until - step.us, until)]
    end = max(end for _, end in usual) if span.end_us is None else span.end_us
    begin = min(begin for begin, _ in usual) if span.start_us is None else span.start_us
    if begin >= end:
        raise BadInput(f"`from` {from_!r} is not before now; say `to` for a stretch of the future")
    return begin, end


def _bounds(begin: int, end: int, zone: dt.tzinfo, times: str, step: Interval) -> dict[str, Any]:
    whole = not step.is_intraday
    return {
        "from": formats.exact_time(begin, zone, times, sessions=whole),
        "to": formats.exact_time(end, zone, times, sessions=whole),
    }


def _numbers(counts: Mapping[str, int]) -> dict[str, Any]:
    return {"expected": sum(counts.values()), "have": counts[HAVE], "share": share(counts), "counts": counts}


def _summaries(counts: Mapping[str, Mapping[str, int]]) -> pa.Table:
    columns: dict[str, Any] = {
        "symbol": pa.array(list(counts), pa.utf8()),
        "expected": pa.array([sum(each.values()) for each in counts.values()], pa.int64()),
        "share": pa.array([share(each) for each in counts.values()], pa.float64()),
    }
    columns |= {status: pa.array([each[status] for each in counts.values()], pa.int64()) for status in STATUSES}
    return pa.table(columns)


def _table(pieces: Sequence[StatusRange], zone: dt.tzinfo, times: str, step: Interval) -> pa.Table:
    whole = not step.is_intraday
    edges = [np.array([getattr(piece, name) for piece in pieces], np.int64) for name in ("from_us", "to_us")]
    begins, ends = (formats.time_column(each, zone, times, sessions=whole) for each in edges)
    again = [
        formats.exact_time(piece.again_us, zone, times, sessions=False) if piece.again_us else None for piece in pieces
    ]
    return pa.table(
        {
            "from": begins,
            "to": ends,
            "status": pa.array([piece.status for piece in pieces], pa.utf8()),
            "bars": pa.array([piece.bars for piece in pieces], pa.int64()),
            "source": pa.array([piece.source or None for piece in pieces], pa.utf8()),
            "note": pa.array([piece.note or None for piece in pieces], pa.utf8()),
            "again_at": pa.array(again, pa.utf8() if times == "iso" else pa.int64()),
        }
    )
