"""`/v1/alerts`: alert rules, and the alerts that they fired."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Final, TypeVar

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from tickerplant.api.alert_rules import AlertRuleManager, NewRule, RuleChange, firing_json, rule_json
from tickerplant.api.http import params
from tickerplant.api.http.errors import ApiError
from tickerplant.api.http.lanes import LaneRoute, client_of
from tickerplant.api.http.openapi import BODY_REFUSALS, LIMITS, REFUSALS
from tickerplant.api.http.params import MAX_LIMIT
from tickerplant.api.http.responses import json_response, positioned_message
from tickerplant.api.state import ApiState
from tickerplant.core.alerts import RULE_ID, is_rule_id
from tickerplant.core.errors import BadInput

T = TypeVar("T")

MAX_BODY_BYTES: Final = 16 * 1024

_RULE: Final = {
    "symbol": "AAPL", "interval": "5m", "left": "RSI(14)", "operator": "crosses_above", "right": "70", "when": "bar",
    "webhook": "https://example.com/hook", "secret": "sixteen letters at least",
}  # fmt: skip


def _body(kind: type) -> dict[str, Any]:
    """Return the description of a request with a body of this type."""
    (schema,), components = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    schema = components.get(kind.__name__, schema)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": _RULE}}}}


Symbol = Annotated[str | None, Query(description="Return only rules or alerts of this symbol.", examples=["AAPL"])]
Limit = Annotated[
    int,
    Query(description=f"Maximum number of alerts, up to {MAX_LIMIT:,}; the newest alerts are returned.",
          json_schema_extra=LIMITS),
]  # fmt: skip
RuleId = Annotated[str, Path(description="The id of an alert rule.", json_schema_extra={"pattern": RULE_ID})]
Start = Annotated[
    str | None, Query(description="Return only alerts fired at or after this time (UTC if it has no offset).")
]
End = Annotated[
    str | None,
    Query(description="Return only alerts fired before this time. To page back, send the time of the oldest alert."),
]

router = APIRouter(
    prefix="/v1/alerts",
    tags=["alerts"],
    route_class=LaneRoute,
    responses=REFUSALS | {404: {"description": "Unknown alert rule."}},
)


@router.get("", summary="List alert rules")
async def rules(request: Request, symbol: Symbol = None) -> Response:
    """Return every rule, oldest first. `signed` is true if webhooks are signed. The secret is never returned."""
    name = None if symbol is None else params.parse_symbol(symbol)
    found = [rule_json(stored) for stored in await _manager(request).all(name)]
    return json_response({"count": len(found), "alerts": found})


@router.post("", summary="Create an alert rule", status_code=201, responses=BODY_REFUSALS,
             openapi_extra=_body(NewRule))  # fmt: skip
async def add(request: Request) -> Response:
    """Store a rule under a new id. It takes effect when the event log contains it (`in_log`), usually at once."""
    given = await _read(request, NewRule)
    async with _place(request):
        return json_response(rule_json(await _manager(request).add(given)), 201)


@router.get("/firings", summary="Fired alerts")
async def firings(
    request: Request, symbol: Symbol = None, start: Start = None, end: End = None, limit: Limit = 100
) -> Response:
    """Return the newest fired alerts of all rules, newest first, with the state of their webhooks."""
    name = None if symbol is None else params.parse_symbol(symbol)
    return await _firings(request, None, name, start, end, limit)


@router.get("/{id}", summary="Read an alert rule")
async def rule(request: Request, id: RuleId) -> Response:
    """Return the stored rule."""
    stored = await _manager(request).get(_known_form(id))
    if stored is None:
        raise _unknown(id)
    return json_response(rule_json(stored))


@router.patch("/{id}", summary="Change an alert rule", responses=BODY_REFUSALS, openapi_extra=_body(RuleChange))
async def change(request: Request, id: RuleId) -> Response:
    """Change the given fields. A changed rule starts again as a new revision; `active` false pauses it.

    `symbol` and `interval` cannot change: create another rule and remove this one. A change of only `webhook` or
    `secret` creates no new revision; pending webhooks are sent to the new address.
    """
    given = await _read(request, RuleChange)
    async with _place(request):
        stored = await _manager(request).change(_known_form(id), given)
    if stored is None:
        raise _unknown(id)
    return json_response(rule_json(stored))


@router.delete("/{id}", summary="Remove an alert rule", status_code=204)
async def remove(request: Request, id: RuleId) -> Response:
    """Remove a rule. Its fired alerts remain stored; its pending webhooks are given up."""
    async with _place(request):
        removed = await _manager(request).remove(_known_form(id))
    if not removed:
        raise _unknown(id)
    return Response(status_code=204)


@router.get("/{id}/firings", summary="Fired alerts of a rule")
async def firings_of(
    request: Request, id: RuleId, start: Start = None, end: End = None, limit: Limit = 100
) -> Response:
    """Return the newest alerts that the rule fired, newest first, with the state of their webhooks.

    The alerts of a removed rule remain stored.
    """
    return await _firings(request, _known_form(id), None, start, end, limit)


async def _firings(
    request: Request, rule: str | None, symbol: str | None, start: str | None, end: str | None, limit: int
) -> Response:
    state: ApiState = request.app.state.api
    requested = params.parse_range(start, end, limit, params.parse_zone("UTC"))
    async with state.store.read() as transaction:
        rows = await transaction.firings(rule, symbol, requested.start_us, requested.end_us, requested.limit)
        position = transaction.position
    firings = [firing_json(row) for row in rows]
    return positioned_message({"position": position, "count": len(rows), "firings": firings}, position)


def _manager(request: Request) -> AlertRuleManager:
    state: ApiState = request.app.state.api
    if state.alert_rules is None:
        raise ApiError(503, "unavailable", "this API stores no alert rules", "see /health")
    return state.alert_rules


def _place(request: Request) -> AbstractAsyncContextManager[None]:
    """Return the place of a change, held for a block. It is taken after the body is read, which may take long."""
    state: ApiState = request.app.state.api
    return state.lanes.writing.place(client_of(request))


async def _read(request: Request, kind: type[T]) -> T:
    """Return the decoded body of a request.

    The content type must be `application/json`, which a page of another site cannot send without CORS.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "not_json", "the body must be JSON", "send the header Content-Type: application/json")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(
                413,
                "too_large",
                f"the body has more than {MAX_BODY_BYTES} bytes",
                "send one rule, which has a few hundred bytes",
            )
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"the body is invalid: {error}") from None


def _known_form(id: str) -> str:
    """Return the id of a rule. Raises ApiError (404) for a text that no rule has as its id."""
    if not is_rule_id(id):
        raise _unknown(id)
    return id


def _unknown(name: str) -> ApiError:
    return ApiError(404, "unknown_alert", f"unknown alert rule {name[:64]!r}", "see /v1/alerts for all rules")
