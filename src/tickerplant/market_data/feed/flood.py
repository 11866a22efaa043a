"""Limits of the dead letters that the plant stores for one live feed, and a guard that detects a flood. Pure.

A vendor may send garbage, or prints of symbols that were never requested, as fast as the network allows. A flood is
dropped and counted; the log stores a sample of it. Times are seconds of one monotonic clock, given by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tickerplant.market_data.feed.dead_letters import DeadRow

WINDOW_S: Final = 60.0
MAX_DEAD_ROWS: Final = 1_000
"""Maximum dead letters of one live feed per `WINDOW_S`. Further dead letters are only counted."""
MAX_PAYLOAD_BYTES: Final = 4_096
"""Maximum payload bytes of a dead letter of a live feed. A print has about 150 bytes."""
FLOOD_MESSAGES: Final = 1_000
"""Minimum count of unusable messages per `WINDOW_S` in a flood. They must also outnumber the usable messages."""
FIRST_PAUSE_S: Final = 30.0
LAST_PAUSE_S: Final = 600.0
"""Bounds of the pause after a flood, in seconds. The pause doubles with each flood, and returns to the first bound
after an hour without a flood."""
FORGET_S: Final = 3_600.0


class DeadLetterBudget:
    """Limits one feed to `MAX_DEAD_ROWS` dead letters per `WINDOW_S`, each with up to `MAX_PAYLOAD_BYTES`."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._taken = 0
        self.dropped = 0
        """Count of rows that were not stored."""

    def take(self, rows: Sequence[DeadRow], now_s: float) -> list[DeadRow]:
        """Return the rows to store, with cut payloads. The first row above the limit is replaced by a notice."""
        if self._began_s is None or not 0 <= now_s - self._began_s < WINDOW_S:
            self._began_s, self._taken = now_s, 0
        room = MAX_DEAD_ROWS - self._taken
        kept = [_cut(row) for row in rows[: max(room, 0)]]
        self.dropped += len(rows) - len(kept)
        if len(rows) > len(kept) and self._taken <= MAX_DEAD_ROWS:
            last = _cut(rows[len(kept)])
            notice = f"more than {MAX_DEAD_ROWS:,} rows were refused within a minute; more are counted only, as this"
            kept.append(DeadRow(f"{notice}: {last.reason}", last.payload))
            self._taken = MAX_DEAD_ROWS + 1
        else:
            self._taken += len(kept)
        return kept


def _cut(row: DeadRow) -> DeadRow:
    if len(row.payload) <= MAX_PAYLOAD_BYTES:
        return row
    reason = f"{row.reason} (the first {MAX_PAYLOAD_BYTES:,} of {len(row.payload):,} bytes are kept)"
    return DeadRow(reason, row.payload[:MAX_PAYLOAD_BYTES])


@dataclass(slots=True)
class FloodGuard:
    """Detects that most messages of a connection are unusable, and returns the pause that must follow."""

    _began_s: float | None = None
    _unusable: int = 0
    _usable: int = 0
    _floods: int = 0
    _flooded_s: float | None = None

    def observe(self, unusable: int, usable: int, now_s: float) -> str | None:
        """Add counts of messages; return the reason to drop the connection, None if there is no flood."""
        if self._began_s is None or not 0 <= now_s - self._began_s < WINDOW_S:
            self._began_s, self._unusable, self._usable = now_s, 0, 0
        self._unusable += unusable
        self._usable += usable
        if self._unusable < FLOOD_MESSAGES or self._unusable <= self._usable:
            return None
        total, seconds = self._unusable + self._usable, now_s - self._began_s
        self._began_s = None
        return f"flood: {self._unusable:,} of {total:,} messages in {seconds:.0f} s were unusable"

    def pause_s(self, now_s: float) -> float:
        """Record a flood; return the seconds to pause before the next connection."""
        recent = self._flooded_s is not None and now_s - self._flooded_s <= FORGET_S
        self._floods = self._floods + 1 if recent else 0
        self._flooded_s = now_s
        return float(min(FIRST_PAUSE_S * 2 ** min(self._floods, 10), LAST_PAUSE_S))
