"""The recorded output of aggregation in one topic of a partition, read in order beside its recomputation."""

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
"""Version at which an empty topic begins: greater than every version of a record."""
_SETTLE_S: Final = 5.0
"""Maximum seconds to wait for records of a committed transaction. On Kafka they become readable shortly after the
transaction's positions."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference. `kind`: `differs`, `missing` (in the log), `extra` (in the log) or `state`.

    `log_offset` is None for the kinds `missing` and `state`.
    """

    kind: str
    topic: str
    raw_offset: int
    log_offset: int | None
    sentence: str
    cells: Sequence[Cell] = ()


class RecordedOutput:
    """The output of aggregation in one topic of a partition, from the version `begin` on.

    `since`: the first version whose output the topic contains completely. `compared`: the count of compared records.
    """

    def __init__(self, event_log: EventLog, source: TopicPartition, generation: int, begin: int) -> None:
        self._log, self._source, self._generation = event_log, source, generation
        first, self._end = event_log.offsets(source.topic, read_uncommitted=True)[source]
        self.compared = 0
        self.since = begin if first == 0 or source.topic == DEADLETTER else self._complete_since(first, begin)
        self._next = first if source.topic == DEADLETTER else self._search(first)
        self._records = event_log.read_range(source, self._next, self._end)
        self._next_record: ConsumedRecord | None = None
        while (found := self._peek()) is not None and self._version(found) < self.since:
            self._next_record = None

    def compare(self, version: int, values: Sequence[Any]) -> Difference | None:
        """Compare the output of one step for this topic with the log; return the first difference.

        Return None if the records are equal, or if the topic's output for `version` is not complete.
        """
        if version < self.since:
            return None
        for value in values:
            found = self._peek(patient=True)
            if found is None or not self._is_equal(found.value, value):
                return self._explain(version, found, value)
            self._next_record = None
            self.compared += 1
        return None

    def find_extra(self, version: int) -> Difference | None:
        """Return the difference if the log has a further record with a version up to `version`; otherwise None."""
        found = self._peek()
        if found is None or self._version(found) > version:
            return None
        return self._explain(version, found, None)

    def _explain(self, version: int, found: ConsumedRecord | None, value: Any) -> Difference:
        topic, offset = self._source.topic, split_version(version)[1]
        recorded = None if found is None else self._version(found)
        if found is None or (recorded is not None and recorded > version):
            sentence = f"raw offset {offset} gives {_described(value)}, which {topic} lacks"
            return Difference("missing", topic, offset, None, sentence)
        if value is None or (recorded is not None and recorded < version):
            raw = split_version(recorded)[1] if recorded is not None else offset
            sentence = f"{topic} has {_described(found.value)}, which raw offset {raw} does not give"
            return Difference("extra", topic, raw, found.offset, sentence)
        sentence, cells = cells_of(found.value, value)
        return Difference("differs", topic, offset, found.offset, sentence, cells)

    def _peek(self, *, patient: bool = False) -> ConsumedRecord | None:
        """Return the next record of aggregation, or None if the topic has no further readable record.

        `patient`: wait for records that are not readable yet.

        On Kafka the end offset counts transaction markers, which are not records. The reader therefore waits only for
        an expected record.
        """
        deadline = time.monotonic() + _SETTLE_S
        while self._next_record is None:
            for record in self._records:
                self._next = record.offset + 1
                if self._is_output(record):
                    self._next_record = record
                    return record
            if not patient or self._next >= self._end or time.monotonic() > deadline:
                return None
            time.sleep(0.1)
            self._records = self._log.read_range(self._source, self._next, self._end)
        return self._next_record

    def _is_equal(self, recorded: Any, recomputed: Any) -> bool:
        """Return True if two records are equal.

        Reasons of dead letters are ignored, because a newer version may reword them.
        """
        if pa.py_buffer(recorded).equals(pa.py_buffer(recomputed)):
            return True
        return self._source.topic == DEADLETTER and _without_reason(recorded) == _without_reason(recomputed)

    def _is_output(self, record: ConsumedRecord) -> bool:
        """Return True if aggregation wrote the record. Feeds and analytics write dead letters too."""
        return self._source.topic != DEADLETTER or _dead_offset(record.value, self._source.partition) is not None

    def _version(self, record: ConsumedRecord) -> int:
        """Return the version of the raw record that caused the record; 0 for an unreadable record."""
        if self._source.topic == DEADLETTER:
            return make_version(self._generation, _dead_offset(record.value, self._source.partition) or 0)
        try:
            return records.header_of(record.value).cause
        except UnreadableRecord:
            return 0

    def _complete_since(self, first: int, begin: int) -> int:
        """Return the first version whose output is complete in a topic that begins at offset `first`."""
        found = first_record_from(self._log, self._source, first, self._end)
        return NOTHING if found is None else max(begin, self._version(found) + 1)

    def _search(self, first: int) -> int:
        """Return an offset before which all versions are smaller than `since`.

        Uses a binary search, because versions increase.
        """
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
    """Return the raw offset in a dead letter of aggregation; None for a dead letter of another service."""
    try:
        record = records.decode(value)
    except UnreadableRecord:
        return None
    if not isinstance(record.header, records.Dead) or not record.batch.num_rows:
        return None
    topic, of, offset = (record.batch[name][0].as_py() for name in ("topic", "partition", "offset"))
    return int(offset) if (topic, of) == (RAW, partition) and offset >= 0 else None


def _without_reason(dead_letter: Any) -> tuple[records.Header, pa.RecordBatch]:
    record = records.decode(dead_letter)
    return record.header, record.batch.drop_columns(["reason"])


def _described(value: Any) -> str:
    try:
        record = records.decode(value)
    except UnreadableRecord as error:
        return f"a record that cannot be read ({error})"
    return f"a {type(record.header).__name__} record of {record.batch.num_rows} rows"
