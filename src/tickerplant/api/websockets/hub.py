"""The hub: records of the log in, frames for many clients out. Pure state; the endpoint owns sockets and clocks.

Clients with the same subscription form a group. A batch of records is filtered and encoded once for each group, and the
same text goes to every client of it. Each client has an `Outbox` that is bounded; a client that does not keep up is
*conflated*: closed bars and final values stay queued one by one, while ticks and forming rows are only remembered by
key, and when the queue has drained the newest state of those keys goes out as one `conflated` frame. A client whose
queue passes the hard limit all the same is failed, and the endpoint drops it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
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
    Part,
    plain,
)
from tickerplant.core import schemas
from tickerplant.log.port import Identity, TopicPartition

_STATE: Final = BAR_COLUMNS.index("state")
RING_RECORDS: Final = 4_096
RING_BYTES: Final = 16 * 1024 * 1024
"""What `since` can be answered from without reading the log again; at 200 records a second the last 20 seconds."""


@dataclass(slots=True)
class Counts:
    """What the hub did, for the metrics."""

    records: int = 0
    unreadable: int = 0
    frames: int = 0
    conflated_rows: int = 0
    dropped: int = 0
    resyncs: int = 0


class Hub:
    """The newest state, the recent records, and the clients by subscription. Belongs to one thread."""

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
        self.counts = Counts()
        self.clients: set[Outbox] = set()
        self._soft_bytes = soft_bytes
        self._hard_bytes = hard_bytes
        self._ring_records = ring_records
        self._ring_bytes = ring_bytes
        self._ring: deque[Part] = deque()
        self._ring_size = 0
        self._ring_floor = dict(positions)
        self._groups: dict[Subscription, tuple[Filter, set[Outbox]]] = {}
        self._ticks = Latest()
        self._bars = Latest()
        self._finals = Latest()  # what is newest where the newest of `_bars` is withdrawn
        self._values: dict[tuple[str, bool], Latest] = {}
        self._feeds: dict[tuple[str, int], dict[str, Any]] = {}

    # clients

    def join(self, wake: Callable[[], None]) -> Outbox:
        """Return the outbox of a new client that has subscribed to nothing."""
        client = Outbox(wake, soft_bytes=self._soft_bytes, hard_bytes=self._hard_bytes)
        self.clients.add(client)
        return client

    def leave(self, client: Outbox) -> None:
        """Forget a client. Harmless twice."""
        self.subscribe(client, NOTHING)
        self.clients.discard(client)

    def subscribe(self, client: Outbox, subscription: Subscription) -> None:
        """From the next record on the client gets what this subscription wants, and nothing of its former one."""
        former = self._groups.get(client.subscription)
        if former is not None:
            former[1].discard(client)
            if not former[1]:
                del self._groups[client.subscription]
        client.subscription = subscription
        if subscription:
            group = self._groups.get(subscription)
            if group is None:
                group = self._groups[subscription] = (Filter(subscription), set())
            group[1].add(client)

    @property
    def position(self) -> Position:
        """The position of everything that has been applied."""
        return Position.of(self.identity.log_id, self.identity.generation, self.positions)

    # records

    def apply(self, parts: Sequence[Part], *, lagging: bool = False) -> None:
        """Take records in the order of the log and queue what each client wants of them.

        `lagging`: the tail is far behind; clients are brought up to the newest state instead of through every tick.
        """
        fresh = []
        for part in parts:
            if part.offset < self.positions.get(part.source, 0):
                continue
            self.positions[part.source] = part.offset + 1
            self._remember(part)
            fresh.append(part)
            self._take(part)
        self.counts.records += len(fresh)
        if lagging:
            for client in self.clients:
                client.conflating = True
        for chosen, clients in self._groups.values():
            for frame in frames_of(chosen, fresh):
                self.counts.frames += len(clients)
                for client in clients:
                    self.counts.conflated_rows += client.offer(frame)
        for part in fresh:
            part.forget()

    def beat(self) -> None:
        """Tell every client that is up to date the position, so that a quiet one goes on from near the end."""
        text = ""
        for client in self.clients:
            if client.subscription and not client.conflating and not client.catching_up:
                text = text or to_text({"type": "position", "position": self.position})
                client.put(text)

    def recent(self, positions: Mapping[TopicPartition, int]) -> list[Part] | None:
        """Return the recent records from these positions on, or None when some are no longer kept."""
        for source, offset in positions.items():
            if offset < self._ring_floor.get(source, 0):
                return None
        return [part for part in self._ring if part.offset >= positions.get(part.source, part.offset)]

    def seed(self, parts: Iterable[Part]) -> None:
        """Take rows that were read from the store into the newest state; older ones change nothing."""
        for part in parts:
            self._take(part)

    def knows(self, symbol: str) -> bool:
        """Whether the newest state has a tick of the symbol."""
        return symbol in self._ticks

    def _remember(self, part: Part) -> None:
        self._ring.append(part)
        self._ring_size += part.size_bytes
        while len(self._ring) > self._ring_records or self._ring_size > self._ring_bytes:
            gone = self._ring.popleft()
            self._ring_size -= gone.size_bytes
            self._ring_floor[gone.source] = gone.offset + 1

    def _take(self, part: Part) -> None:
        if part.unreadable:
            self.counts.unreadable += 1
        elif part.kind == TICKS:
            self._take_ticks(part)
        elif part.kind == BARS:
            self._take_bars(part)
        elif part.kind == ANALYTICS:
            self._take_values(part)
        elif part.event is not None and part.event["event"] == "feed":
            key = (part.event["feed"], part.event["partition"])
            if part.event["state"] == "ended":
                self._feeds.pop(key, None)
            elif part.event["state"] in ("up", "down"):  # others tell of some ticks, not of how the feed is
                self._feeds[key] = part.event

    def _take_ticks(self, part: Part) -> None:
        columns = part.columns
        eligible = (columns["flags"] & NOT_LAST) == 0
        if eligible.all():
            self._ticks.put(part.symbols, part.codes, columns["time_us"], None, columns)
        elif eligible.any():
            chosen = {name: column[eligible] for name, column in columns.items()}
            self._ticks.put(part.symbols, part.codes[eligible], chosen["time_us"], None, chosen)

    def _take_bars(self, part: Part) -> None:
        keys, which = _by_interval(part)
        self._bars.put(keys, which, part.columns["time_us"], part.columns["version"], part.columns)
        states = part.columns["state"]
        for state in (schemas.FINAL, schemas.WITHDRAWN):
            _put_some(self._finals, keys, which, states == state, part.columns, in_place=state == schemas.WITHDRAWN)

    def _take_values(self, part: Part) -> None:
        """Take values, those on forming bars apart; a withdrawn row takes away whichever of them there are."""
        intervals, forming = part.columns["interval"], part.forming
        withdrawn = part.columns["state"] == schemas.WITHDRAWN
        for interval in set(intervals.tolist()):
            here = intervals == interval
            final, live = (self._values.setdefault((interval, is_forming), Latest()) for is_forming in (False, True))
            _put_some(final, part.symbols, part.codes, here & ~forming & ~withdrawn, part.columns)
            _put_some(final, part.symbols, part.codes, here & withdrawn, part.columns, in_place=True)
            _put_some(live, part.symbols, part.codes, here & (forming | withdrawn), part.columns)

    # newest state

    def snapshot(self, wanted: Filter) -> dict[str, Any]:
        """Return the newest state of what a filter wants, as a `snapshot` message."""
        message: dict[str, Any] = {"type": "snapshot", "position": self.position}
        if wanted.wants(TICKS):
            keys = None if wanted.every(TICKS) else [symbol for symbol, _ in wanted.keys(TICKS)]
            message["ticks"] = _table(self._ticks, keys, TICK_COLUMNS)
        if wanted.wants(BARS):
            message["bars"] = self._bars_there(self._bar_keys(wanted))
        if wanted.wants(ANALYTICS):
            message["analytics"] = self._value_tables(wanted)
        if wanted.wants(STATUS):
            message["status"] = list(self._feeds.values())
        return message

    def conflated(self, client: Outbox) -> str | None:
        """Return the newest state of what the client has missed as a `conflated` message, None if there is nothing."""
        keys, skipped = client.take_keys()
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

    def _bars_there(self, keys: list[Hashable] | None) -> dict[str, Any]:
        """Return the newest bar of each key; where that is withdrawn, the final one before it."""
        found = _table(self._bars, keys, BAR_COLUMNS)
        gone = {(row[1], row[2]): row[0] for row in found["rows"] if row[_STATE] == schemas.WITHDRAWN}
        if gone:
            before = _table(self._finals, list(gone), BAR_COLUMNS)["rows"]
            found["rows"] = [row for row in found["rows"] if row[_STATE] != schemas.WITHDRAWN]
            found["rows"] += [row for row in before if row[_STATE] == schemas.FINAL and row[0] < gone[row[1], row[2]]]
        return found

    def _bar_keys(self, wanted: Filter) -> list[Hashable] | None:
        keys: list[Hashable] = []
        named = wanted.keys(BARS)
        subscribed = {channel for channel, symbol in wanted.subscription if symbol == "*"}
        if "bars" in subscribed:
            return None
        if wanted.every(BARS):
            keys.extend(key for key in self._bars if isinstance(key, tuple) and f"bars.{key[1]}" in subscribed)
        intervals = {key[1] for key in self._bars if isinstance(key, tuple)}
        for symbol, interval in named:
            keys.extend((symbol, name) for name in ((interval,) if interval else sorted(intervals)))
        return list(dict.fromkeys(keys))

    def _value_tables(self, wanted: Filter) -> list[dict[str, Any]]:
        tables = []
        subscribed = {channel for channel, symbol in wanted.subscription if symbol == "*"}
        for (interval, _), table in sorted(self._values.items()):
            if "analytics" in subscribed or f"analytics.{interval}" in subscribed:
                symbols: list[Hashable] | None = None
            else:
                symbols = list({symbol for symbol, at in wanted.keys(ANALYTICS) if at in (None, interval)})
            if symbols is None or symbols:
                found = _values_table(table, symbols)
                if found["rows"]:
                    tables.append(found)
        return tables


def _by_interval(part: Part) -> tuple[list[Hashable], npt.NDArray[np.int64]]:
    intervals = part.columns["interval"]
    names = sorted(set(intervals.tolist()))
    codes = np.zeros(len(part), dtype=np.int64)
    for number, name in enumerate(names):
        codes[intervals == name] = number
    unique, which = np.unique(part.codes * len(names) + codes, return_inverse=True)
    keys: list[Hashable] = [(part.symbols[code // len(names)], names[code % len(names)]) for code in unique.tolist()]
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
