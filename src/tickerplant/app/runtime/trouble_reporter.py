"""Reports the crashes of this process's services to the log. A separate thread waits while the log is unavailable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from tickerplant.core.errors import TickerplantError
from tickerplant.log import trouble_reports

if TYPE_CHECKING:
    from tickerplant.log.port import EventLog

RETRY_S: Final = 5.0
"""Seconds between two attempts to write while the log is unavailable."""
END_S: Final = 2.0
"""Maximum seconds that the end of the process waits for the last report."""

log = structlog.get_logger(__name__)


class TroubleReporter:
    """Writes the newest report of each service. `crashed` and `healthy` return at once and never raise."""

    def __init__(self, event_log: EventLog, instance: str) -> None:
        self._log, self._instance = event_log, instance
        self._pending: dict[str, Callable[[str], None]] = {}
        self._changed = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def crashed(self, service: str, error: str, *, permanent: bool) -> None:
        """Report one crash of a service."""
        now_s = time.time()
        self._put(service, lambda key: trouble_reports.report(self._log, key, error, now_s, permanent=permanent))

    def healthy(self, service: str) -> None:
        """Withdraw the report of a service, also the report of an earlier process."""
        self._put(service, lambda key: trouble_reports.withdraw(self._log, key))

    def end(self) -> None:
        """Wait for the pending reports, at most `END_S`."""
        self._idle.wait(END_S)

    def _put(self, service: str, change: Callable[[str], None]) -> None:
        with self._lock:
            self._pending[trouble_reports.service_key(service, self._instance)] = change
            self._idle.clear()
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name="trouble reports", daemon=True)
                self._thread.start()
        self._changed.set()

    def _main(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            with self._lock:
                pending, self._pending = self._pending, {}
            failed = {key: change for key, change in pending.items() if not _done(key, change)}
            if failed:
                time.sleep(RETRY_S)
            with self._lock:
                self._pending = failed | self._pending
                if self._pending:
                    self._changed.set()
                else:
                    self._idle.set()


def _done(key: str, change: Callable[[str], None]) -> bool:
    try:
        change(key)
    except TickerplantError as error:  # health reports an unavailable log by itself
        log.debug("trouble not reported", key=key, error=str(error))
        return False
    return True
