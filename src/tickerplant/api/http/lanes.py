"""The route class that runs requests in lanes (`api.request_lanes`), and cancels them when their client disconnects."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect

from tickerplant.api.fair_places import client_name
from tickerplant.api.http.answer_cache import Moment
from tickerplant.api.http.params import DEFAULT_LIMIT
from tickerplant.api.request_lanes import RequestLane
from tickerplant.api.resample import BASE, ratio
from tickerplant.core.errors import BadInput
from tickerplant.core.interval import D1, parse

T = TypeVar("T")

CHEAP_ROWS: Final = 5_000
"""Maximum rows of a request in the lane `reading`. 5,000 rows take about 30 ms of CPU time."""
SMALL_ROWS: Final = 500
"""Maximum rows of a request that runs on the server's loop. 500 rows take about 1 ms of CPU time."""
UNWATCHED_S: Final = 0.1
"""Seconds after which a request is cancelled if its connection is closed. Most answers are sent earlier."""
PAGES: Final = ("/v1/historical/", "/v1/intraday/", "/v1/ticks/", "/v1/realtime/", "/v1/analytics/")
"""Prefixes of the paths of the routes that answer with pages of rows."""
ON_SERVER: Final = ("/v1/status", "/health", "/health/live", "/health/ready", "/metrics")
"""Paths that need no lane. Their requests wait for pools of their own, so full lanes do not delay them."""
_count: Final = TypeAdapter(int).validate_python
"""Function that reads a number as FastAPI reads the parameters of a route: `50000.0` is 50,000."""
_COST_OF_ROW: Final = {interval.name: 1 + ratio(interval) / 4 for interval in BASE}
"""Cost of a row of a built interval. A stored row that is only read costs a quarter of a row of the answer."""


class LaneRoute(APIRoute):
    """A route whose GET requests run in a lane. Requests that change data run on the server's loop."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that FastAPI calls on the server's loop."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if request.method != "GET":
                return await handler(request)
            return await run_in_lane(request, lambda: handler(request))

        return handle


async def run_in_lane(request: Request, make: Callable[[], Coroutine[Any, Any, Response]]) -> Response:
    """Return the answer of a GET request. `make` computes the answer, in the lane for the request's cost."""
    if request.scope["path"] in ON_SERVER:
        return await make()
    state, cost, client = request.app.state.api, cost_of(request), client_of(request)

    async def read() -> tuple[Moment, Response]:
        return state.answers.begin(), await make()

    answer: Coroutine[Any, Any, tuple[Moment, Response]]
    if cost <= SMALL_ROWS:
        answer = state.lanes.small.run_here(read, client)
    else:
        lane: RequestLane = state.lanes.computing if cost > CHEAP_ROWS else state.lanes.reading
        answer = lane.run(read, client)
    moment, response = await _until_gone(request, answer)
    state.answers.keep(request.scope, moment, response)
    return response


async def _until_gone(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """Return the answer of a request in a lane.

    Cancels the request and raises ClientDisconnect if the client closes the connection.
    """
    working, gone = asyncio.ensure_future(answer), None
    try:
        await asyncio.wait([working], timeout=UNWATCHED_S)
        if not working.done():
            gone = asyncio.ensure_future(_disconnected(request))
            await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        if gone is not None:
            gone.cancel()
        del working  # an error of the task refers to this frame: otherwise only the garbage collector would free both


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def client_of(request: Request) -> str:
    """Return the text that identifies a request's client for limits (`fair_places.client_name`)."""
    return client_name(request.client.host) if request.client is not None else ""


def is_expensive(request: Request) -> bool:
    """Return True if the request may read or compute more than `CHEAP_ROWS` rows (`cost_of`)."""
    return cost_of(request) > CHEAP_ROWS


def cost_of(request: Request) -> float:
    """Return the maximum count of rows that the request may read or compute.

    A stored row that is only read counts a quarter of a row of the answer. Invalid parameters cost nothing: the route
    refuses them before a read. The newest state costs nothing either. The cost is infinite for computed indicators, for
    coverage of all symbols, and for coverage from a given time. Other requests without pages cost `CHEAP_ROWS`.
    """
    path, query = request.scope["path"], request.query_params
    if path == "/v1/coverage" or (path.startswith("/v1/indicators/") and path.count("/") > 3):
        return math.inf
    if path.startswith("/v1/coverage/"):
        return math.inf if "from" in query else CHEAP_ROWS
    if path.startswith("/v1/realtime/") and not query.keys() & {"start", "end", "limit", "skip"}:
        return 0
    if not path.startswith(PAGES):
        return CHEAP_ROWS
    try:
        interval = parse(query.get("interval", D1.name)).name
        rows = _count(query.get("limit") or DEFAULT_LIMIT) + _count(query.get("skip") or 0)
    except (BadInput, ValidationError):
        return 0
    return rows * _COST_OF_ROW.get(interval, 1)
