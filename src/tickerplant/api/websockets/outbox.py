"""What goes to the clients: frames of rows, encoded once for a group, and the bounded outbox of each client."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from tickerplant.api.websockets.protocol import NOTHING, Filter, Subscription
from tickerplant.api.websockets.rows import ALERTS, STATUS, TICKS, TOPIC_OF, Part

SOFT_LIMIT_BYTES: Final = 512 * 1024
"""Above this a client is conflated: some 5,000 ticks, half a second of 10,000 a second."""
HARD_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Above this a client is dropped: some 40,000 closed bars that it did not fetch."""

_encode = msgspec.json.Encoder().encode


def to_text(message: Mapping[str, Any]) -> str:
    """Return a message as JSON; NaN becomes null."""
    return _encode(message).decode()


class Frame:
    """Rows for one group, encoded when first asked for and then shared by its clients."""

    def __init__(
        self, kind: str, offsets: dict[int, int], names: tuple[str, ...],
        chosen: list[tuple[Part, npt.NDArray[np.bool_] | None]], events: list[dict[str, Any]] | None = None,
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
        """All rows, as JSON."""
        if self._text is None:
            self._text = self._encoded(self._chosen)
        return self._text

    @property
    def closed(self) -> str:
        """The rows that may not be conflated, as JSON; "" when there are none."""
        if self.kind in (STATUS, ALERTS):
            return self.text
        if self.kind == TICKS:
            return ""
        if self._closed is None:
            kept: list[tuple[Part, npt.NDArray[np.bool_] | None]] = []
            for part, mask in self._chosen:
                final = ~part.forming if mask is None else mask & ~part.forming
                if final.any():
                    kept.append((part, final))
            self._closed = self._encoded(kept) if kept else ""
        return self._closed

    @property
    def keys(self) -> set[Hashable]:
        """The keys of the rows that may be conflated: symbols of ticks, (symbol, interval) of forming rows."""
        if self._keys is None:
            self._keys = set()
            if self.kind not in (STATUS, ALERTS):
                for part, mask in self._chosen:
                    self._add_keys(part, mask)
        return self._keys

    @property
    def conflatable(self) -> int:
        """How many rows may be conflated."""
        _ = self.keys
        return self._conflatable

    def _add_keys(self, part: Part, mask: npt.NDArray[np.bool_] | None) -> None:
        assert self._keys is not None
        if self.kind == TICKS:
            codes = part.codes if mask is None else part.codes[mask]
            self._conflatable += len(codes)
            self._keys.update(part.symbols[code] for code in np.unique(codes).tolist())
            return
        rows = np.flatnonzero(part.forming if mask is None else mask & part.forming)
        self._conflatable += len(rows)
        self._keys.update(
            zip(part.columns["symbol"][rows].tolist(), part.columns["interval"][rows].tolist(), strict=True)
        )

    def _encoded(self, chosen: list[tuple[Part, npt.NDArray[np.bool_] | None]]) -> str:
        message: dict[str, Any] = {"type": self.kind, "topic": TOPIC_OF[self.kind], "offsets": self._offsets}
        if self._events is not None:
            message["events"] = self._events
        else:
            rows: list[tuple[Any, ...]] = []
            for part, mask in chosen:
                rows.extend(part.rows(mask))
            message["columns"] = self._names
            message["rows"] = rows
        return to_text(message)


def frames_of(wanted: Filter, parts: Sequence[Part]) -> list[Frame]:
    """Return the frames that a filter wants of these records, one for each kind and run of equal columns.

    Frames of one kind are in the order of the log, so that a frame's offsets are true of all that was sent before it.
    """
    runs: list[tuple[str, tuple[str, ...], list[tuple[Part, npt.NDArray[np.bool_] | None]]]] = []
    open_runs: dict[str, int] = {}
    events: list[dict[str, Any]] = []
    event_offsets: dict[int, int] = {}
    for part in parts:
        if part.event is not None:
            if wanted.status():
                events.append(part.event)
                event_offsets[part.source.partition] = part.offset + 1
            continue
        mask = wanted.rows(part) if part.kind else False
        if mask is False:
            continue
        chosen = (part, None if isinstance(mask, bool) else mask)
        run = open_runs.get(part.kind)
        if run is not None and runs[run][1] == part.names:
            runs[run][2].append(chosen)
        else:
            open_runs[part.kind] = len(runs)
            runs.append((part.kind, part.names, [chosen]))
    frames = [
        Frame(kind, {part.source.partition: part.offset + 1 for part, _ in found}, names, found)
        for kind, names, found in runs
    ]
    if events:
        frames.append(Frame(STATUS, event_offsets, (), [], events))
    return frames


class Outbox:
    """What waits to be sent to one client. Full (`HARD_LIMIT_BYTES`): `failure` is set and nothing more is taken.

    `wake` is called whenever there is something to take.
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
        """Whether there is anything to send."""
        return bool(self._texts) or bool(self._keys)

    def put(self, text: str, *, counted: bool = True) -> None:
        """Queue a message that may not be conflated.

        What the client asked for itself (a snapshot, a stretch since a position) is not counted against its limits; the
        endpoint lets it have one such answer at a time.
        """
        if self.failure is not None:
            return
        size = len(text) if counted else 0
        self._texts.append((text, size))
        self.waiting_bytes += size
        if self.waiting_bytes > self._hard_bytes:
            self.failure = f"too slow: {self.waiting_bytes >> 10} KiB wait to be sent; read faster or subscribe to less"
            self._texts.clear()
            self._keys.clear()
        self._wake()

    def offer(self, frame: Frame) -> int:
        """Queue a frame, or what may not be conflated of it. Return how many rows were conflated."""
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

    def take(self) -> str | None:
        """Return the next message, or None when the queue is empty (see `take_keys`)."""
        if not self._texts:
            return None
        text, size = self._texts.popleft()
        self.waiting_bytes -= size
        return text

    def take_keys(self) -> tuple[dict[str, set[Hashable]], int]:
        """Return what was conflated since, by kind, and how many rows; conflation is over."""
        keys, skipped = self._keys, self.skipped
        self._keys, self.skipped, self.conflating = {}, 0, False
        return keys, skipped
