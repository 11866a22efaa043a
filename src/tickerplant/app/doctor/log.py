"""Checks of the event log: its file, or the brokers and the settings of the topics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tickerplant.app.doctor.finding import FAIL, OK, WARN, Finding
from tickerplant.core.errors import TickerplantError, UnknownTopic

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.log.port import EventLog

PATIENCE_S: Final = 4.0
CREATED: Final = "the first `tickerplant up` creates it"


def log(settings: Settings, found: list[int]) -> Iterator[Finding]:
    """Yield the state of the log. Adds the times in µs of the newest raw records to `found`, if there are records."""
    from tickerplant.app.wiring import open_readonly
    from tickerplant.app.wiring.log import has_log
    from tickerplant.core.schemas import RAW

    if not has_log(settings):
        yield Finding("log", OK, f"there is no log yet; {CREATED}")
        return
    try:
        with open_readonly.log_of(settings, patience_s=PATIENCE_S) as event_log:
            identity, partitions = event_log.identity(), event_log.partitions(RAW)
            found += _newest_us(event_log)
            text = f"log {identity.log_id}, generation {identity.generation}, {partitions} partitions"
            yield Finding("log", OK, text)
            if not settings.embedded_log:
                yield from topics(event_log)
    except UnknownTopic as error:
        yield Finding("log", WARN, f"the brokers answer, but have no log: {error}", "run tickerplant create-topics")
    except TickerplantError as error:
        advice = "check the file and its disk" if settings.embedded_log else "check --log, the network and the brokers"
        yield Finding("log", FAIL, str(error), advice)


def _newest_us(event_log: EventLog) -> Iterator[int]:
    """Yield `sent_at_us` of the newest raw records of each partition, at most three per partition."""
    from tickerplant.core.errors import UnreadableRecord
    from tickerplant.core.records import header_of
    from tickerplant.core.schemas import RAW

    for source, (first, end) in event_log.offsets(RAW).items():
        for record in event_log.read_range(source, max(first, end - 3), end):
            try:
                yield header_of(record.value).sent_at_us
            except UnreadableRecord:
                continue


def topics(event_log: EventLog) -> Iterator[Finding]:
    """Yield the findings about the topics' settings, from the check that also runs at the start of a plant."""
    from tickerplant.core.schemas import TOPICS
    from tickerplant.log.kafka import KafkaLog

    if not isinstance(event_log, KafkaLog):
        return
    refused, warned = event_log.check_topics(TOPICS)
    for text in refused:
        yield Finding("topics", FAIL, f"a setting would lose records or stop the plant: {text}", "run this command")
    for text in warned:
        yield Finding("topics", WARN, f"a setting shortens what users can read: {text}", "run this command")
    if not refused and not warned:
        yield Finding("topics", OK, f"the settings of {len(TOPICS)} topics are correct")
