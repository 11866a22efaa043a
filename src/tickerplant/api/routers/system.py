"""The plant itself: symbols, status, health, metrics."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tickerplant.api.http import formats
from tickerplant.api.http.params import parse_zone
from tickerplant.api.positions import HEADER, Position
from tickerplant.api.routers.market import REFUSALS, Format, Times, Zone, csv_response
from tickerplant.api.state import ApiState
from tickerplant.api.websockets.rows import TOPICS
from tickerplant.core.errors import TickerplantError

MAX_TAIL_LAG_S = 60.0

_PARTS: Final = [{"name": "feed sandbox", "state": "ok", "sentence": "up", "details": {"state": "up"}}]
_DOWN: Final = [{"name": "store", "state": "failed", "sentence": "the database is out of reach", "details": {}}]
_HEALTH: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "`ok` or `degraded`: it works; `wrong` says what to look at.",
        "content": {"application/json": {"example": {"status": "ok", "wrong": [], "parts": _PARTS}}},
    },
    503: {
        "description": "`failed`: something does not work; `wrong` says what.",
        "content": {
            "application/json": {
                "example": {"status": "failed", "wrong": ["store: the database is out of reach"], "parts": _DOWN}
            }
        },
    },
}

router = APIRouter(tags=["plant"])


@router.get("/v1/symbols", responses=REFUSALS, summary="All symbols")
async def symbols(
    request: Request, tz: Zone = "UTC", format: Format = "json", times: Times = "iso",
    prefix: Annotated[str, Query(description="Only symbols that begin so.", examples=["AA"])] = "",
) -> Response:  # fmt: skip
    """Every symbol that the store has seen, with what it knows of it."""
    state: ApiState = request.app.state.api
    zone = parse_zone(tz)
    async with state.source.read() as reading:
        table, position = await reading.symbols(), reading.position
    if prefix:
        wanted = prefix.upper()
        table = table.filter([name.startswith(wanted) for name in table.column("symbol").to_pylist()])
    plain = formats.for_users(table, zone, times)
    if format == "csv":
        return csv_response(formats.to_csv(plain), "symbols", position)
    head = {"position": position, "count": plain.num_rows}
    body = formats.to_json(head, "symbols", plain)
    return Response(body, media_type="application/json", headers={HEADER: position.json()})


@router.get("/v1/status", responses=REFUSALS, summary="Where log, store and stream are")
async def status(request: Request) -> Response:
    """The log's identity and ends, how far store and stream have come, and the stream's numbers."""
    state: ApiState = request.app.state.api
    identity = await asyncio.to_thread(state.log.identity)
    ends = {}
    for topic in TOPICS:
        found = await asyncio.to_thread(state.log.offsets, topic)
        ends.update({source: end for source, (_, end) in found.items()})
    body: dict[str, Any] = {
        "log": {"log_id": identity.log_id, "generation": identity.generation},
        "end": Position.of(identity.log_id, identity.generation, ends),
        "store": None,
        "stream": None,
    }
    try:
        applied = await state.source.positions()
    except TickerplantError as error:
        body["store"] = {"error": str(error)}
    else:
        behind = {source: max(0, ends[source] - at) for source, at in applied.items() if source in ends}
        position = Position.of(identity.log_id, identity.generation, applied)
        body["store"] = {"position": position, "records_behind": sum(behind.values())}
    if state.stream is not None and state.tail is not None:
        counts = state.stream.hub.counts
        body["stream"] = {
            "position": state.stream.hub.position,
            "clients": len(state.stream.connections),
            "tail_lag_s": round(state.tail.lag_s, 3),
            "frames": counts.frames,
            "conflated_rows": counts.conflated_rows,
            "dropped": counts.dropped,
            "resyncs": counts.resyncs,
        }
    return Response(formats.encode(body), media_type="application/json")


@router.get("/health", responses=_HEALTH, summary="Whether all is well")
async def health(request: Request) -> Response:
    """200 with `{"status": "ok"}` (or `degraded`) and the parts, or 503 with what has `failed`. Needs no key."""
    state: ApiState = request.app.state.api
    parts = [_stream_part(state)]
    if state.health is None:
        parts.append(await _store_part(state))
    else:
        try:
            found = await asyncio.to_thread(state.health)
            parts += [dict(part) for part in found["parts"]]
        except Exception as error:
            parts.append(_part("plant", "failed", f"cannot be asked: {error}"))
    states = {part["state"] for part in parts}
    worst = next((name for name in ("failed", "degraded") if name in states), "ok")
    wrong = [f"{part['name']}: {part['sentence']}" for part in parts if part["state"] != "ok"]
    body = {"status": worst, "wrong": wrong, "parts": parts}
    return Response(formats.encode(body), 503 if worst == "failed" else 200, media_type="application/json")


def _part(name: str, state: str, sentence: str) -> dict[str, Any]:
    return {"name": name, "state": state, "sentence": sentence, "details": {}}


def _stream_part(state: ApiState) -> dict[str, Any]:
    tail = state.tail
    if tail is None or not tail.alive:
        return _part("stream", "failed", "the stream does not run; see the log of the plant")
    if tail.error is not None:
        return _part("stream", "failed", f"the log cannot be read: {tail.error}")
    if tail.lag_s > MAX_TAIL_LAG_S:
        return _part("stream", "degraded", f"{tail.lag_s:.0f} s behind; clients get the newest state only")
    return _part("stream", "ok", "up to date")


async def _store_part(state: ApiState) -> dict[str, Any]:
    try:
        await state.source.positions()
    except Exception as error:
        return _part("store", "failed", str(error))
    return _part("store", "ok", "answers")


@router.get("/metrics", summary="Metrics for Prometheus")
async def metrics(request: Request) -> Response:
    """Prometheus text; each metric's help says what to do about a bad value."""
    state: ApiState = request.app.state.api
    await state.read_left_out()
    return Response(generate_latest(state.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
