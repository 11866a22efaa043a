"""The stored state of the request scheduler: one state value per key in `market.state.feeds`, written by the writer
`desk`.

The writer's name is the lock of the scheduler. A process that takes the lock fences the previous owner. The next debit
of the previous owner fails, so it sends no more requests. All debits of the previous owner are in the log before the
new owner reads them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tickerplant.core.errors import Fenced
from tickerplant.core.schemas import STATE_FEEDS
from tickerplant.log.port import EventLog

WRITER: Final = "desk"
PREFIX: Final = "desk:"


def stored_state(log: EventLog) -> dict[str, bytes]:
    """Return the stored state of all vendors, by key without the prefix. Read-only: it does not take the lock."""
    keys = [key for key in log.state_keys(STATE_FEEDS, 0) if key.startswith(PREFIX)]
    values = ((key, log.get_state(STATE_FEEDS, 0, key)) for key in keys)
    return {key.removeprefix(PREFIX): value for key, value in values if value is not None}


class StateStore:
    """Stores the scheduler's state, as its only owner. Calls the log in its own thread. Close it after use."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._closed = False
        self._thread = ThreadPoolExecutor(1, "vendor-state")
        self._writer = self._thread.submit(log.writer, WRITER).result()
        self.stored: Mapping[str, bytes] = self._thread.submit(stored_state, log).result()
        """The state at the time when the lock was taken."""

    async def save(self, values: Mapping[str, bytes]) -> None:
        """Store values by key. They are durable when the call returns.

        Raises Fenced when another process has taken the lock, and LogUnavailable.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._save, dict(values))

    def _save(self, values: Mapping[str, bytes]) -> None:
        try:
            with self._writer.transaction() as transaction:
                for key, value in values.items():
                    transaction.put_state(STATE_FEEDS, 0, f"{PREFIX}{key}", value)
        except Fenced as error:
            raise Fenced(
                "another process sends requests to vendors with the same log and has taken over their quotas. This "
                "process stops. Run one market_data (or one backfill) at a time"
            ) from error
        self._log.make_durable()

    def close(self) -> None:
        """Close the writer. May be called twice."""
        if not self._closed:
            self._closed = True
            self._thread.submit(self._writer.close).result()
            self._thread.shutdown()
