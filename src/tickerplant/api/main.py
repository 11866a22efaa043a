"""The ASGI application: REST by FastAPI, the stream as plain ASGI middleware, the dashboard's files at `/`."""

from __future__ import annotations

from importlib import metadata
from typing import Final

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.routing import BaseRoute

from tickerplant.api.http import errors
from tickerplant.api.http.asgi import App, Receive, Scope, Send
from tickerplant.api.http.auth import KEY_PARAMETER, RequireKey
from tickerplant.api.http.direct import DirectRoutes
from tickerplant.api.http.lanes import LaneRoute
from tickerplant.api.http.openapi import document_errors
from tickerplant.api.http.outgoing import BoundAnswers
from tickerplant.api.http.params import check_names
from tickerplant.api.http.repeated_requests import RememberRequests
from tickerplant.api.http.responses import json_response
from tickerplant.api.http.site import CheckSite, ConfineAnswers
from tickerplant.api.metrics import ApiMetrics, CountRequests
from tickerplant.api.routers import (
    alerts,
    analytics,
    coverage,
    historical,
    indicators,
    intraday,
    probes,
    realtime,
    system,
    ticks,
)
from tickerplant.api.state import ApiState

ROUTES: Final = (historical, intraday, ticks, analytics, realtime, indicators, alerts, coverage, system, probes)
"""Modules with routes, in the order of the paths in the OpenAPI document."""
STREAM_PATH: Final = "/v1/stream"
TRY_AGAIN: Final = 1013

DESCRIPTION: Final = """Your own market data: revisable bars, streaming indicators, gap-free history.

An answer with market data contains the log `position` at which it was read. Send that position as `since` to the
WebSocket `/v1/stream`, and the stream resumes exactly there. Errors are `{"error": {"code", "message", "hint"}}`.
"""

NOT_BUILT: Final = """<!doctype html><meta charset="utf-8"><title>Tickerplant</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}</style>
<h1>Tickerplant is running</h1>
<p>The dashboard is not built in this checkout. Build it with
<code>make web</code> and load this page again. Installed packages contain the dashboard.</p>
<ul><li><a href="openapi.json">REST, as OpenAPI</a></li><li><a href="v1/symbols">All symbols</a></li>
<li><a href="v1/status">Positions of log, store and stream</a></li><li><a href="health">Health</a></li>
<li><a href="metrics">Metrics</a></li></ul>
"""


async def known_parameters(request: Request) -> None:
    """Raise BadInput for a parameter that the route does not have.

    A misspelt parameter that is ignored would give a wrong answer. `/health` and `/metrics` accept any parameter,
    because probes and scrapers add their own. An indicator checks its parameters itself.
    """
    if request.url.path.startswith("/v1/") and request.scope["route"].path != indicators.COMPUTE:
        declared = _query_names(request.scope["route"].dependant)
        check_names(request.query_params.keys(), [*declared, KEY_PARAMETER])


def _query_names(dependant: Dependant) -> list[str]:
    """Return the names of the query parameters of a route and its dependencies."""
    own = [field.alias for field in dependant.query_params]
    return own + [name for dependency in dependant.dependencies for name in _query_names(dependency)]


class RouteStream:
    """Middleware that serves WebSockets before the framework, so that no framework code runs per message."""

    def __init__(self, app: App, state: ApiState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream, or call the application."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
        elif scope["path"] == STREAM_PATH and self._state.stream is not None:
            await self._state.stream(scope, receive, send)
        else:
            starting = scope["path"] == STREAM_PATH
            why = "the log or the database is unavailable" if self._state.log_error else "the stream is starting"
            reason = f"{why}; try again, and see /health" if starting else f"no stream here; connect to {STREAM_PATH}"
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": TRY_AGAIN if starting else 4004, "reason": reason})


class HeadAsGet:
    """Middleware that answers HEAD like GET. The server omits the body; the headers contain its size."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application with GET in a copy of the scope. The server needs HEAD in its own scope."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def _routes() -> list[BaseRoute]:
    """Return the routes of all modules."""
    return [route for module in ROUTES for route in module.router.routes]


def _document(app: FastAPI) -> APIRouter:
    """Return the route of the OpenAPI document. The first request builds the document in a quarter of a second."""
    router = APIRouter(route_class=LaneRoute)

    @router.get("/openapi.json", include_in_schema=False)
    async def _openapi() -> Response:
        return json_response(app.openapi())

    return router


def create_app(state: ApiState, metrics: ApiMetrics | None = None) -> FastAPI:
    """Return the application for this state. It serves the stream after `state.stream` is set."""
    app = FastAPI(
        title="Tickerplant", version=metadata.version("tickerplant"), description=DESCRIPTION,
        docs_url=None, redoc_url=None,  # FastAPI's pages load scripts from another host; ours is `/docs`
        openapi_url=None,  # FastAPI would build the document on the server's loop
    )  # fmt: skip
    app.state.api = state
    errors.install(app)
    document_errors(app)
    for routes in ROUTES:
        app.include_router(routes.router, dependencies=[Depends(known_parameters)])

    app.include_router(_document(app))

    @app.get(STREAM_PATH, include_in_schema=False)
    async def _stream() -> Response:
        answer = errors.error_response(
            426, "websocket_only", f"{STREAM_PATH} is a WebSocket", "connect with ws:// or wss://"
        )
        answer.headers["Upgrade"] = "websocket"
        return answer

    if (state.static / "docs.html").is_file():

        @app.get("/docs", include_in_schema=False)
        async def _docs() -> FileResponse:
            return FileResponse(state.static / "docs.html")
    else:

        @app.get("/docs", include_in_schema=False)
        async def _no_docs() -> RedirectResponse:
            return RedirectResponse("openapi.json")

    if (state.static / "index.html").is_file():
        app.mount("/", StaticFiles(directory=state.static, html=True), name="dashboard")
    else:

        @app.get("/", include_in_schema=False)
        async def _not_built(_: Request) -> HTMLResponse:
            return HTMLResponse(NOT_BUILT)

    # The middleware that is added last is the outermost. From the outside: known requests, headers, exceptions, foreign
    # pages, HEAD, API key, stream, request counts, bound of unread answers, kept answers and direct calls.
    app.add_middleware(DirectRoutes, routes=_routes(), answers=state.answers)
    app.add_middleware(BoundAnswers, load=state.load)
    if metrics is not None:
        app.add_middleware(CountRequests, metrics=metrics)
    app.add_middleware(RouteStream, state=state)
    if state.api_key:
        app.add_middleware(RequireKey, key=state.api_key)
    app.add_middleware(HeadAsGet)
    hosts = None if state.api_key else state.hosts
    app.add_middleware(
        CheckSite, hosts=hosts, origins=state.origins, refused=None if metrics is None else metrics.count_refusal
    )
    app.add_middleware(errors.CatchExceptions)
    app.add_middleware(ConfineAnswers)
    app.add_middleware(RememberRequests, repeated=state.repeated)
    return app
