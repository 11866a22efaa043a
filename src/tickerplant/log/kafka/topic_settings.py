"""The settings of the log's topics: the settings of a new topic, and the check of an existing topic. Pure.

Another program may have created or altered a topic. A setting that would lose records, or stop the plant later, is
refused at the start. A setting that shortens what a user can read is a warning. Both texts contain the command that
corrects the topic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tickerplant.core.schemas import TopicSpec
from tickerplant.core.times import DAY_US
from tickerplant.log.kafka.connection import MESSAGE_BYTES

MAX_REPLICAS: Final = 3
"""Maximum replicas of a new topic. A smaller cluster has one replica per broker. Two of three replicas must store each
record."""

_LEAST_RETENTION_US: Final = DAY_US
"""Minimum accepted retention of a topic whose default is longer. An outage of a night is shorter than a day, and an
outage of a weekend is longer."""

_KEYED: Final[Mapping[str, str]] = {
    "cleanup.policy": "compact",
    "segment.bytes": str(128 << 20),  # only closed segments are compacted
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.3",
    "delete.retention.ms": str(86_400_000),
}


def new_topic(spec: TopicSpec, replicas: int) -> dict[str, str]:
    """Return the settings of a new topic."""
    config = {
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(MESSAGE_BYTES),
        "min.insync.replicas": "2" if replicas > 2 else "1",
    }
    if spec.retention_us is None:
        return {**config, **_KEYED}
    # Only entire segments are deleted. They are much shorter than the retention, but at least ten minutes long.
    retention_ms = max(1, spec.retention_us // 1000)
    config |= {"cleanup.policy": "delete", "retention.ms": str(retention_ms)}
    return config | {"segment.ms": str(max(retention_ms // 10, 600_000))}


@dataclass(slots=True)
class Findings:
    """Wrong settings of an existing topic: by setting, the current value and the value to set."""

    topic: str
    replicas: int
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    warned: dict[str, tuple[str, str]] = field(default_factory=dict)

    def text(self, found: Mapping[str, tuple[str, str]], bootstrap: str) -> str:
        """Return one sentence with the command that corrects these settings."""
        present = ", ".join(f"{name}={value}" for name, (value, _) in found.items())
        wanted = ",".join(f"{name}={value}" for name, (_, value) in found.items())
        return (
            f"topic {self.topic} has {present}; correct it with `kafka-configs.sh --bootstrap-server {bootstrap} "
            f"--alter --entity-type topics --entity-name {self.topic} --add-config {wanted}`"
        )


def check(topic: str, spec: TopicSpec, config: Mapping[str, str], replicas: int) -> Findings:
    """Return the refused settings of an existing topic, and the settings that shorten the range that users can read."""
    found, wanted = Findings(topic, replicas), new_topic(spec, replicas)

    def refuse(name: str) -> None:
        found.refused[name] = (config.get(name, ""), wanted[name])

    if config.get("cleanup.policy", "") != wanted["cleanup.policy"]:
        refuse("cleanup.policy")
    if int(config.get("max.message.bytes", MESSAGE_BYTES)) < MESSAGE_BYTES:
        refuse("max.message.bytes")
    if int(config.get("min.insync.replicas", 1)) > replicas:
        refuse("min.insync.replicas")
    elif replicas > 2 and int(config.get("min.insync.replicas", 1)) < 2:  # one broker's failure could lose records
        found.warned["min.insync.replicas"] = (config.get("min.insync.replicas", ""), wanted["min.insync.replicas"])
    if config.get("unclean.leader.election.enable") == "true" and replicas > 1:
        found.warned["unclean.leader.election.enable"] = ("true", "false")
    if spec.retention_us is None:
        return found
    if config.get("message.timestamp.type", "") != wanted["message.timestamp.type"]:
        refuse("message.timestamp.type")
    retention_us = int(config.get("retention.ms", -1)) * 1000
    if 0 <= retention_us < min(spec.retention_us, _LEAST_RETENTION_US) // 1000 * 1000:
        refuse("retention.ms")
    elif 0 <= retention_us < spec.retention_us // 1000 * 1000:
        found.warned["retention.ms"] = (config["retention.ms"], wanted["retention.ms"])
    if int(config.get("retention.bytes", -1)) >= 0:
        found.warned["retention.bytes"] = (config["retention.bytes"], "-1")
    return found
