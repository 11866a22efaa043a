"""`/health/live` and `/health/ready`, for container platforms and load balancers. They need no API key.

Both answer on the server's loop, outside the lanes, so that many or slow requests cannot delay them. They query neither
the log nor the components of the plant.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from tickerplant.api.http.lanes import LaneRoute
from tickerplant.api.http.responses import json_response
from tickerplant.api.state import ApiState

_LIVE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The server's event loop runs.",
        "content": {"application/json": {"example": {"status": "live"}}},
    }
}
_WRONG: Final = ["stream: the stream is starting"]
_READY: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Requests can be answered from the store. The stream has started, or the log is unavailable.",
        "content": {"application/json": {"example": {"status": "ready", "wrong": []}}},
    },
    503: {
        "description": "The database does not answer, or the stream has not started. `wrong` contains the reasons.",
        "content": {"application/json": {"example": {"status": "not_ready", "wrong": _WRONG}}},
    },
}

router = APIRouter(prefix="/health", tags=["plant"], route_class=LaneRoute)


@router.get("/live", responses=_LIVE, summary="Probe of the process")
async def live() -> Response:
    """Return 200 while the server's event loop runs. Restart the process if the probe gets no answer."""
    return json_response({"status": "live"})


@router.get("/ready", responses=_READY, summary="Probe of the readiness for requests")
async def ready(request: Request) -> Response:
    """Return 200 if requests can be answered from the store, and the stream has started; otherwise 503.

    The answer stays 200 while the event log is unavailable, because REST then answers from the store.
    """
    state: ApiState = request.app.state.api
    error = await state.store_probe.error()
    wrong = [f"store: {error}"] if error else []
    if state.tail is None and not state.log_error:
        wrong.append("stream: the stream is starting")
    elif state.tail is not None and not state.tail.alive:
        wrong.append("stream: the stream has stopped; see the log of Tickerplant")
    return json_response({"status": "not_ready" if wrong else "ready", "wrong": wrong}, 503 if wrong else 200)
