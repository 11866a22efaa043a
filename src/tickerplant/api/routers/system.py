"""`/v1/symbols`, `/v1/status`, `/health` and `/metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from tickerplant.api.blocking import Shared, ask_log
from tickerplant.api.http import formats
from tickerplant.api.http.errors import ApiError
from tickerplant.api.http.lanes import LaneRoute
from tickerplant.api.http.openapi import REFUSALS, TABLE, Format, Times, Zone
from tickerplant.api.http.params import parse_zone
from tickerplant.api.http.responses import csv_response, json_response, positioned_response
from tickerplant.api.positions import Position
from tickerplant.api.state import ApiState
from tickerplant.api.websockets.rows import TOPICS
from tickerplant.core.errors import TickerplantError
from tickerplant.log.port import EventLog, Identity, TopicPartition

HEALTH_WAIT_S: Final = 1.5
"""Maximum seconds that `/health` waits for the checks of the plant."""
METRICS_WAIT_S: Final = 3.0
"""Maximum seconds that `/metrics` waits for the collectors."""
MAX_DELAY_S: Final = 1.0
"""Delay of the event loop in seconds above which the API is degraded."""
REFUSALS_IN_WORDS: Final = {
    "busy": "{} requests refused, because too many waited",
    "client_busy": "{} requests refused, because their client had too many",
    "too_slow": "{} requests ended, because they took too long",
    "answers_unread": "{} answers refused, because clients had not read earlier answers",
    "too_many_connections": "{} connections refused, because the maximum was reached",
    "idle_connection": "{} idle connections closed to make room",
    "slow_request": "{} connections closed, because a request did not end",
    "unread_answer": "{} connections closed, because the client did not read the answer",
    "slow_client": "{} clients of the stream dropped, because they did not read",
    "stream_full": "{} clients of the stream refused, because the maximum was connected",
}
"""Sentences of `/health`, by reason."""
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

router = APIRouter(tags=["plant"], route_class=LaneRoute)


_METRICS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Metrics in the text format of Prometheus.",
    },
    401: REFUSALS[401],
    503: REFUSALS[503],
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
    identity, ends = await ask_log(state.pools.log, lambda: _log_ends(state.log))
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
        state.answers.observe(position)
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
    parts = [_stream_health(state), _api_health(state)]
    if state.shared_health is None:
        parts.append(await _store_health(state))
    else:
        parts += await _plant_health(state.shared_health)
    states = {part["state"] for part in parts}
    worst = next((name for name in ("failed", "degraded") if name in states), "ok")
    wrong = [f"{part['name']}: {part['sentence']}" for part in parts if part["state"] != "ok"]
    body = {"status": worst, "wrong": wrong, "parts": parts}
    return json_response(body, 503 if worst == "failed" else 200)


def _log_ends(log: EventLog) -> tuple[Identity, dict[TopicPartition, int]]:
    """Return the log's identity and end offsets. Blocks."""
    return log.identity(), {source: end for topic in TOPICS for source, (_, end) in log.offsets(topic).items()}


def _component(name: str, state: str, sentence: str, **details: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "sentence": sentence, "details": details}


async def _plant_health(shared: Shared[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the plant's components. If the checks take too long, return the last known states, with their age."""
    try:
        found, age_s = await shared.get(HEALTH_WAIT_S)
    except Exception as error:
        return [_component("plant", "failed", f"health check failed: {error}")]
    parts = [] if found is None else [dict(part) for part in found["parts"]]
    if found is None or age_s > HEALTH_WAIT_S:
        known = "no check has ended yet" if found is None else f"the states are {age_s:.0f} s old"
        parts.append(_component("health checks", "degraded", f"the checks take more than {HEALTH_WAIT_S:g} s; {known}",
                                age_s=round(age_s, 1)))  # fmt: skip
    return parts


def _api_health(state: ApiState) -> dict[str, Any]:
    """Return the load of the last minute: refused requests, and the longest delay of the event loop."""
    refused, delay_s = state.load.recent_refusals(), state.load.longest_delay_s()
    sentences = [REFUSALS_IN_WORDS.get(reason, reason).format(count) for reason, count in sorted(refused.items())]
    if delay_s > MAX_DELAY_S:
        sentences.append(f"the event loop was busy for {delay_s:.1f} s")
    sentence = f"in the last minute: {'; '.join(sentences)}" if sentences else "answers without delay"
    details = {"refused": dict(refused), "loop_delay_s": round(delay_s, 3)}
    return _component("api", "degraded" if sentences else "ok", sentence, **details)


def _stream_health(state: ApiState) -> dict[str, Any]:
    tail = state.tail
    if tail is None and state.log_error:
        return _component(
            "stream",
            "failed",
            f"has not started: {state.log_error}; it starts when the log and the database answer",
        )
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
        async with asyncio.timeout(HEALTH_WAIT_S):
            await state.store.positions()
    except TimeoutError:
        return _component("store", "failed", f"the database has not answered within {HEALTH_WAIT_S:g} s")
    except Exception as error:
        return _component("store", "failed", str(error))
    return _component("store", "ok", "available")


@router.get("/metrics", responses=_METRICS, response_class=PlainTextResponse, summary="Metrics for Prometheus")
async def metrics(request: Request) -> Response:
    """Return metrics in Prometheus text format. Each help text contains advice for a bad value."""
    state: ApiState = request.app.state.api
    await state.refresh_exclusions()
    found, _ = await state.shared_metrics.get(METRICS_WAIT_S)
    if found is None:
        raise ApiError(503, "busy", f"the metrics take longer than {METRICS_WAIT_S:g} s", "try again; see /health")
    return Response(found, headers={"Content-Type": CONTENT_TYPE_LATEST})
