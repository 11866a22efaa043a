"""Errors in the form that clients receive: `{"error": {"code", "message", "hint"}}`.

`hint` states what to do; it is empty if there is no advice.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tickerplant.api.http.asgi import App, Message, Receive, Scope, Send
from tickerplant.core.errors import BadInput, StoreError, StoreRefused, StoreUnavailable, TickerplantError
from tickerplant.core.shown import cut

READ_METHODS: Final = "GET, HEAD"
"""HTTP methods of every read-only path."""

log = structlog.get_logger(__name__)


class ApiError(Exception):
    """An error answer: HTTP status, machine-readable code, message, and hint ("" for none).

    `retry_after_s`: seconds until the next attempt (header `Retry-After`). None means the default of `error_response`.
    """

    def __init__(
        self, status: int, code: str, message: str, hint: str = "", *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s


def error_body(code: str, message: str, hint: str = "") -> bytes:
    """Return the JSON body of an error answer."""
    return msgspec.json.encode({"error": {"code": code, "message": message, "hint": hint}})


def error_response(
    status: int, code: str, message: str, hint: str = "", *, retry_after_s: int | None = None
) -> Response:
    """Return an error as a response.

    `retry_after_s` is the header `Retry-After`. If it is None, the header is 2 for a 503, and absent otherwise.
    """
    if retry_after_s is None and status == 503:
        retry_after_s = 2
    headers = None if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return Response(error_body(code, message, hint), status, headers, media_type="application/json")


class CatchExceptions:
    """Middleware that answers an unexpected exception with a 500 in the usual form.

    Only the log contains the traceback. If the answer has started, the exception is re-raised and the server closes the
    connection. A truncated body could otherwise pass as a complete answer.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; send a 500 if it raises."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = False

        async def observe(message: Message) -> None:
            nonlocal began
            began = began or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, observe)
        except ClientDisconnect:
            return  # the client has disconnected, so nothing can be sent
        except Exception:
            log.exception("request failed", method=scope["method"], path=scope["path"], began=began)
            if began:
                raise
            response = error_response(500, "internal_error", "internal error", "see the log of Tickerplant")
            await response(scope, receive, send)


def error_answer(error: ApiError | TickerplantError) -> Response:
    """Return the answer to a request that raised this error."""
    if isinstance(error, ApiError):
        return error_response(error.status, error.code, error.message, error.hint, retry_after_s=error.retry_after_s)
    if isinstance(error, BadInput):
        return error_response(400, "bad_parameter", str(error), "see /docs for all parameters")
    if isinstance(error, StoreUnavailable | StoreRefused):
        return error_response(503, "store_unavailable", str(error), "see /health; try again later")
    if isinstance(error, StoreError):
        return error_response(500, "store_error", str(error), "see the log of Tickerplant")
    return error_response(503, "unavailable", str(error), "see /health")


def install(app: FastAPI) -> None:
    """Register handlers that answer ApiError, TickerplantError, and errors of FastAPI in the form of this module.

    `CatchExceptions` answers all other exceptions.
    """

    @app.exception_handler(ApiError)
    async def _api(_: Request, error: ApiError) -> Response:
        return error_answer(error)

    @app.exception_handler(TickerplantError)
    async def _tickerplant(_: Request, error: TickerplantError) -> Response:
        return error_answer(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        return error_response(400, "bad_parameter", _sentence(error), "see /docs for all parameters")

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        return _http_error(request.method, request.url.path, error)


def _http_error(method: str, path: str, error: HTTPException) -> Response:
    if error.status_code == 404:
        return error_response(404, "not_found", f"no resource at {path}", "see /docs for all paths")
    if error.status_code != 405:
        return error_response(error.status_code, "http_error", str(error.detail))
    allowed = _methods(path)
    response = error_response(405, "method_not_allowed", f"{path} does not allow {method}", f"use {allowed}")
    response.headers["Allow"] = allowed
    return response


def _methods(path: str) -> str:
    """Return the allowed HTTP methods of a path, separated by commas. Only alert rules can be written."""
    if path == "/v1/alerts":
        return f"{READ_METHODS}, POST"
    if path.startswith("/v1/alerts/") and not path.endswith("/firings"):
        return f"{READ_METHODS}, PATCH, DELETE"
    return READ_METHODS


def _sentence(error: RequestValidationError) -> str:
    parts = []
    for detail in error.errors():
        where: tuple[Any, ...] = tuple(detail.get("loc", ()))
        name = ".".join(str(part) for part in where[1:]) or "request"
        parts.append(f"`{name}`: {detail.get('msg', 'is invalid')}, got {cut(repr(detail.get('input')))}")
    return "; ".join(parts)
