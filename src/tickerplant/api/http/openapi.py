"""Documentation of the REST interface: parameter types that routes share, responses, examples, and the error schema."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI, Path, Query

from tickerplant.api.http.params import MAX_LIMIT, MAX_SKIP
from tickerplant.api.positions import HEADER

Symbol = Annotated[
    str, Path(description="The symbol, in upper or lower case. It may contain a slash: `EUR/USD`.", examples=["AAPL"])
]
Interval = Annotated[str, Query(description="The interval of the bars.", examples=["5m", "100t"])]
Start = Annotated[
    str | None,
    Query(
        description="Start of the range, inclusive: ISO 8601, a date, or seconds, milliseconds or microseconds since "
        "1970. A time without an offset is in `tz`. Without `start`, the answer contains the newest `limit` rows "
        "before `end`.",
        examples=["2026-03-09T09:30:00"],
    ),
]
End = Annotated[
    str | None, Query(description="End of the range, exclusive, in the formats of `start`.", examples=["2026-03-10"])
]
LIMITS: Final[dict[str, Any]] = {"minimum": 1, "maximum": MAX_LIMIT}
"""Bounds of every `limit`, for the document. `params.parse_range` refuses other values."""
Limit = Annotated[
    int,
    Query(description=f"Maximum number of rows, up to {MAX_LIMIT:,}. `next` contains the parameters of the next page.",
          json_schema_extra=LIMITS),
]  # fmt: skip
Skip = Annotated[
    int,
    Query(description="Number of ticks to skip after `start` (without `start`: before `end`), because the previous "
          "page contained them. Copy it from `next`.", json_schema_extra={"minimum": 0, "maximum": MAX_SKIP}),
]  # fmt: skip
Zone = Annotated[
    str,
    Query(description="IANA time zone of times in the request and in the answer. Daily and weekly bars have dates.",
          examples=["America/New_York"]),
]  # fmt: skip
Format = Annotated[Literal["json", "csv"], Query(description="JSON, or CSV with a header line.")]
Times = Annotated[
    Literal["iso", "s", "ms", "us"],
    Query(description="`iso`: ISO 8601 with offset. `s`, `ms`, `us`: numbers since 1970 UTC in this unit."),
]
Adjust = Annotated[
    Literal["none", "splits", "all"],
    Query(description="Price adjustment: `none` (as traded), `splits`, or `all` (splits and dividends)."),
]

REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "A parameter is invalid. The message explains what to send instead."},
    401: {"description": "Missing or invalid API key."},
    403: {"description": "The request has a foreign `Host` or `Origin`."},
    429: {"description": "This client has too many requests waiting. Try again later."},
    500: {"description": "Internal error. The log of Tickerplant contains the reason."},
    503: {"description": "The database or the event log is unavailable, or a limit is reached. Try again."},
}
"""Error responses of every path under `/v1`."""
EXAMPLE: Final[dict[int | str, dict[str, Any]]] = REFUSALS | {
    200: {
        "description": "Rows in ascending order of time, and the log position at which they were read.",
        "headers": {HEADER: {"description": "The position, as JSON.", "schema": {"type": "string"}}},
        "content": {
            "application/json": {
                "example": {
                    "symbol": "AAPL",
                    "interval": "5m",
                    "tz": "America/New_York",
                    "adjust": "none",
                    "position": {
                        "log_id": "3f0c",
                        "generation": 1,
                        "offsets": {"market.prices.raw": {"0": 812}, "market.prices.ohlcv": {"0": 344}},
                    },
                    "count": 1,
                    "next": None,
                    "bars": [
                        {
                            "time": "2026-03-09T09:30:00-04:00", "open": 257.1, "high": 257.9, "low": 256.8,
                            "close": 257.4, "volume": 1204511.0, "vwap": 257.35, "trades": 9123, "state": "final",
                            "complete": True, "revision": 0, "version": 1099511628588, "source": "sandbox",
                        }
                    ],
                }
            },
            "text/csv": {"example": "time,open,high,low,close\n2026-03-09T09:30:00-04:00,257.1,257.9,256.8,257.4\n"},
        },
    },
    404: {"description": "Unknown symbol. The hint contains similar symbols, or the path of the list."},
}  # fmt: skip
"""Responses of a path that returns rows of one symbol."""

TABLE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Rows, and the log position at which they were read.",
        "headers": {HEADER: {"description": "The position, as JSON.", "schema": {"type": "string"}}},
        "content": {"application/json": {"schema": {"type": "object"}}, "text/csv": {"schema": {"type": "string"}}},
    }
}
"""Response of a path that returns a table as JSON or CSV."""
BODY_REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    413: {"description": "The body is too large."},
    415: {"description": "The content type of the body is not JSON."},
}
"""Error responses of a request with a body."""

_ERROR_REFERENCE: Final = {"$ref": "#/components/schemas/Error"}
_TEXT: Final = {"type": "string"}
_ERROR_SCHEMA: Final[dict[str, Any]] = {
    "title": "Error",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint"],
            "properties": {"code": _TEXT, "message": _TEXT, "hint": _TEXT},
            "example": {"code": "unknown_symbol", "message": "unknown symbol APPL", "hint": "did you mean AAPL?"},
        }
    },
}


def document_errors(app: FastAPI) -> None:
    """Replace FastAPI's 422 responses by this API's errors in the OpenAPI document.

    An error response without its own body gets the `Error` schema. Each operation gets the responses 403 and 500.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            schemas["Error"] = _ERROR_SCHEMA
            for operation in (operation for path in document["paths"].values() for operation in path.values()):
                operation["responses"].pop("422", None)
                operation["responses"].setdefault("403", REFUSALS[403] | {})
                operation["responses"].setdefault("500", REFUSALS[500] | {})
                for code, response in operation["responses"].items():
                    if code >= "400":
                        response.setdefault("content", {"application/json": {"schema": _ERROR_REFERENCE}})
        return generate()

    app.openapi = openapi  # type: ignore[method-assign]
