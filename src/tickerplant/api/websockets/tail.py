"""The tail: one thread that reads the end of the log, decodes each record once and hands batches to the hub's loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tickerplant.api.websockets.rows import TOPICS, Part, Words, digest
from tickerplant.core.errors import LogError
from tickerplant.log.port import EventLog, Reader, TopicPartition, at_positions

MAX_BATCH_BYTES: Final = 1024 * 1024
"""Some 20,000 ticks: what the loop may be held up by at once, about 30 ms with a subscriber to everything."""
MAX_BATCH_RECORDS: Final = 256
PACE_S: Final = 0.003
"""Polls are at least this far apart, so that records appended by several partitions' writers share one frame."""
LAGGING_S: Final = 2.0
RETRY_S: Final = 1.0
JOIN_S: Final = 5.0

logger = logging.getLogger(__name__)


class Tail:
    """Reads all partitions without a group from `positions` on and calls `apply(parts, lagging)` in the loop.

    The next batch is read only after the former has been applied: what is not read stays in the log.
    `lag_s` is how old the newest record applied was when it arrived here.
    """

    def __init__(
        self,
        log: EventLog,
        positions: Mapping[TopicPartition, int],
        loop: asyncio.AbstractEventLoop,
        apply: Callable[[Sequence[Part], bool], None],
    ) -> None:
        self.lag_s = 0.0
        self.error: str | None = None
        self._log = log
        self._positions = dict(positions)
        self._loop = loop
        self._apply = apply
        self._stopping = threading.Event()
        self._reader: Reader | None = None
        self._thread = threading.Thread(target=self._run, name="api-tail", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait for the thread. Blocks; call from an executor."""
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
                logger.warning("the stream's tail cannot read the log and tries again: %s", error)
                self._stopping.wait(RETRY_S)
            except Exception as error:
                self.error = f"{type(error).__name__}: {error}"
                logger.exception("the stream's tail failed and begins again")
                self._stopping.wait(RETRY_S)
            finally:
                self._reader = None

    def _follow(self, reader: Reader) -> None:
        words = Words()
        while not self._stopping.is_set():
            began = time.monotonic()
            deliveries = reader.poll(timeout_s=0.5, max_records=MAX_BATCH_RECORDS, max_bytes=MAX_BATCH_BYTES)
            self.error = None
            if not deliveries:
                self.lag_s = 0.0
                continue
            parts = [digest(delivery, words) for delivery in deliveries]
            self.lag_s = max(0.0, time.time() - deliveries[-1].appended_at_us / 1e6)
            if not self._hand_over(parts, self.lag_s > LAGGING_S):
                return
            for delivery in deliveries:
                self._positions[delivery.source] = delivery.offset + 1
            rest = PACE_S - (time.monotonic() - began)
            if rest > 0:
                time.sleep(rest)

    def _hand_over(self, parts: Sequence[Part], lagging: bool) -> bool:
        done = threading.Event()

        def in_loop() -> None:
            try:
                self._apply(parts, lagging)
            finally:
                done.set()

        try:
            self._loop.call_soon_threadsafe(in_loop)
        except RuntimeError:  # the loop is closed: the server is gone
            return False
        while not done.wait(timeout=0.5):
            if self._stopping.is_set():
                return False
        return True
