"""HTTP requests and responses, and the interface that every vendor's REST protocol implements. Pure."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from tickerplant.protocols.market import Market

MINUTE, DAY, BURST = "minute", "day", "burst"
PREMIUM, DOWN = "premium", "down"


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request. Names in `headers` are lower case; `query` contains the last parameter of each name.

    `credits_used`: credits spent by the caller's key this minute, this request included. `credit_limit`: the limit per
    minute; 0 means no limit.
    """

    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"
    body: bytes = b""
    credits_used: int = 0
    credit_limit: int = 0


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason why a request is not served. Each vendor has its own response to it.

    `kind`: MINUTE or DAY (a quota is spent), BURST (requests too close together), PREMIUM (not in the plan) or DOWN.
    `used`: credits requested in the window, this request included. `limit`: the quota's credits; 0 if unknown.
    `retry_after_s`: seconds until a retry can succeed. `status`: the HTTP status for DOWN.
    """

    kind: str
    used: int = 0
    limit: int = 0
    retry_after_s: int = 60
    status: int = 503


class RestProtocol(Protocol):
    """One vendor's REST API. Methods are pure. `respond` may need seconds of CPU; call it in a thread."""

    name: str

    def matches(self, request: Request) -> bool:
        """Return True if the request's path belongs to this API."""
        ...

    def api_key(self, request: Request) -> str | None:
        """Return the API key of the request: "" if the request has none, None if the API has no keys."""
        ...

    def cost(self, request: Request) -> int:
        """Return the credits that the request costs; 0 if it is free."""
        ...

    def key_error(self) -> Response:
        """Return the response to a missing or invalid key."""
        ...

    def refuse(self, refusal: Refusal, request: Request) -> Response:
        """Return the vendor's response to a request that is not served."""
        ...

    def respond(self, request: Request, market: Market) -> Response:
        """Return the response to an admitted request, or the vendor's error."""
        ...

    def quota_headers(self, used: int, limit: int) -> Mapping[str, str]:
        """Return the headers that report the minute's credits; {} if the vendor has none. `limit` 0 means no limit."""
        ...


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with `body` encoded as JSON."""
    return Response(status, msgspec.json.encode(body), headers=headers or {})


def text_response(text: str, status: int = 200) -> Response:
    """Return a plain text response."""
    return Response(status, text.encode(), "text/plain; charset=utf-8")


def find_zone(name: str) -> dt.tzinfo | None:
    """Return the IANA time zone of a case-sensitive name; None if the name is unknown."""
    try:
        return dt.UTC if name == "UTC" else zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None
