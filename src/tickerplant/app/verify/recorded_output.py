"""What aggregation put into one topic of a partition, read in order beside a run that makes it again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from tickerplant.app.verify.differences import Cell, cells_of
from tickerplant.core import records
from tickerplant.core.errors import UnreadableRecord
from tickerplant.core.schemas import DEADLETTER, RAW
from tickerplant.core.version import make_version, split_version
from tickerplant.log.port import ConsumedRecord, EventLog, TopicPartition
from tickerplant.log.snapshots import first_record_from

NOTHING: Final = 1 << 62
"""The version that a topic of which retention has left nothing begins with: none that exists."""
_SETTLE_S: Final = 5.0
"""What a transaction appended may be readable a little after its positions are (Kafka): so long it is waited for."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that is not as it was made: `kind` is `differs`, `missing` (on the log), `extra` or `state`."""

    kind: str
    topic: str
    raw_offset: int
    log_offset: int | None
    sentence: str
    cells: Sequence[Cell] = ()


class Logged:
    """What aggregation put into one topic of a partition, from the version `begin` on.

    `since`: the first version of which the topic has everything. `compared` counts records.
    """

    def __init__(self, event_log: EventLog, source: TopicPartition, generation: int, begin: int) -> None:
        self._log, self._source, self._generation = event_log, source, generation
        first, self._end = event_log.offsets(source.topic, read_uncommitted=True)[source]
        self.compared = 0
        self.since = begin if first == 0 or source.topic == DEADLETTER else self._whole_since(first, begin)
        self._next = first if source.topic == DEADLETTER else self._search(first)
        self._records = event_log.read_range(source, self._next, self._end)
        self._waiting: ConsumedRecord | None = None
        while (found := self._peek()) is not None and self._version(found) < self.since:
            self._waiting = None

    def compare(self, version: int, values: Sequence[Any]) -> Difference | None:
        """Take what one step made for this topic; return the first thing that is not so on the log."""
        if version < self.since:
            return None
        for value in values:
            found = self._peek(patient=True)
            if found is None or not pa.py_buffer(found.value).equals(pa.py_buffer(value)):
                return self._explain(version, found, value)
            self._waiting = None
            self.compared += 1
        return None

    def left_over(self, version: int) -> Difference | None:
        """Return the record that is left on the log of a step up to `version`, though no step made it."""
        found = self._peek()
        if found is None or self._version(found) > version:
            return None
        return self._explain(version, found, None)

    def _explain(self, version: int, found: ConsumedRecord | None, value: Any) -> Difference:
        topic, offset = self._source.topic, split_version(version)[1]
        there = None if found is None else self._version(found)
        if found is None or (there is not None and there > version):
            what = _described(value)
            return Difference("missing", topic, offset, None, f"raw offset {offset} makes {what}, which {topic} lacks")
        if value is None or (there is not None and there < version):
            raw = split_version(there)[1] if there is not None else offset
            sentence = f"{topic} has {_described(found.value)}, which raw offset {raw} does not make"
            return Difference("extra", topic, raw, found.offset, sentence)
        sentence, cells = cells_of(found.value, value)
        return Difference("differs", topic, offset, found.offset, sentence, cells)

    def _peek(self, *, patient: bool = False) -> ConsumedRecord | None:
        """Return the next record of aggregation, or None at the end; `patient` waits for what may not be readable yet.

        On Kafka an end lies behind a marker that no reader meets, so only what must be there is waited for.
        """
        deadline = time.monotonic() + _SETTLE_S
        while self._waiting is None:
            for delivery in self._records:
                self._next = delivery.offset + 1
                if self._belongs(delivery):
                    self._waiting = delivery
                    return delivery
            if not patient or self._next >= self._end or time.monotonic() > deadline:
                return None
            time.sleep(0.1)
            self._records = self._log.read_range(self._source, self._next, self._end)
        return self._waiting

    def _belongs(self, delivery: ConsumedRecord) -> bool:
        """Whether aggregation made it: feeds and analytics write dead letters too."""
        return self._source.topic != DEADLETTER or _dead_offset(delivery.value, self._source.partition) is not None

    def _version(self, delivery: ConsumedRecord) -> int:
        """Return the version of the raw record that caused it; 0 for what cannot be read."""
        if self._source.topic == DEADLETTER:
            return make_version(self._generation, _dead_offset(delivery.value, self._source.partition) or 0)
        try:
            return records.header_of(delivery.value).cause
        except UnreadableRecord:
            return 0

    def _whole_since(self, first: int, begin: int) -> int:
        """Return the first version of which a topic that begins at offset `first` has everything."""
        found = first_record_from(self._log, self._source, first, self._end)
        return NOTHING if found is None else max(begin, self._version(found) + 1)

    def _search(self, first: int) -> int:
        """Return an offset before which all versions are smaller than `since`: they grow along the topic."""
        low, high = first, self._end
        while low < high:
            middle = (low + high) // 2
            found = first_record_from(self._log, self._source, middle, high)
            if found is None or self._version(found) >= self.since:
                high = middle
            else:
                low = found.offset + 1
        return low


def _dead_offset(value: Any, partition: int) -> int | None:
    """Return the raw offset that a dead letter of aggregation is about, or None if it is somebody else's."""
    try:
        record = records.decode(value)
    except UnreadableRecord:
        return None
    if not isinstance(record.header, records.Dead) or not record.batch.num_rows:
        return None
    topic, of, offset = (record.batch[name][0].as_py() for name in ("topic", "partition", "offset"))
    return int(offset) if (topic, of) == (RAW, partition) and offset >= 0 else None


def _described(value: Any) -> str:
    try:
        record = records.decode(value)
    except UnreadableRecord as error:
        return f"a record that cannot be read ({error})"
    return f"a {type(record.header).__name__} record of {record.batch.num_rows} rows"
