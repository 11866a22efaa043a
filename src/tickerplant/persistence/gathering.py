"""Gathering of consumed records: the records that may wait for others, and the polls that gather them.

A transaction costs the same for one tick as for fifty. The rows of a live feed therefore wait for each other, unless
they arrive in large numbers. Records of files and of the backfill are written at once, because the next request may
wait for these records. The end of an interval is written at once, with the closed bars before it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Final

from tickerplant.core import records
from tickerplant.core.errors import UnreadableRecord
from tickerplant.log.port import ConsumedRecord, Reader, TopicPartition

FEW_RECORDS: Final = 32
"""Minimum records of a poll after which no more records are awaited."""
MAX_GATHERED: Final = 256
"""Minimum number of gathered records for which no more records are awaited."""
MAX_GATHERED_BYTES: Final = 1 << 20
"""Minimum size of the gathered records, in bytes, for which no more records are awaited."""
_PATIENT: Final = (records.Ticks, records.Mark, records.Bars, records.Values)
_IMPATIENT_FEEDS: Final = (records.FILE_FEED, records.BACKFILL_FEED)


def may_wait(consumed: ConsumedRecord) -> bool:
    """Return True for ticks, marks, bars and values of a live feed; False for all other records."""
    try:
        header = records.header_of(consumed.value)
    except UnreadableRecord:
        return False
    is_live = bool(header.feed) and not header.feed.startswith(_IMPATIENT_FEEDS)
    return is_live and isinstance(header, _PATIENT)


class Gathering:
    """Polls a reader until no more records need to be awaited. Belongs to the log's thread, except `hurry`.

    `pause_s`: seconds of the pause after a poll of few records. `longest_s`: maximum seconds for which records wait.
    The settings' defaults are 0.1 s and 1 s. A poll without records waits for the first record.
    """

    def __init__(self, pause_s: float, longest_s: float) -> None:
        self._pause_s = pause_s
        self._longest_s = longest_s if pause_s else 0.0
        self._next_s = 0.0
        self._restarted: set[TopicPartition] = set()
        self._hurry = threading.Event()

    def hurry(self) -> None:
        """End the current pause, and all later pauses. Thread-safe."""
        self._hurry.set()

    def restart(self, partitions: Collection[TopicPartition]) -> None:
        """Discard the gathered records of these partitions: a rebalance has assigned them again from a position."""
        self._restarted.update(partitions)

    def poll(self, reader: Reader, timeout_s: float) -> list[ConsumedRecord]:
        """Return committed records in order within each partition; [] if no record arrives within `timeout_s`."""
        self._wait_until(self._next_s)
        gathered = list(reader.poll(timeout_s=timeout_s))
        self._restarted.clear()
        began_s = time.monotonic()
        until_s = began_s + self._longest_s
        newest = gathered
        while self._awaits_more(gathered, newest, until_s):
            self._wait_until(min(until_s, time.monotonic() + self._pause_s))
            newest = self._poll_again(reader, gathered)
        self._next_s = began_s + self._pause_s if 0 < len(newest) < FEW_RECORDS else 0.0
        return gathered

    def _wait_until(self, time_s: float) -> None:
        self._hurry.wait(max(0.0, time_s - time.monotonic()))

    def _awaits_more(self, gathered: list[ConsumedRecord], newest: list[ConsumedRecord], until_s: float) -> bool:
        return (
            0 < len(gathered) < MAX_GATHERED
            and len(newest) < FEW_RECORDS
            and time.monotonic() < until_s
            and not self._hurry.is_set()
            and sum(len(one.value) for one in gathered) < MAX_GATHERED_BYTES
            and all(map(may_wait, newest))
        )

    def _poll_again(self, reader: Reader, gathered: list[ConsumedRecord]) -> list[ConsumedRecord]:
        """Append the new records to `gathered`, and return them. First remove the records of restarted partitions."""
        newest = list(reader.poll(timeout_s=0.0))
        if self._restarted:
            gathered[:] = [one for one in gathered if one.source not in self._restarted]
            self._restarted.clear()
        gathered += newest
        return newest
