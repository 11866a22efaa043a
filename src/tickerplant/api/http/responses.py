"""Answers of the REST routes: JSON and CSV with the log position, pages of rows, and the 404 for an unknown symbol."""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import msgspec
import pyarrow as pa
from fastapi import Response

from tickerplant.api.http import formats
from tickerplant.api.http.answer_cache import PositionedResponse
from tickerplant.api.http.errors import ApiError
from tickerplant.api.http.params import RowRange
from tickerplant.api.http.queries import PageRequest
from tickerplant.api.positions import HEADER, Position
from tickerplant.api.state import ApiState
from tickerplant.api.store_reader import ReadTransaction
from tickerplant.core.arrow_values import times_of

INTERNAL_COLUMNS: Final = ("symbol", "interval", "history", "published_at", "received_at")
"""Columns that an answer omits: the head contains them already, or only the services use them."""

ReadRows: TypeAlias = Callable[[ReadTransaction, int | None, int | None, int], Awaitable[pa.Table]]
"""Function (transaction, start_us, end_us, count) that returns at most `count` rows in ascending order of time. If
`start_us` is None, it returns the newest rows."""
ReadExtra: TypeAlias = Callable[[ReadTransaction, pa.Table], Awaitable[dict[str, Any]]]
"""Function (transaction, the page's rows) that returns the answer's other fields."""


def json_response(body: Any, status: int = 200) -> Response:
    """Return a message as a JSON response."""
    return Response(formats.encode(body), status, media_type="application/json")


def positioned_message(body: Any, position: Position) -> Response:
    """Return a message that was read from the store at `position`, as a JSON response without the header."""
    response = PositionedResponse(formats.encode(body), media_type="application/json")
    response.position = position
    return response


def positioned_response(body: bytes, position: Position) -> Response:
    """Return a JSON response with data from the store, and with the position in a header."""
    response = PositionedResponse(body, media_type="application/json", headers={HEADER: position.json()})
    response.position = position
    return response


def csv_response(
    body: bytes, name: str, position: Position, following: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Response:  # fmt: skip
    """Return a CSV response with the file name `name`.csv.

    Headers contain the position, the next page's parameters (`X-Next`, `following`), and each field of `extra`. Fields
    that are None or {} are omitted.
    """
    headers = {HEADER: position.json(), "Content-Disposition": _disposition(f"{name.replace('/', '-')}.csv")}
    for field, value in {"next": following, **(extra or {})}.items():
        if value is not None and value != {}:
            headers[f"X-{field.replace('_', '-').title()}"] = formats.encode(value).decode()
    response = PositionedResponse(body, media_type="text/csv; charset=utf-8", headers=headers)
    response.position = position
    return response


def _disposition(name: str) -> str:
    """Return the header that names a file.

    A header is ASCII, so a name with other characters is added in the form of RFC 6266.
    """
    plain = re.sub(r"[^A-Za-z0-9.\-:=^_]", "_", name)
    return f'inline; filename="{plain}"' + ("" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}")


async def read_page(
    state: ApiState, page: PageRequest, key: str, read: ReadRows, read_extra: ReadExtra | None = None
) -> Response:
    """Read a page of rows and return the answer.

    Reads one row more than the page has; that row shows whether a next page exists. `key` is the rows' field in JSON.
    `read_extra` runs in the same transaction as `read`.
    """
    requested = page.range
    async with state.store.read() as transaction:
        table = await read(transaction, requested.start_us, requested.end_us, requested.skip + requested.limit + 1)
        if not table.num_rows:
            await require_symbol(transaction, page.symbol)
        extra = {} if read_extra is None else await read_extra(transaction, _cut(table, page)[0])
        position = transaction.position
    return page_response(table, page, page.head(), key, position, extra)


def page_response(
    table: pa.Table, page: PageRequest, head: Mapping[str, Any], key: str, position: Position,
    extra: Mapping[str, Any],
) -> Response:  # fmt: skip
    """Return one page of `table`, which contains one more row if a next page exists.

    `head` identifies the rows. A JSON answer contains `extra` and the rows; a CSV answer contains `extra` in headers
    such as `X-Computed-From`.
    """
    table, following = _cut(table, page)
    if following is not None:
        side = "start" if page.range.start_us is not None else "end"
        following[side] = page.time(following[side])

    if page.format == "csv":
        plain = formats.format_columns(without_internal(table), page.zone, page.times, sessions=page.by_session)
        return csv_response(formats.to_csv(plain), f"{page.symbol}-{key}", position, following, extra)
    document = {**head, **extra, "position": msgspec.Raw(position.raw()), "count": table.num_rows, "next": following}
    rows = formats.json_rows(without_internal(table), page.zone, page.times, sessions=page.by_session)
    return positioned_response(formats.with_rows(document, key, rows), position)


def _cut(table: pa.Table, page: PageRequest) -> tuple[pa.Table, dict[str, Any] | None]:
    """Return the page's rows and the parameters of the next page (times in µs; None for the last page).

    Several ticks may have the same time. If the page ends among them, the next page starts at that time and skips the
    rows of this page. The skipped rows are the first rows from `start` on. If there is no `start`, they are the last
    rows before `end`.
    """
    requested: RowRange = page.range
    ticks = page.interval is None
    rows = table.num_rows - requested.skip
    if rows <= requested.limit:
        return table.slice(0 if requested.start_us is None else requested.skip, max(0, rows)), None
    instants = times_of(table.column("time"))
    if requested.start_us is not None:
        cut = requested.skip + requested.limit
        following = {"start": int(instants[cut])}
        if ticks:
            following["skip"] = int((instants[:cut] == instants[cut]).sum())
        return table.slice(requested.skip, requested.limit), following
    cut = rows - requested.limit
    following = {"end": int(instants[cut])}
    if ticks:
        contained = following["skip"] = int((instants[cut:] == instants[cut - 1]).sum())
        following["end"] += 1 if contained else 0
    return table.slice(cut, requested.limit), following


def without_internal(table: pa.Table) -> pa.Table:
    """Return the table without `INTERNAL_COLUMNS`."""
    return formats.without(table, INTERNAL_COLUMNS)


async def require_symbol(transaction: ReadTransaction, symbol: str) -> None:
    """Raise a 404 for a symbol that the store does not contain. A known symbol without rows is not an error."""
    known = (await transaction.symbols()).column("symbol").to_pylist()
    if symbol not in known:
        raise unknown_symbol(symbol, known)


def unknown_symbol(symbol: str, known: list[str]) -> ApiError:
    """Return the 404 for a symbol that is not in `known`. The hint names similar symbols."""
    near = difflib.get_close_matches(symbol, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "see /v1/symbols for all known symbols"
    return ApiError(404, "unknown_symbol", f"unknown symbol {symbol}", hint)
