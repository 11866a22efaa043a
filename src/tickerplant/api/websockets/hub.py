"""The hub: log records in, frames for many clients out. Pure state; the endpoint owns sockets and clocks.

Clients with the same subscription form a group. A batch of records is filtered and encoded once per group, and all its
clients receive the same text. Each client has a bounded `Outbox`. A client that reads too slowly is *conflated*. Its
queue contains each closed bar, final value, alert and status event, but only the keys of ticks and forming rows. When
the queue is empty, one `conflated` message contains the newest state of those keys. A client whose queue still exceeds
the hard limit fails, and the endpoint drops it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickerplant.api.positions import Position
from tickerplant.api.websockets.latest import Latest
from tickerplant.api.websockets.outbox import HARD_LIMIT_BYTES, SOFT_LIMIT_BYTES, Outbox, frames_of, to_text
from tickerplant.api.websockets.protocol import NOTHING, Filter, Subscription
from tickerplant.api.websockets.rows import (
    ANALYTICS,
    BAR_COLUMNS,
    BARS,
    NOT_LAST,
    STATUS,
    TICK_COLUMNS,
    TICKS,
    VALUE_KEY,
    StreamRecord,
    plain,
)
from tickerplant.core import schemas
from tickerplant.log.port import Identity, TopicPartition

_STATE: Final = BAR_COLUMNS.index("state")
RING_RECORDS: Final = 4_096
"""Maximum recent records kept in memory: 20 s at 200 records/s. A `since` position within them needs no read of
the log."""
RUN_ROWS: Final = 1_000
"""Maximum rows that are encoded in one step, about 5 ms of CPU time. A batch may have 20,000 rows."""
RING_BYTES: Final = 16 * 1024 * 1024
"""Maximum bytes of the recent records."""


@dataclass(slots=True)
class HubCounters:
    """Counters of the hub, for the metrics."""

    records: int = 0
    unreadable: int = 0
    frames: int = 0
    conflated_rows: int = 0
    dropped: int = 0
    resyncs: int = 0


class Hub:
    """The newest state, the recent records, and the clients grouped by subscription. Belongs to one thread."""

    def __init__(
        self,
        identity: Identity,
        positions: Mapping[TopicPartition, int],
        *,
        soft_bytes: int = SOFT_LIMIT_BYTES,
        hard_bytes: int = HARD_LIMIT_BYTES,
        ring_records: int = RING_RECORDS,
        ring_bytes: int = RING_BYTES,
    ) -> None:
        self.identity = identity
        self.positions = dict(positions)
        self.counters = HubCounters()
        self.clients: set[Outbox] = set()
        self._soft_bytes = soft_bytes
        self._hard_bytes = hard_bytes
        self._ring_records = ring_records
        self._ring_bytes = ring_bytes
        self._ring: deque[StreamRecord] = deque()
        self._ring_size = 0
        self._ring_floor = dict(positions)
        self._groups: dict[Subscription, tuple[Filter, set[Outbox]]] = {}
        self._ticks = Latest()
        self._bars = Latest()
        self._bar_intervals: set[str] = set()
        self._finals = Latest()  # the newest closed bar, for keys whose newest bar is withdrawn
        self._values: dict[tuple[str, bool], Latest] = {}
        self._feeds: dict[tuple[str, int], dict[str, Any]] = {}
        self._changed_feeds: set[tuple[str, int]] = set()  # feeds with an event in the log since the stream's start

    # clients

    def join(self, wake: Callable[[], None]) -> Outbox:
        """Return the outbox of a new client without a subscription."""
        client = Outbox(wake, soft_bytes=self._soft_bytes, hard_bytes=self._hard_bytes)
        self.clients.add(client)
        return client

    def leave(self, client: Outbox) -> None:
        """Remove a client. Safe to call twice."""
        self.subscribe(client, NOTHING)
        self.clients.discard(client)

    def subscribe(self, client: Outbox, subscription: Subscription) -> None:
        """Replace the client's subscription, effective with the next record."""
        previous = self._groups.get(client.subscription)
        if previous is not None:
            previous[1].discard(client)
            if not previous[1]:
                del self._groups[client.subscription]
        client.subscription = subscription
        if subscription:
            group = self._groups.get(subscription)
            if group is None:
                group = self._groups[subscription] = (Filter(subscription), set())
            group[1].add(client)

    @property
    def position(self) -> Position:
        """Return the position after the last applied record of each partition."""
        return Position.of(self.identity.log_id, self.identity.generation, self.positions)

    # records

    def apply(self, records: Sequence[StreamRecord], *, lagging: bool = False) -> None:
        """Apply records in log order and queue each client's rows.

        `lagging`: the tail is far behind, so clients receive the newest state instead of every tick and forming row.
        """
        for _ in self.apply_in_steps(records, lagging=lagging):
            pass

    def apply_in_steps(self, records: Sequence[StreamRecord], *, lagging: bool = False) -> Iterator[None]:
        """Apply records as `apply` does. Yield after each record, and after each run of rows for a group of clients.

        Between two steps, `position` is ahead of the clients' queues. No client may then receive the position or
        subscribe.
        """
        fresh = []
        for record in records:
            if record.offset < self.positions.get(record.source, 0):
                continue
            self.positions[record.source] = record.offset + 1
            self._append_to_ring(record)
            fresh.append(record)
            self._update_state(record)
            yield
        self.counters.records += len(fresh)
        if lagging:
            for client in self.clients:
                client.conflating = True
        for chosen, clients in [(chosen, list(clients)) for chosen, clients in self._groups.values()]:
            for run in _runs(fresh):
                for frame in frames_of(chosen, run):
                    self.counters.frames += len(clients)
                    for client in clients:
                        self.counters.conflated_rows += client.offer(frame)
                yield
        for record in fresh:
            record.release_tuples()

    def send_position(self) -> None:
        """Send the position to all subscribed clients that are up to date, so that they can resume near the end."""
        text = ""
        for client in self.clients:
            if client.subscription and not client.conflating and not client.catching_up:
                text = text or to_text({"type": "position", "position": self.position})
                client.put(text)

    def recent(self, positions: Mapping[TopicPartition, int]) -> list[StreamRecord] | None:
        """Return the recent records from these positions on, or None if memory no longer contains all of them."""
        for source, offset in positions.items():
            if offset < self._ring_floor.get(source, 0):
                return None
        return [record for record in self._ring if record.offset >= positions.get(record.source, record.offset)]

    def is_behind(self, positions: Mapping[TopicPartition, int]) -> bool:
        """Return True if records before these positions are not applied yet."""
        return any(self.positions.get(source, 0) < offset for source, offset in positions.items())

    def seed(self, records: Iterable[StreamRecord]) -> None:
        """Add rows from the store to the newest state. Rows older than the current state change nothing.

        The state of a feed is added only if the log has had no event of the feed since the stream's start.
        """
        for record in records:
            if record.event is None:
                self._update_state(record)
            elif (key := _feed_key(record.event)) not in self._changed_feeds:
                self._feeds[key] = record.event

    def _append_to_ring(self, record: StreamRecord) -> None:
        self._ring.append(record)
        self._ring_size += record.size_bytes
        while len(self._ring) > self._ring_records or self._ring_size > self._ring_bytes:
            oldest = self._ring.popleft()
            self._ring_size -= oldest.size_bytes
            self._ring_floor[oldest.source] = oldest.offset + 1

    def _update_state(self, record: StreamRecord) -> None:
        if record.unreadable:
            self.counters.unreadable += 1
        elif record.kind == TICKS:
            self._update_ticks(record)
        elif record.kind == BARS:
            self._update_bars(record)
        elif record.kind == ANALYTICS:
            self._update_values(record)
        elif record.event is not None and record.event["event"] == "feed":
            key, state = _feed_key(record.event), record.event["state"]
            if state not in ("up", "down", "ended"):  # the other states report ticks, not whether the feed is up
                return
            self._changed_feeds.add(key)
            if state == "ended":
                self._feeds.pop(key, None)
            else:
                self._feeds[key] = record.event

    def _update_ticks(self, record: StreamRecord) -> None:
        columns = record.columns
        eligible = (columns["flags"] & NOT_LAST) == 0
        if eligible.all():
            self._ticks.put(record.symbols, record.codes, columns["time_us"], None, columns)
        elif eligible.any():
            chosen = {name: column[eligible] for name, column in columns.items()}
            self._ticks.put(record.symbols, record.codes[eligible], chosen["time_us"], None, chosen)

    def _update_bars(self, record: StreamRecord) -> None:
        keys, which = _by_interval(record)
        self._bar_intervals.update(set(record.columns["interval"].tolist()))
        self._bars.put(keys, which, record.columns["time_us"], record.columns["version"], record.columns)
        states = record.columns["state"]
        for state in (schemas.FINAL, schemas.WITHDRAWN):
            _put_some(self._finals, keys, which, states == state, record.columns, in_place=state == schemas.WITHDRAWN)

    def _update_values(self, record: StreamRecord) -> None:
        """Update values, separately for forming bars. A withdrawn row removes its bar's values from both tables."""
        intervals, forming = record.columns["interval"], record.forming
        withdrawn = record.columns["state"] == schemas.WITHDRAWN
        for interval in set(intervals.tolist()):
            here = intervals == interval
            final, live = (self._values.setdefault((interval, is_forming), Latest()) for is_forming in (False, True))
            _put_some(final, record.symbols, record.codes, here & ~forming & ~withdrawn, record.columns)
            _put_some(final, record.symbols, record.codes, here & withdrawn, record.columns, in_place=True)
            _put_some(live, record.symbols, record.codes, here & (forming | withdrawn), record.columns)

    # newest state

    def snapshot(self, wanted: Filter) -> dict[str, Any]:
        """Return the newest state of the selected rows, as a `snapshot` message."""
        message: dict[str, Any] = {"type": "snapshot", "position": self.position}
        if wanted.wants(TICKS):
            keys = None if wanted.every(TICKS) else [symbol for symbol, _ in wanted.keys(TICKS)]
            message["ticks"] = _table(self._ticks, keys, TICK_COLUMNS)
        if wanted.wants(BARS):
            message["bars"] = self._present_bars(self._bar_keys(wanted))
        if wanted.wants(ANALYTICS):
            message["analytics"] = self._value_tables(wanted)
        if wanted.wants(STATUS):
            message["status"] = list(self._feeds.values())
        return message

    def conflated(self, client: Outbox) -> str | None:
        """Return a `conflated` message with the newest state of the client's conflated rows; None if there are none."""
        keys, skipped = client.pop_conflated()
        if not keys:
            return None
        message: dict[str, Any] = {"type": "conflated", "skipped": skipped, "position": self.position}
        if TICKS in keys:
            message["ticks"] = _table(self._ticks, sorted(map(str, keys[TICKS])), TICK_COLUMNS)
        if BARS in keys:
            bars = message["bars"] = _table(self._bars, list(keys[BARS]), BAR_COLUMNS)
            bars["rows"] = [row for row in bars["rows"] if row[_STATE] == schemas.FORMING]
        if ANALYTICS in keys:
            by_interval: dict[str, list[Hashable]] = {}
            for key in keys[ANALYTICS]:
                assert isinstance(key, tuple)
                by_interval.setdefault(key[1], []).append(key[0])
            message["analytics"] = [
                _values_table(self._values[interval, True], symbols)
                for interval, symbols in sorted(by_interval.items())
                if (interval, True) in self._values
            ]
        return to_text(message)

    def _present_bars(self, keys: list[Hashable] | None) -> dict[str, Any]:
        """Return the newest bar of each key. If it is withdrawn, return the closed bar before it, if there is one."""
        found = _table(self._bars, keys, BAR_COLUMNS)
        withdrawn = {(row[1], row[2]): row[0] for row in found["rows"] if row[_STATE] == schemas.WITHDRAWN}
        if withdrawn:
            before = _table(self._finals, list(withdrawn), BAR_COLUMNS)["rows"]
            found["rows"] = [row for row in found["rows"] if row[_STATE] != schemas.WITHDRAWN]
            found["rows"] += [
                row for row in before if row[_STATE] == schemas.FINAL and row[0] < withdrawn[row[1], row[2]]
            ]
        return found

    def _bar_keys(self, wanted: Filter) -> list[Hashable] | None:
        keys: list[Hashable] = []
        named = wanted.keys(BARS)
        subscribed = {channel for channel, symbol in wanted.subscription if symbol == "*"}
        if "bars" in subscribed:
            return None
        if wanted.every(BARS):
            keys.extend(key for key in self._bars if isinstance(key, tuple) and f"bars.{key[1]}" in subscribed)
        intervals = sorted(self._bar_intervals)
        for symbol, interval in named:
            keys.extend((symbol, name) for name in ((interval,) if interval else intervals))
        return list(dict.fromkeys(keys))

    def _value_tables(self, wanted: Filter) -> list[dict[str, Any]]:
        tables = []
        subscribed = {channel for channel, symbol in wanted.subscription if symbol == "*"}
        named: dict[str | None, list[Hashable]] = {}
        for symbol, at in wanted.keys(ANALYTICS):
            named.setdefault(at, []).append(symbol)
        for (interval, _), table in sorted(self._values.items()):
            if "analytics" in subscribed or f"analytics.{interval}" in subscribed:
                symbols: list[Hashable] | None = None
            else:
                symbols = list(dict.fromkeys([*named.get(None, ()), *named.get(interval, ())]))
            if symbols is None or symbols:
                found = _values_table(table, symbols)
                if found["rows"]:
                    tables.append(found)
        return tables


def _runs(records: Sequence[StreamRecord]) -> Iterator[Sequence[StreamRecord]]:
    """Yield the records in consecutive runs of at most `RUN_ROWS` rows, or of one larger record."""
    begin = rows = 0
    for at, record in enumerate(records):
        if rows and rows + len(record) > RUN_ROWS:
            yield records[begin:at]
            begin, rows = at, 0
        rows += len(record)
    if records:
        yield records[begin:]


def _feed_key(event: Mapping[str, Any]) -> tuple[str, int]:
    return event["feed"], event["partition"]


def _by_interval(record: StreamRecord) -> tuple[list[Hashable], npt.NDArray[np.int64]]:
    intervals = record.columns["interval"]
    names = sorted(set(intervals.tolist()))
    codes = np.zeros(len(record), dtype=np.int64)
    for number, name in enumerate(names):
        codes[intervals == name] = number
    unique, which = np.unique(record.codes * len(names) + codes, return_inverse=True)
    keys: list[Hashable] = [(record.symbols[code // len(names)], names[code % len(names)]) for code in unique.tolist()]
    return keys, which


def _table(table: Latest, keys: Iterable[Hashable] | None, names: tuple[str, ...]) -> dict[str, Any]:
    columns = table.columns(keys, names)
    if not columns:
        return {"columns": names, "rows": []}
    rows = zip(*(plain(name, columns[name]) if name in columns else _nothing(columns) for name in names), strict=True)
    return {"columns": names, "rows": list(rows)}


def _nothing(columns: Mapping[str, Any]) -> list[None]:
    return [None] * len(next(iter(columns.values())))


def _put_some(
    table: Latest,
    keys: Sequence[Hashable],
    which: npt.NDArray[np.int64],
    mask: npt.NDArray[np.bool_],
    columns: Mapping[str, Any],
    *,
    in_place: bool = False,
) -> None:
    rows = np.flatnonzero(mask)
    if len(rows):
        some = {name: column[rows] for name, column in columns.items()}
        table.put(keys, which[rows], some["time_us"], some["version"], some, in_place=in_place)


def _values_table(table: Latest, symbols: Iterable[Hashable] | None) -> dict[str, Any]:
    names = VALUE_KEY + tuple(name for name in table.names() if name not in VALUE_KEY)
    found = _table(table, symbols, names)
    found["rows"] = [row for row in found["rows"] if row[3] != schemas.WITHDRAWN]
    return found
