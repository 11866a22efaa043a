"""The desk's state on the event log: kept state of `market.state.feeds`, by vendor, under the writer's name `desk`.

The writer's name is the lock of the desk: whoever takes it fences the former owner, whose next debit fails, so that it
asks no vendor any more. What it had debited is on the log before the new owner reads.
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


def kept(log: EventLog) -> dict[str, bytes]:
    """Return what is kept of all vendors, by key without the prefix; for looking, takes nobody's desk."""
    keys = [key for key in log.state_keys(STATE_FEEDS, 0) if key.startswith(PREFIX)]
    values = ((key, log.get_state(STATE_FEEDS, 0, key)) for key in keys)
    return {key.removeprefix(PREFIX): value for key, value in values if value is not None}


class Keeping:
    """Keeps the desk's state, as its only owner. The log is called in a thread of its own. Close it."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._closed = False
        self._thread = ThreadPoolExecutor(1, "desk")
        self._writer = self._thread.submit(log.writer, WRITER).result()
        self.kept: Mapping[str, bytes] = self._thread.submit(kept, log).result()
        """What was kept when the desk was taken over."""

    async def keep(self, values: Mapping[str, bytes]) -> None:
        """Keep values by key; durable when it returns.

        Raises Fenced when another process has taken the desk, and LogUnavailable.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._keep, dict(values))

    def _keep(self, values: Mapping[str, bytes]) -> None:
        try:
            with self._writer.transaction() as transaction:
                for key, value in values.items():
                    transaction.put_state(STATE_FEEDS, 0, f"{PREFIX}{key}", value)
        except Fenced as error:
            raise Fenced(
                "another process asks vendors by the same log and has taken over their quotas; only one may, so this "
                "one stops asking: run one market_data (or one backfill) at a time"
            ) from error
        self._log.make_durable()

    def close(self) -> None:
        """Close the writer. Harmless twice."""
        if not self._closed:
            self._closed = True
            self._thread.submit(self._writer.close).result()
            self._thread.shutdown()
