"""`tickerplant tail`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickerplant.app.commands.common import emit, notify, time_option
from tickerplant.app.terminal.output import echo
from tickerplant.core.errors import BadInput
from tickerplant.core.shown import escape_line

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.log.port import ConsumedRecord, EventLog, Start

_SHORT = {"raw": "market.prices.raw", "ohlcv": "market.prices.ohlcv", "analytics": "market.analytics",
          "alerts": "market.alerts", "status": "market.status", "deadletter": "market.deadletter"}  # fmt: skip
_STEP_RECORDS = 1024  # maximum number of records per read when reading backwards


def tail(
    loaded: Loaded,
    topic: Annotated[
        str, typer.Argument(help="Topic: raw, ohlcv, analytics, alerts, status, deadletter, or its full name.")
    ],
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", help="earliest, latest, or the append time of the first record; default: the last rows."
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", min=1, help="Maximum number of rows. Default: 10, or no limit with --follow.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new records until Ctrl-C.")] = False,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Print only rows of this symbol.")] = None,
    headers: Annotated[
        bool, typer.Option("--headers", help="Print one row per record: its header, without its rows.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Print a topic's records, decoded to rows."""
    from tickerplant.app.runtime.signals import signals
    from tickerplant.app.wiring import open_readonly
    from tickerplant.core.schemas import TOPIC
    from tickerplant.core.symbols import check_symbol

    topic = _SHORT.get(topic, topic)
    if topic not in TOPIC:
        raise BadInput(f"there is no topic {topic!r}; use one of {', '.join(_SHORT)}")
    stop, show = threading.Event(), Show(check_symbol(symbol) if symbol is not None else None, headers)
    with open_readonly.log_of(loaded.settings) as event_log, signals(stop):
        limit = count if count is not None else (None if follow else 10)
        printed = 0
        if follow or from_ is not None:
            records = _records(event_log, topic, from_, limit, follow=follow, stop=stop)
            found = (row for record in records for row in show.rows(record))
        else:
            found = (row for row in newest(event_log, topic, show, limit or 10, stop))
        for row in found:
            if limit is not None and printed >= limit:
                return
            printed += 1
            emit(row) if json else echo(_line(row), flush=follow)
        if not printed and not follow:
            notify(f"{topic} has no matching records")


def _records(
    event_log: EventLog, topic: str, from_: str | None, limit: int | None, *, follow: bool, stop: threading.Event
) -> Iterator[ConsumedRecord]:
    offsets = event_log.offsets(topic)
    start = _start(event_log, topic, from_, limit, follow=follow)
    left = {tp for tp, (earliest, end) in offsets.items() if end > earliest}
    with event_log.reader([topic], start=start) as reader:
        idle = 0
        while not stop.is_set():
            records = reader.poll(timeout_s=0.2, max_records=64)
            for record in records:
                yield record
                if record.offset + 1 >= offsets[record.source][1]:
                    left.discard(record.source)
            # Offsets have gaps, so the record before an end may not exist: two empty polls also mean the end.
            idle = 0 if records else idle + 1
            if not follow and (not left or idle >= 2):
                break


def newest(event_log: EventLog, topic: str, show: Show, limit: int, stop: threading.Event) -> list[dict[str, Any]]:
    """Return the last rows of a topic that `show` selects, at most `limit`, in the order in which they were appended.

    Reads each partition, or only the partition of the symbol of `show`, backwards until enough rows are found. Memory
    holds fewer than 2 × `limit` rows of each partition.
    """
    from tickerplant.core.symbols import partition_of

    offsets = event_log.offsets(topic)
    only = partition_of(show.symbol, len(offsets)) if show.symbol is not None else None
    kept: list[_SelectedRecord] = []
    for source, (first, end) in offsets.items():
        wanted, step = limit, limit
        while first < end and wanted > 0 and only in (None, source.partition):
            begin = max(first, end - step)
            found = _last_rows(event_log.read_range(source, begin, end), show, wanted, stop)
            kept += found
            wanted -= sum(len(shown.rows) for shown in found)
            end, step = begin, min(2 * step, _STEP_RECORDS)
    kept.sort(key=lambda shown: shown.place)
    return [row for shown in kept for row in shown.rows][-limit:]


@dataclass(frozen=True, slots=True)
class _SelectedRecord:
    """The selected rows of a record, and its place in the log: append time, partition, offset."""

    place: tuple[int, int, int]
    rows: list[dict[str, Any]]


def _last_rows(
    records: Iterable[ConsumedRecord], show: Show, limit: int, stop: threading.Event
) -> list[_SelectedRecord]:
    """Return the last records that together have at least `limit` rows, or all records if they have fewer rows."""
    found: deque[_SelectedRecord] = deque()
    count = 0
    for record in records:
        if stop.is_set():
            raise KeyboardInterrupt
        rows = show.rows(record, newest=limit)
        if rows:
            found.append(_SelectedRecord((record.appended_at_us, record.partition, record.offset), rows))
            count += len(rows)
        while found and count - len(found[0].rows) >= limit:
            count -= len(found.popleft().rows)
    return list(found)


def _start(event_log: EventLog, topic: str, from_: str | None, limit: int | None, *, follow: bool) -> Start:
    from tickerplant.log.port import EARLIEST, LATEST, at_positions, at_time

    if from_ == "earliest":
        return EARLIEST
    if from_ == "latest" or (from_ is None and follow and limit is None):
        return LATEST
    if from_ is not None:
        return at_time(max(0, time_option(from_, "--from") or 0))
    # The last `limit` records have at least `limit` rows, unless --symbol excludes some.
    back = limit or 10
    return at_positions({tp: max(earliest, end - back) for tp, (earliest, end) in event_log.offsets(topic).items()})


@dataclass(frozen=True, slots=True)
class Show:
    """Selects the rows of a record: all, or the rows of one symbol; if `headers`, one row with the header's fields."""

    symbol: str | None = None
    headers: bool = False

    def rows(self, consumed: ConsumedRecord, *, newest: int | None = None) -> list[dict[str, Any]]:
        """Return the rows of a record; if `newest` is given, only the last `newest` rows.

        A record without rows has one row with its header. An unreadable record has one row with the error. [] if
        `symbol` excludes the record.
        """
        import msgspec

        from tickerplant.core.errors import UnreadableRecord
        from tickerplant.core.records import decode
        from tickerplant.core.times import iso

        place = {"partition": consumed.partition, "offset": consumed.offset}
        try:
            record = decode(consumed.value)
        except UnreadableRecord as error:
            return [{**place, "unreadable": str(error)}]
        batch = self._of_symbol(record.batch)
        if self.symbol is not None and not batch.num_rows:
            return []
        header = msgspec.to_builtins(record.header)
        kind = header.pop("kind")
        if self.headers or not batch.num_columns or not batch.num_rows:
            for name in [name for name in header if name.endswith("_us")]:
                header[name.removesuffix("_us")] = _iso(header.pop(name), iso)
            return [{**place, "kind": kind, **header, **({"rows": batch.num_rows} if batch.num_columns else {})}]
        if newest is not None:
            batch = batch.slice(max(0, batch.num_rows - newest))
        feed = {"feed": header["feed"]} if header.get("feed") else {}
        return [{**place, "kind": kind, **feed, **row} for row in _table_rows(batch)]

    def _of_symbol(self, batch: Any) -> Any:
        import pyarrow.compute as pc

        if self.symbol is None:
            return batch
        named = "symbol" in batch.schema.names
        return batch.filter(pc.equal(batch["symbol"], self.symbol)) if named else batch.slice(0, 0)


def _iso(us: int, iso: Any) -> str:
    try:
        return str(iso(us))
    except OverflowError:
        return "ever" if us > 0 else "never"


def _table_rows(batch: Any) -> Iterator[dict[str, Any]]:
    import datetime as dt
    import math

    from tickerplant.core.times import iso

    for row in batch.to_pylist():
        for name, value in row.items():
            if isinstance(value, dt.datetime):
                row[name] = iso(value)
            elif isinstance(value, float) and not math.isfinite(value):
                row[name] = None
            elif isinstance(value, bytes):
                row[name] = value[:60].hex()
        yield row


def _line(row: Mapping[str, Any]) -> str:
    place = f"{row['partition']}/{row['offset']:<8}"
    rest = [
        f"{name}={escape_line(str(value))}"
        for name, value in row.items()
        if name not in ("partition", "offset", "kind") and value is not None
    ]
    return f"{place} {row.get('kind', ''):<11} {' '.join(rest)}"
