"""The application: REST by FastAPI, the stream beside it as plain ASGI, the dashboard's files at `/`."""

from __future__ import annotations

from importlib import metadata
from typing import Final

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from tickerplant.api.http import errors
from tickerplant.api.http.asgi import App, Receive, Scope, Send
from tickerplant.api.http.auth import KEY_PARAMETER, RequireKey
from tickerplant.api.http.params import check_names
from tickerplant.api.metrics import ApiMetrics, CountRequests
from tickerplant.api.routers import alerts, coverage, indicators, market, system
from tickerplant.api.state import ApiState

STREAM_PATH: Final = "/v1/stream"
TRY_AGAIN: Final = 1013

DESCRIPTION: Final = """Market data of your own plant: revisable bars, streaming indicators, gap-free history.

Every answer says the log `position` that it was read at. Give it as `since` to the WebSocket `/v1/stream`,
and the stream goes on from exactly there. Errors are `{"error": {"code", "message", "hint"}}`.
"""

NOT_BUILT: Final = """<!doctype html><meta charset="utf-8"><title>Tickerplant</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}</style>
<h1>Tickerplant runs</h1>
<p>The dashboard is not built in this checkout. Build it with
<code>make web</code> and load this page again; packages bring it along.</p>
<ul><li><a href="openapi.json">REST, as OpenAPI</a></li><li><a href="v1/symbols">All symbols</a></li>
<li><a href="v1/status">Where log, store and stream are</a></li><li><a href="health">Health</a></li>
<li><a href="metrics">Metrics</a></li></ul>
"""


async def known_parameters(request: Request) -> None:
    """Refuse a parameter that the route does not have: ignored, a misspelt one would get another question's answer.

    Whoever asks for health or metrics may add what he likes: those are machines with habits of their own. An indicator
    checks its parameters itself.
    """
    if request.url.path.startswith("/v1/") and request.scope["route"].path != indicators.COMPUTE:
        declared = [field.alias for field in request.scope["route"].dependant.query_params]
        check_names(request.query_params.keys(), [*declared, KEY_PARAMETER])


class StreamBeside:
    """Middleware that takes the WebSocket out before the framework: per message there is nothing between."""

    def __init__(self, app: App, state: ApiState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream, or pass on."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
        elif scope["path"] == STREAM_PATH and self._state.stream is not None:
            await self._state.stream(scope, receive, send)
        else:
            there = scope["path"] == STREAM_PATH
            reason = "the stream is starting; try again" if there else f"the stream is at {STREAM_PATH}"
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": TRY_AGAIN if there else 4004, "reason": reason})


class HeadAsGet:
    """Middleware that answers HEAD as it would GET; the server leaves the body out, and the headers tell its size."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on. The server keeps its own scope, which still says HEAD."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def create_app(state: ApiState, metrics: ApiMetrics | None = None) -> FastAPI:
    """Return the application on this state; the stream is served once `state.stream` is set."""
    app = FastAPI(
        title="Tickerplant", version=metadata.version("tickerplant"), description=DESCRIPTION,
        docs_url=None, redoc_url=None,  # theirs load their scripts from another host; ours come with the dashboard
    )  # fmt: skip
    app.state.api = state
    errors.install(app)
    errors.describe(app)
    app.include_router(market.router, dependencies=[Depends(known_parameters)])
    app.include_router(indicators.router, dependencies=[Depends(known_parameters)])
    app.include_router(alerts.router, dependencies=[Depends(known_parameters)])
    app.include_router(coverage.router, dependencies=[Depends(known_parameters)])
    app.include_router(system.router, dependencies=[Depends(known_parameters)])

    @app.get(STREAM_PATH, include_in_schema=False)
    async def _stream() -> Response:
        answer = errors.error_response(
            426, "websocket_only", f"{STREAM_PATH} is a WebSocket", "connect to it with ws:// or wss://"
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

    # The last one added is the outermost: failures, then HEAD, key, stream, counting.
    if metrics is not None:
        app.add_middleware(CountRequests, metrics=metrics)
    app.add_middleware(StreamBeside, state=state)
    if state.api_key:
        app.add_middleware(RequireKey, key=state.api_key)
    app.add_middleware(HeadAsGet)
    app.add_middleware(errors.AnswerFailures)
    return app
