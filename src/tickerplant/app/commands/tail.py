"""`tickerplant tail`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickerplant.app.commands.common import emit, say, time_option
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.app.settings import Loaded
    from tickerplant.log.port import Delivery, EventLog, Start

_SHORT = {"raw": "market.prices.raw", "ohlcv": "market.prices.ohlcv", "analytics": "market.analytics",
          "status": "market.status", "deadletter": "market.deadletter"}  # fmt: skip


def tail(
    loaded: Loaded,
    topic: Annotated[str, typer.Argument(help="A topic, or short: raw, ohlcv, analytics, status, deadletter.")],
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", help="earliest, latest or a time of appending; without it the last records that fit -n."
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", min=1, help="Stop after so many rows (10 without --follow).")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more; Ctrl-C ends.")] = False,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Only rows of this symbol.")] = None,
    headers: Annotated[
        bool, typer.Option("--headers", help="One row a record: what it says, without its rows.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Print a topic's records, decoded to rows."""
    from tickerplant.app import looking
    from tickerplant.app.supervisor import signals
    from tickerplant.core.schemas import TOPIC

    topic = _SHORT.get(topic, topic)
    if topic not in TOPIC:
        raise BadInput(f"there is no topic {topic!r}; use one of {', '.join(_SHORT)}")
    stop = threading.Event()
    with looking.log_of(loaded.settings) as event_log, signals(stop):
        limit = count if count is not None else (None if follow else 10)
        printed = 0
        found = (
            row
            for delivery in _deliveries(event_log, topic, from_, limit, follow=follow, stop=stop)
            for row in _rows(delivery, headers=headers, symbol=symbol)
        )
        for row in found if follow or from_ is not None else _last(found, limit):
            if limit is not None and printed >= limit:
                return
            printed += 1
            emit(row) if json else print(_line(row), flush=follow)
        if not printed and not follow:
            say(f"{topic} has no records there")


def _deliveries(
    event_log: EventLog, topic: str, from_: str | None, limit: int | None, *, follow: bool, stop: threading.Event
) -> Iterator[Delivery]:
    offsets = event_log.offsets(topic)
    start = _start(event_log, topic, from_, limit, follow=follow)
    left = {tp for tp, (earliest, end) in offsets.items() if end > earliest}
    newest = from_ is None and not follow
    waiting: list[Delivery] = []
    with event_log.reader([topic], start=start) as reader:
        idle = 0
        while not stop.is_set():
            deliveries = reader.poll(timeout_s=0.2, max_records=64)
            for delivery in deliveries:
                if newest:
                    waiting.append(delivery)
                else:
                    yield delivery
                if delivery.offset + 1 >= offsets[delivery.source][1]:
                    left.discard(delivery.source)
            # Offsets need not be dense, so an end may never be met: two empty polls are an end too.
            idle = 0 if deliveries else idle + 1
            if not follow and (not left or idle >= 2):
                break
    # The newest of all partitions, in the order in which they came to the log.
    yield from sorted(waiting, key=lambda delivery: (delivery.appended_at_us, delivery.partition, delivery.offset))


def _last(rows: Iterable[dict[str, Any]], limit: int | None) -> Iterable[dict[str, Any]]:
    return deque(rows, maxlen=limit)


def _start(event_log: EventLog, topic: str, from_: str | None, limit: int | None, *, follow: bool) -> Start:
    from tickerplant.log.port import EARLIEST, LATEST, at_positions, at_time

    if from_ == "earliest":
        return EARLIEST
    if from_ == "latest" or (from_ is None and follow and limit is None):
        return LATEST
    if from_ is not None:
        return at_time(time_option(from_, "--from") or 0)
    # The last `limit` records hold at least `limit` rows, unless they are marks.
    back = limit or 10
    return at_positions({tp: max(earliest, end - back) for tp, (earliest, end) in event_log.offsets(topic).items()})


def _rows(delivery: Delivery, *, headers: bool, symbol: str | None) -> Iterator[dict[str, Any]]:
    import msgspec

    from tickerplant.core.errors import UnreadableRecord
    from tickerplant.core.records import decode
    from tickerplant.core.times import iso

    place = {"partition": delivery.partition, "offset": delivery.offset}
    try:
        record = decode(delivery.value)
    except UnreadableRecord as error:
        yield {**place, "unreadable": str(error)}
        return
    said = msgspec.to_builtins(record.header)
    kind = said.pop("kind")
    for name in [name for name in said if name.endswith("_us")]:
        said[name.removesuffix("_us")] = _iso(said.pop(name), iso)
    if headers or not record.batch.num_columns or not record.batch.num_rows:
        if symbol is None:
            yield {
                **place,
                "kind": kind,
                **said,
                **({"rows": record.batch.num_rows} if record.batch.num_columns else {}),
            }
        return
    for row in _table_rows(record.batch):
        if symbol is None or row.get("symbol") == symbol.upper():
            yield {**place, "kind": kind, **({"feed": said["feed"]} if said.get("feed") else {}), **row}


def _iso(us: int, iso: Any) -> str:
    try:
        return str(iso(us))
    except OverflowError:
        return "ever" if us > 0 else "never"


def _table_rows(batch: Any) -> Iterator[dict[str, Any]]:
    import datetime as dt
    import math

    for row in batch.to_pylist():
        for name, value in row.items():
            if isinstance(value, dt.datetime):
                row[name] = value.isoformat().replace("+00:00", "Z")
            elif isinstance(value, float) and not math.isfinite(value):
                row[name] = None
            elif isinstance(value, bytes):
                row[name] = value[:60].hex()
        yield row


def _line(row: Mapping[str, Any]) -> str:
    place = f"{row['partition']}/{row['offset']:<8}"
    rest = [
        f"{name}={value}"
        for name, value in row.items()
        if name not in ("partition", "offset", "kind") and value is not None
    ]
    return f"{place} {row.get('kind', ''):<11} {' '.join(rest)}"
