"""The tail: one thread that reads new log records, decodes each once, and passes batches to the hub's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from tickerplant.api.websockets.rows import TOPICS, DictionaryCache, StreamRecord, decode_record
from tickerplant.core.errors import LogError
from tickerplant.log.port import EventLog, Reader, TopicPartition, at_positions

MAX_BATCH_BYTES: Final = 1024 * 1024
"""Maximum bytes of one batch: about 20,000 ticks, which occupy the loop for 30 ms if a client subscribes to `*`."""
MAX_BATCH_RECORDS: Final = 256
PACE_S: Final = 0.003
"""Minimum seconds between polls, so that records of several partitions share one frame."""
IDLE_PACE_S: Final = 0.25
"""Minimum seconds between polls without a client. A new client waits at most this long for its first records."""
LAGGING_S: Final = 2.0
"""Age of a batch's last record, in seconds, above which all clients are conflated."""
RETRY_S: Final = 1.0
JOIN_S: Final = 5.0

logger = logging.getLogger(__name__)


class Tail:
    """Reads all partitions from `positions` on, without a group, and calls `apply(records, lagging)` in the loop.

    The next batch is read only after the previous batch has been applied; unread records stay in the log. `lag_s` is
    the age of the last batch's last record when the batch was read. It is 0 if no record is unread. `error` is the text
    of the last failure, or None while reading works. `has_clients` is called in the thread, and returns whether a
    client is connected.
    """

    def __init__(
        self,
        log: EventLog,
        positions: Mapping[TopicPartition, int],
        loop: asyncio.AbstractEventLoop,
        apply: Callable[[Sequence[StreamRecord], bool], Coroutine[Any, Any, None]],
        *,
        has_clients: Callable[[], bool] = lambda: True,
    ) -> None:
        self.lag_s = 0.0
        self.error: str | None = None
        self._log = log
        self._positions = dict(positions)
        self._loop = loop
        self._apply = apply
        self._has_clients = has_clients
        self._stopping = threading.Event()
        self._reader: Reader | None = None
        self._thread = threading.Thread(target=self._run, name="api-tail", daemon=True)

    @property
    def alive(self) -> bool:
        """Return True while the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for its end, at most `JOIN_S`. Blocks; call it from an executor."""
        self._stopping.set()
        reader = self._reader
        if reader is not None:
            reader.wake()
        self._thread.join(timeout=JOIN_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._log.reader(TOPICS, start=at_positions(self._positions)) as reader:
                    self._reader = reader
                    self._follow(reader)
            except LogError as error:
                self.error = str(error)
                logger.warning("the tail of the stream cannot read the log and retries: %s", error)
                self._stopping.wait(RETRY_S)
            except Exception as error:
                self.error = f"{type(error).__name__}: {error}"
                logger.exception("the tail of the stream failed and restarts")
                self._stopping.wait(RETRY_S)
            finally:
                self._reader = None

    def _follow(self, reader: Reader) -> None:
        dictionaries = DictionaryCache()
        while not self._stopping.is_set():
            began = time.monotonic()
            consumed = reader.poll(timeout_s=0.5, max_records=MAX_BATCH_RECORDS, max_bytes=MAX_BATCH_BYTES)
            self.error = None
            if not consumed:
                self.lag_s = 0.0
                continue
            records = [decode_record(each, dictionaries) for each in consumed]
            self.lag_s = max(0.0, time.time() - consumed[-1].appended_at_us / 1e6)
            if not self._hand_over(records, self.lag_s > LAGGING_S):
                return
            for each in consumed:
                self._positions[each.source] = each.offset + 1
            is_full = len(consumed) >= MAX_BATCH_RECORDS
            pace_s = PACE_S if is_full or self._has_clients() else IDLE_PACE_S
            remaining_s = pace_s - (time.monotonic() - began)
            if remaining_s > 0:
                self._stopping.wait(remaining_s)

    def _hand_over(self, records: Sequence[StreamRecord], lagging: bool) -> bool:
        applying = self._apply(records, lagging)
        try:
            applied = asyncio.run_coroutine_threadsafe(applying, self._loop)
        except RuntimeError:  # the loop is closed because the server has stopped
            applying.close()
            return False
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                applied.result(timeout=0.5)
                return True
        return False
