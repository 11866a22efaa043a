"""`/v1/symbols`, `/v1/status`, `/health` and `/metrics`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tickerplant.api.http import formats
from tickerplant.api.http.openapi import REFUSALS, TABLE, Format, Times, Zone
from tickerplant.api.http.params import parse_zone
from tickerplant.api.http.responses import csv_response, json_response, positioned_response
from tickerplant.api.positions import Position
from tickerplant.api.state import ApiState
from tickerplant.api.websockets.rows import TOPICS
from tickerplant.core.errors import TickerplantError

MAX_TAIL_LAG_S: Final = 60.0
"""Seconds behind the log above which the stream is degraded."""

_PARTS: Final = [{"name": "feed sandbox", "state": "ok", "sentence": "up", "details": {"state": "up"}}]
_DOWN: Final = [{"name": "store", "state": "failed", "sentence": "the database is unavailable", "details": {}}]
_HEALTH: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "`ok` or `degraded`: the service works. `wrong` lists the components that need attention.",
        "content": {"application/json": {"example": {"status": "ok", "wrong": [], "parts": _PARTS}}},
    },
    503: {
        "description": "`failed`: a component does not work. `wrong` lists the components that are not `ok`.",
        "content": {
            "application/json": {
                "example": {"status": "failed", "wrong": ["store: the database is unavailable"], "parts": _DOWN}
            }
        },
    },
}

router = APIRouter(tags=["plant"])


_METRICS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Metrics in the text format of Prometheus.",
    },
    401: REFUSALS[401],
}


@router.get("/v1/symbols", responses=REFUSALS | TABLE, summary="List symbols")
async def symbols(
    request: Request, tz: Zone = "UTC", format: Format = "json", times: Times = "iso",
    prefix: Annotated[str, Query(description="Return only symbols that start with this text.", examples=["AA"])] = "",
) -> Response:  # fmt: skip
    """Return every symbol in the store: times of its first and last closed bar, its intervals and its last close."""
    state: ApiState = request.app.state.api
    zone = parse_zone(tz)
    async with state.store.read() as transaction:
        table, position = await transaction.symbols(), transaction.position
    if prefix:
        wanted = prefix.upper()
        table = table.filter([name.startswith(wanted) for name in table.column("symbol").to_pylist()])
    plain = formats.format_columns(table, zone, times)
    if format == "csv":
        return csv_response(formats.to_csv(plain), "symbols", position)
    head = {"position": position, "count": plain.num_rows}
    return positioned_response(formats.to_json(head, "symbols", plain), position)


@router.get("/v1/status", responses=REFUSALS, summary="Positions of log, store and stream")
async def status(request: Request) -> Response:
    """Return the log's identity and end offsets, the positions of store and stream, and the stream's counters."""
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
        applied = await state.store.positions()
    except TickerplantError as error:
        body["store"] = {"error": str(error)}
    else:
        behind = {source: max(0, ends[source] - at) for source, at in applied.items() if source in ends}
        position = Position.of(identity.log_id, identity.generation, applied)
        body["store"] = {"position": position, "records_behind": sum(behind.values())}
    if state.stream is not None and state.tail is not None:
        counters = state.stream.hub.counters
        body["stream"] = {
            "position": state.stream.hub.position,
            "clients": len(state.stream.connections),
            "tail_lag_s": round(state.tail.lag_s, 3),
            "frames": counters.frames,
            "conflated_rows": counters.conflated_rows,
            "dropped": counters.dropped,
            "resyncs": counters.resyncs,
        }
    return json_response(body)


@router.get("/health", responses=_HEALTH, summary="Health of all components")
async def health(request: Request) -> Response:
    """Return 200 with the status `ok` or `degraded`, or 503 with `failed`. No API key is required.

    `parts` contains the state of each component.
    """
    state: ApiState = request.app.state.api
    parts = [_stream_health(state)]
    if state.health is None:
        parts.append(await _store_health(state))
    else:
        try:
            found = await asyncio.to_thread(state.health)
            parts += [dict(part) for part in found["parts"]]
        except Exception as error:
            parts.append(_component("plant", "failed", f"health check failed: {error}"))
    states = {part["state"] for part in parts}
    worst = next((name for name in ("failed", "degraded") if name in states), "ok")
    wrong = [f"{part['name']}: {part['sentence']}" for part in parts if part["state"] != "ok"]
    body = {"status": worst, "wrong": wrong, "parts": parts}
    return json_response(body, 503 if worst == "failed" else 200)


def _component(name: str, state: str, sentence: str) -> dict[str, Any]:
    return {"name": name, "state": state, "sentence": sentence, "details": {}}


def _stream_health(state: ApiState) -> dict[str, Any]:
    tail = state.tail
    if tail is None or not tail.alive:
        return _component("stream", "failed", "the stream is not running; see the log of Tickerplant")
    if tail.error is not None:
        return _component(
            "stream", "failed", f"the log cannot be read: {tail.error}; the stream tries again every second"
        )
    if tail.lag_s > MAX_TAIL_LAG_S:
        return _component(
            "stream", "degraded", f"{tail.lag_s:.0f} s behind the log; clients receive the newest state only"
        )
    return _component("stream", "ok", "up to date")


async def _store_health(state: ApiState) -> dict[str, Any]:
    try:
        await state.store.positions()
    except Exception as error:
        return _component("store", "failed", str(error))
    return _component("store", "ok", "available")


@router.get("/metrics", responses=_METRICS, response_class=PlainTextResponse, summary="Metrics for Prometheus")
async def metrics(request: Request) -> Response:
    """Return metrics in Prometheus text format. Each help text contains advice for a bad value."""
    state: ApiState = request.app.state.api
    await state.refresh_exclusions()
    return Response(generate_latest(state.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
