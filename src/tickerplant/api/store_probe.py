"""The check of the database for `/health/ready`: one cheap read, shared by all probes."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from tickerplant.api.store_reader import StoreReader

WAIT_S: Final = 0.8
"""Maximum seconds that a probe waits for the database. Kubernetes cancels a probe after one second by default."""
FRESH_S: Final = 1.0
"""Maximum age, in seconds, of a check of the database that answers further probes."""
CHECK_S: Final = 10.0
"""Maximum seconds of one check. Further probes share the running check."""


class StoreProbe:
    """Checks whether the database answers, one check at a time. Belongs to the server's event loop."""

    def __init__(self, store: StoreReader) -> None:
        self._store = store
        self._checking: asyncio.Task[str] | None = None
        self._checked_s = -FRESH_S

    async def error(self) -> str:
        """Return the reason why the database does not answer; "" if it answers. Waits for `WAIT_S` at most."""
        checking = self._checking
        if checking is None or (checking.done() and time.monotonic() - self._checked_s > FRESH_S):
            checking = self._checking = asyncio.create_task(self._check())
        await asyncio.wait({checking}, timeout=WAIT_S)
        return checking.result() if checking.done() else f"the database has not answered within {WAIT_S:g} s"

    async def _check(self) -> str:
        try:
            async with asyncio.timeout(CHECK_S):
                await self._store.positions()
        except TimeoutError:
            return f"the database has not answered within {CHECK_S:g} s"
        except Exception as error:  # each error is a result of the check
            return str(error)
        finally:
            self._checked_s = time.monotonic()
        return ""
