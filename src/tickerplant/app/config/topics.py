"""The settings `topics.…`: replicas and retention of the topics on Kafka."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from tickerplant.app.config.groups import SettingsGroup, comma_list
from tickerplant.core.digits import is_digits
from tickerplant.core.times import DAY_US
from tickerplant.log.topic_policy import TopicPolicy

MAX_DAYS: Final = 20_000


def _day_table(value: Any) -> Any:
    """Return a table of days by topic from text such as `market.prices.raw=30`; other values unchanged."""
    if not isinstance(value, str):
        return value
    table: dict[str, str] = {}
    for entry in comma_list(value):
        topic, equals, days = entry.partition("=")
        if not equals or not is_digits(days.strip()):
            raise ValueError(f"{entry!r} is not a retention; write TOPIC=DAYS, as in market.prices.raw=30")
        table[topic.strip()] = days.strip()
    return table


Days = Annotated[dict[str, int], NoDecode, BeforeValidator(_day_table)]


class TopicSettings(SettingsGroup):
    """Replicas and retention of the topics on Kafka."""

    replicas: int | None = Field(
        default=None,
        ge=1,
        le=32,
        description="Replicas of each new topic on Kafka; unset: as many as the cluster has brokers, at most 3. "
        "`?replication=N` in `log` is the same.",
    )
    min_insync_replicas: int | None = Field(
        default=None,
        ge=1,
        le=32,
        description="Replicas on Kafka that must have stored a record before it is committed; unset: 2 with three or "
        "more replicas, otherwise 1.",
    )
    retention_days: Days = Field(
        default={},
        description="Retention of topics on Kafka, if it is longer than the default: `market.prices.raw=30, "
        "market.prices.ohlcv=30` ([description](kafka.md#topics)).",
    )

    @field_validator("retention_days")
    @classmethod
    def _is_long_enough(cls, table: dict[str, int]) -> dict[str, int]:
        from tickerplant.core.schemas import TOPICS  # imports PyArrow, which commands without a log do not need

        defaults = {spec.name: spec.retention_us // DAY_US for spec in TOPICS if spec.retention_us is not None}
        for topic, days in table.items():
            if topic not in defaults:
                raise ValueError(f"{topic!r} is not a topic with a retention; use one of {', '.join(sorted(defaults))}")
            if not defaults[topic] <= days <= MAX_DAYS:
                raise ValueError(f"{topic}={days} must be between {defaults[topic]}, the default, and {MAX_DAYS} days")
        return table

    def policy(self) -> TopicPolicy:
        """Return the settings as a policy of the log, with retention in µs."""
        retention_us = {topic: days * DAY_US for topic, days in self.retention_days.items()}
        return TopicPolicy(self.replicas, self.min_insync_replicas, retention_us)
