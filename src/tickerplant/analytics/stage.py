"""Records in, records out: the pure stage of one partition around the engine.

Of one step's outputs the closed values come first, then the forming ones, then the alerts that fired. What is made
carries the `sent_at_us`, `feed` and `cause` of the record that caused it; `Mark` and `End` are passed on as they came,
so that whoever reads `market.analytics` knows how far it is.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

import pyarrow as pa

from tickerplant.analytics import snapshot
from tickerplant.analytics.alerts import Alerts, batch_of
from tickerplant.analytics.engine import Engine
from tickerplant.analytics.publish import batches
from tickerplant.core import records, schemas
from tickerplant.core.errors import BadInput, ConfigError, UnreadableRecord
from tickerplant.core.rules import rules_from
from tickerplant.core.times import NEVER_US, iso

FORMAT: Final = snapshot.FORMAT
_FIRST_US: Final = 0
_LAST_US: Final = 9_000_000_000_000_000  # in 2255
_MAX_DEAD_BYTES: Final = 8 * 1024 * 1024  # of a record that cannot be read: well below what the log takes in one


class Arrived(Protocol):
    """A record with its place, as the log delivers it."""

    @property
    def topic(self) -> str:
        """The topic that it came from."""
        ...

    @property
    def partition(self) -> int:
        """The partition that it stands in."""
        ...

    @property
    def offset(self) -> int:
        """Its offset there."""
        ...

    @property
    def appended_at_us(self) -> int:
        """When the log took it."""
        ...

    @property
    def value(self) -> Any:
        """Its bytes."""
        ...


class Produced(NamedTuple):
    """A record to append to a topic, in the partition of its cause."""

    topic: str
    value: Any


class AnalyticsStage:
    """The state of one partition; `step` never raises for what a record says: that goes to the dead letter."""

    def __init__(self, kept: bytes | None = None) -> None:
        self._clock_us = NEVER_US
        if kept is None:
            self.engine = Engine()
            self.alerts = Alerts(self.engine.rules)
        else:
            self.engine, self.alerts, self._clock_us = snapshot.restore(kept)

    def step(self, delivery: Arrived) -> list[Produced]:
        """Take one record and return what it causes."""
        try:
            record = records.decode(delivery.value)
            self._clock_us = max(self._clock_us, record.header.sent_at_us)
            return self._take(record)
        except (UnreadableRecord, ConfigError, BadInput) as error:
            return [_dead(delivery, str(error))]

    def snapshot(self) -> bytes:
        """Return the whole state."""
        return snapshot.take(self.engine, self.alerts, self._clock_us)

    def keep_label(self) -> str | None:
        """Return the UTC day of the log's clock; None before the first record, and for times that nobody lives in."""
        return iso(self._clock_us)[:10] if _FIRST_US <= self._clock_us <= _LAST_US else None

    def _take(self, record: records.Record) -> list[Produced]:
        header = record.header
        if isinstance(header, records.Bars):
            return self._bars(header, record.batch)
        if isinstance(header, (records.Mark, records.End)):
            return [Produced(schemas.ANALYTICS, records.encode(header))]
        if isinstance(header, records.Settings):
            self.engine.apply(rules_from(header.values))
            self.alerts.apply(self.engine.rules)
        elif isinstance(header, records.AlertRule):
            self.alerts.rule(header, self.engine)
        elif isinstance(header, (records.Splits, records.Dividends)):
            pass  # adjusting the remembered bars and publishing them again from the split's session on belongs here
        else:
            raise UnreadableRecord(f"a {type(header).__name__} record has no place among bars")
        return []

    def _bars(self, header: records.Bars, batch: pa.RecordBatch) -> list[Produced]:
        made = self.engine.bars(batch)
        said: dict[str, Any] = {"sent_at_us": header.sent_at_us, "feed": header.feed, "cause": header.cause}
        result = [
            Produced(schemas.ANALYTICS, records.encode(records.Values(**said), values))
            for values in batches(made, self.engine.known)
        ]
        fired = self.alerts.bars(batch)
        if fired:
            result.append(Produced(schemas.ALERTS, records.encode(records.Alerts(**said), batch_of(fired))))
        return result


def _dead(delivery: Arrived, reason: str) -> Produced:
    """Return the dead letter. An unreadable record says no time of its own, so the log's time for it is taken."""
    payload = memoryview(delivery.value).cast("B")
    if len(payload) > _MAX_DEAD_BYTES:
        reason += f" (the first {_MAX_DEAD_BYTES} of {len(payload)} bytes are kept)"
    row = {
        "topic": [delivery.topic],
        "partition": [delivery.partition],
        "offset": [delivery.offset],
        "reason": [reason],
        "payload": [bytes(payload[:_MAX_DEAD_BYTES])],
    }
    header = records.Dead(sent_at_us=delivery.appended_at_us)
    return Produced(schemas.DEADLETTER, records.encode(header, pa.RecordBatch.from_pydict(row, schema=schemas.DEAD)))
