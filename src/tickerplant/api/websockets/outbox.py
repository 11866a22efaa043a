"""Messages to clients: frames of rows, encoded once for each group, and the bounded outbox of each client."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from tickerplant.api.websockets.protocol import NOTHING, Filter, Subscription
from tickerplant.api.websockets.rows import ALERTS, STATUS, TICKS, TOPIC_OF, StreamRecord

SOFT_LIMIT_BYTES: Final = 512 * 1024
"""Queued bytes above which a client is conflated: about 5,000 ticks, half a second at 10,000 ticks/s."""
HARD_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Queued bytes above which a client is dropped: about 40,000 unread closed bars."""

_encode = msgspec.json.Encoder().encode


def to_text(message: Mapping[str, Any]) -> str:
    """Return a message as JSON; NaN becomes null."""
    return _encode(message).decode()


class Frame:
    """Rows for one group of clients. They are encoded at the first use and shared by the group."""

    def __init__(
        self, kind: str, offsets: dict[int, int], names: tuple[str, ...],
        chosen: list[tuple[StreamRecord, npt.NDArray[np.bool_] | None]], events: list[dict[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        self.kind = kind
        self._offsets = offsets
        self._names = names
        self._chosen = chosen
        self._events = events
        self._text: str | None = None
        self._closed: str | None = None
        self._keys: set[Hashable] | None = None
        self._conflatable = 0

    @property
    def text(self) -> str:
        """Return all rows, or the events, as JSON."""
        if self._text is None:
            self._text = self._encoded(self._chosen)
        return self._text

    @property
    def closed(self) -> str:
        """Return the rows that must not be conflated, as JSON; "" if there are none."""
        if self.kind in (STATUS, ALERTS):
            return self.text
        if self.kind == TICKS:
            return ""
        if self._closed is None:
            kept: list[tuple[StreamRecord, npt.NDArray[np.bool_] | None]] = []
            for record, mask in self._chosen:
                final = ~record.forming if mask is None else mask & ~record.forming
                if final.any():
                    kept.append((record, final))
            self._closed = self._encoded(kept) if kept else ""
        return self._closed

    @property
    def keys(self) -> set[Hashable]:
        """Return the keys of the rows that may be conflated: symbols of ticks, (symbol, interval) of forming rows."""
        if self._keys is None:
            self._keys = set()
            if self.kind not in (STATUS, ALERTS):
                for record, mask in self._chosen:
                    self._add_keys(record, mask)
        return self._keys

    @property
    def conflatable(self) -> int:
        """Return the count of rows that may be conflated."""
        _ = self.keys
        return self._conflatable

    def _add_keys(self, record: StreamRecord, mask: npt.NDArray[np.bool_] | None) -> None:
        assert self._keys is not None
        if self.kind == TICKS:
            codes = record.codes if mask is None else record.codes[mask]
            self._conflatable += len(codes)
            self._keys.update(record.symbols[code] for code in np.unique(codes).tolist())
            return
        rows = np.flatnonzero(record.forming if mask is None else mask & record.forming)
        self._conflatable += len(rows)
        self._keys.update(
            zip(record.columns["symbol"][rows].tolist(), record.columns["interval"][rows].tolist(), strict=True)
        )

    def _encoded(self, chosen: list[tuple[StreamRecord, npt.NDArray[np.bool_] | None]]) -> str:
        message: dict[str, Any] = {"type": self.kind, "topic": TOPIC_OF[self.kind], "offsets": self._offsets}
        if self._events is not None:
            message["events"] = self._events
        else:
            rows: list[tuple[Any, ...]] = []
            for record, mask in chosen:
                rows.extend(record.rows(mask))
            message["columns"] = self._names
            message["rows"] = rows
        return to_text(message)


def frames_of(wanted: Filter, records: Sequence[StreamRecord]) -> list[Frame]:
    """Return the frames with the rows that a filter selects, one for each kind and run of equal columns.

    Frames of one kind are in log order, so a frame's offsets cover all rows that were sent before it.
    """
    runs: list[tuple[str, tuple[str, ...], list[tuple[StreamRecord, npt.NDArray[np.bool_] | None]]]] = []
    open_runs: dict[str, int] = {}
    events: list[dict[str, Any]] = []
    event_offsets: dict[int, int] = {}
    for record in records:
        if record.event is not None:
            if wanted.status():
                events.append(record.event)
                event_offsets[record.source.partition] = record.offset + 1
            continue
        mask = wanted.rows(record) if record.kind else False
        if mask is False:
            continue
        chosen = (record, None if isinstance(mask, bool) else mask)
        run = open_runs.get(record.kind)
        if run is not None and runs[run][1] == record.names:
            runs[run][2].append(chosen)
        else:
            open_runs[record.kind] = len(runs)
            runs.append((record.kind, record.names, [chosen]))
    frames = [
        Frame(kind, {record.source.partition: record.offset + 1 for record, _ in found}, names, found)
        for kind, names, found in runs
    ]
    if events:
        frames.append(Frame(STATUS, event_offsets, (), [], events))
    return frames


class Outbox:
    """The queue of one client. Above `soft_bytes`, ticks and forming rows are conflated.

    Above `hard_bytes`, `failure` is set, the queue is cleared, and no more messages are queued. `wake` is called after
    each queued message or conflated row, and when `failure` is set.
    """

    def __init__(self, wake: Callable[[], None], *, soft_bytes: int, hard_bytes: int) -> None:
        self.subscription: Subscription = NOTHING
        self.conflating = False
        self.catching_up = False
        self.skipped = 0
        self.failure: str | None = None
        self.waiting_bytes = 0
        self._wake = wake
        self._soft_bytes = soft_bytes
        self._hard_bytes = hard_bytes
        self._texts: deque[tuple[str, int]] = deque()
        self._keys: dict[str, set[Hashable]] = {}

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def ready(self) -> bool:
        """Return True if the outbox has messages or keys of conflated rows."""
        return bool(self._texts) or bool(self._keys)

    def put(self, text: str, *, counted: bool = True) -> None:
        """Queue a message that must not be conflated.

        If `counted` is false, the limits do not apply to the message. This is the case for answers to the client's own
        requests (a snapshot, records since a position). The endpoint allows one such answer at a time.
        """
        if self.failure is not None:
            return
        size = len(text) if counted else 0
        self._texts.append((text, size))
        self.waiting_bytes += size
        if self.waiting_bytes > self._hard_bytes:
            self.failure = f"too slow: {self.waiting_bytes >> 10} KiB are queued; read faster or subscribe to less"
            self._texts.clear()
            self._keys.clear()
        self._wake()

    def offer(self, frame: Frame) -> int:
        """Queue a frame, or only its rows that must not be conflated. Return the count of conflated rows."""
        if self.failure is not None:
            return 0
        if not self.conflating and self.waiting_bytes > self._soft_bytes:
            self.conflating = True
        if not self.conflating:
            self.put(frame.text)
            return 0
        if frame.keys:
            self._keys.setdefault(frame.kind, set()).update(frame.keys)
            self.skipped += frame.conflatable
            self._wake()
        if frame.closed:
            self.put(frame.closed)
        return frame.conflatable

    def pop(self) -> str | None:
        """Return the next message, or None if the queue is empty (see `pop_conflated`)."""
        if not self._texts:
            return None
        text, size = self._texts.popleft()
        self.waiting_bytes -= size
        return text

    def pop_conflated(self) -> tuple[dict[str, set[Hashable]], int]:
        """End conflation. Return the keys of the conflated rows, by kind, and the count of those rows."""
        keys, skipped = self._keys, self.skipped
        self._keys, self.skipped, self.conflating = {}, 0, False
        return keys, skipped
