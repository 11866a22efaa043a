"""Errors as users get them: `{"error": {"code", "message", "hint"}}`, with a sentence that says what to do."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from tickerplant.api.http.asgi import App, Message, Receive, Scope, Send
from tickerplant.core.errors import BadInput, StoreError, StoreUnavailable, TickerplantError

METHODS: Final = "GET, HEAD"
"""What every path takes that only reads."""

_REFERENCE: Final = {"$ref": "#/components/schemas/Error"}
_TEXT: Final = {"type": "string"}
_SCHEMA: Final[dict[str, Any]] = {
    "title": "Error",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint"],
            "properties": {"code": _TEXT, "message": _TEXT, "hint": _TEXT},
            "example": {"code": "unknown_symbol", "message": "APPL has never been seen", "hint": "did you mean AAPL?"},
        }
    },
}

log = structlog.get_logger(__name__)


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint


def error_body(code: str, message: str, hint: str = "") -> bytes:
    """Return the JSON of an error."""
    return msgspec.json.encode({"error": {"code": code, "message": message, "hint": hint}})


def error_response(status: int, code: str, message: str, hint: str = "") -> Response:
    """Return an error as a response; one that passes by itself (503) says when to try again."""
    headers = {"Retry-After": "2"} if status == 503 else None
    return Response(error_body(code, message, hint), status, headers, media_type="application/json")


class AnswerFailures:
    """Middleware that answers what nobody foresaw: 500 in the shape of every error, and the traceback to the log only.

    When the answer had begun, the failure goes on to the server, which breaks the connection: half a body is no answer.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and answer for who could not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = False

        async def noting(message: Message) -> None:
            nonlocal began
            began = began or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            log.exception("a request failed", method=scope["method"], path=scope["path"], began=began)
            if began:
                raise
            response = error_response(500, "internal_error", "the plant failed at this", "see the log of the plant")
            await response(scope, receive, send)


def install(app: FastAPI) -> None:
    """Have every error of the application leave in this shape."""

    @app.exception_handler(ApiError)
    async def _api(_: Request, error: ApiError) -> Response:
        return error_response(error.status, error.code, error.message, error.hint)

    @app.exception_handler(TickerplantError)
    async def _ours(_: Request, error: TickerplantError) -> Response:
        if isinstance(error, BadInput):
            return error_response(400, "bad_parameter", str(error), "see /docs for all parameters")
        if isinstance(error, StoreUnavailable):
            return error_response(503, "store_unavailable", str(error), "see /health; trying again helps")
        if isinstance(error, StoreError):
            return error_response(500, "store_error", str(error), "see the log of the plant")
        return error_response(503, "unavailable", str(error), "see /health")

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        return error_response(400, "bad_parameter", _sentence(error), "see /docs for all parameters")

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        return _http_error(request.method, request.url.path, error)


def describe(app: FastAPI) -> None:
    """Have OpenAPI say errors as they are: a bad parameter is a 400, and what has no body of its own has ours."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = made()
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            for theirs in ("HTTPValidationError", "ValidationError"):
                schemas.pop(theirs, None)
            schemas["Error"] = _SCHEMA
            for operation in (one for path in schema["paths"].values() for one in path.values()):
                operation["responses"].pop("422", None)
                for code, response in operation["responses"].items():
                    if code >= "400":
                        response.setdefault("content", {"application/json": {"schema": _REFERENCE}})
        return made()

    app.openapi = openapi  # type: ignore[method-assign]


def _http_error(method: str, path: str, error: HTTPException) -> Response:
    if error.status_code == 404:
        return error_response(404, "not_found", f"there is nothing at {path}", "see /docs for all paths")
    if error.status_code != 405:
        return error_response(error.status_code, "http_error", str(error.detail))
    allowed = _methods(path)
    response = error_response(405, "method_not_allowed", f"{path} does not take {method}", f"it takes {allowed}")
    response.headers["Allow"] = allowed
    return response


def _methods(path: str) -> str:
    """Return what a path takes: rules of alerts are written too."""
    if path == "/v1/alerts":
        return f"{METHODS}, POST"
    if path.startswith("/v1/alerts/") and not path.endswith("/firings"):
        return f"{METHODS}, PATCH, DELETE"
    return METHODS


def _sentence(error: RequestValidationError) -> str:
    parts = []
    for one in error.errors():
        where: tuple[Any, ...] = tuple(one.get("loc", ()))
        name = ".".join(str(word) for word in where[1:]) or "request"
        parts.append(f"`{name}`: {one.get('msg', 'cannot be read')}, got {one.get('input')!r}")
    return "; ".join(parts)
