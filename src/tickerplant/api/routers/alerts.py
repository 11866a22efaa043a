"""Alert rules, and what they fired."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec
from fastapi import APIRouter, Query, Request, Response

from tickerplant.api.alert_rules import NewRule, Rulebook, RuleChange, shown, shown_firing
from tickerplant.api.http import formats, params
from tickerplant.api.http.errors import ApiError
from tickerplant.api.http.params import MAX_LIMIT
from tickerplant.api.routers.market import REFUSALS
from tickerplant.api.state import ApiState
from tickerplant.core.errors import BadInput

T = TypeVar("T")

MAX_BODY_BYTES: Final = 16 * 1024

_RULE: Final = {
    "symbol": "AAPL", "interval": "5m", "left": "RSI(14)", "operator": "crosses_above", "right": "70", "when": "bar",
    "webhook": "https://example.com/hook", "secret": "sixteen letters at least",
}  # fmt: skip
_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}, "example": _RULE}}}
}
Symbol = Annotated[str | None, Query(description="Only those of this symbol.", examples=["AAPL"])]
Limit = Annotated[int, Query(description=f"At most this many, up to {MAX_LIMIT:,}, the newest.")]
Start = Annotated[str | None, Query(description="Only what fired from this instant on (UTC unless it says).")]
End = Annotated[str | None, Query(description="Only what fired before this instant; to page back, the oldest's.")]

router = APIRouter(
    prefix="/v1/alerts", tags=["alerts"], responses=REFUSALS | {404: {"description": "There is no such rule."}}
)


@router.get("", summary="All alert rules")
async def rules(request: Request, symbol: Symbol = None) -> Response:
    """Every rule, oldest first. `signed` says whether webhooks are signed; the secret is never given back."""
    name = None if symbol is None else params.parse_symbol(symbol)
    found = [shown(kept) for kept in await _book(request).all(name)]
    return _answer({"count": len(found), "alerts": found})


@router.post("", summary="A new alert rule", status_code=201, openapi_extra=_BODY)
async def add(request: Request) -> Response:
    """Keep a rule, under an id of its own. It holds from when the log has it (`in_log`), mostly at once."""
    return _answer(shown(await _book(request).add(await _read(request, NewRule))), 201)


@router.get("/firings", summary="What fired")
async def firings(
    request: Request, symbol: Symbol = None, start: Start = None, end: End = None, limit: Limit = 100
) -> Response:
    """The newest alerts that fired, of all rules, newest first, and how their webhooks went."""
    name = None if symbol is None else params.parse_symbol(symbol)
    return await _firings(request, None, name, start, end, limit)


@router.get("/{id}", summary="One alert rule")
async def rule(request: Request, id: str) -> Response:
    """The rule as it is kept."""
    kept = await _book(request).get(id)
    if kept is None:
        raise _unknown(id)
    return _answer(shown(kept))


@router.patch("/{id}", summary="Change an alert rule", openapi_extra=_BODY)
async def change(request: Request, id: str) -> Response:
    """Change what is given and leave the rest. A changed rule begins anew; `active` false pauses it.

    `symbol` and `interval` cannot be changed: make another rule, and remove this one.
    A change of `webhook` and `secret` alone does not: what is still to be posted goes to the new address.
    """
    kept = await _book(request).change(id, await _read(request, RuleChange))
    if kept is None:
        raise _unknown(id)
    return _answer(shown(kept))


@router.delete("/{id}", summary="Remove an alert rule", status_code=204)
async def remove(request: Request, id: str) -> Response:
    """Take a rule away. What it fired stays; what of that is still to be posted is given up."""
    if not await _book(request).remove(id):
        raise _unknown(id)
    return Response(status_code=204)


@router.get("/{id}/firings", summary="What a rule fired")
async def firings_of(request: Request, id: str, start: Start = None, end: End = None, limit: Limit = 100) -> Response:
    """The newest alerts that the rule fired, newest first, and how their webhooks went. A removed rule's stay."""
    return await _firings(request, id, None, start, end, limit)


async def _firings(
    request: Request, rule: str | None, symbol: str | None, start: str | None, end: str | None, limit: int
) -> Response:
    state: ApiState = request.app.state.api
    span = params.parse_span(start, end, limit, params.parse_zone("UTC"))
    async with state.source.read() as reading:
        rows = await reading.firings(rule, symbol, span.start_us, span.end_us, span.limit)
        position = reading.position
    return _answer({"position": position, "count": len(rows), "firings": [shown_firing(row) for row in rows]})


def _book(request: Request) -> Rulebook:
    state: ApiState = request.app.state.api
    if state.rulebook is None:
        raise ApiError(503, "unavailable", "this API keeps no alert rules", "see /health")
    return state.rulebook


async def _read(request: Request, kind: type[T]) -> T:
    """Return the body. It must say that it is JSON, which a page of another site cannot without asking first."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "not_json", "the body must be JSON", "send the header Content-Type: application/json")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(
                413, "too_large", f"the body has more than {MAX_BODY_BYTES} bytes", "a rule has a few hundred"
            )
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"the body cannot be read: {error}") from None


def _unknown(name: str) -> ApiError:
    return ApiError(404, "unknown_alert", f"there is no alert rule {name[:64]!r}", "/v1/alerts lists them")


def _answer(body: dict[str, Any], status: int = 200) -> Response:
    return Response(formats.encode(body), status, media_type="application/json")
