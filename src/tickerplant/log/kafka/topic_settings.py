"""The settings of the log's topics: the settings of a new topic, and the check of an existing topic. Pure.

Another program may have created or altered a topic. A setting that would lose records, or stop the plant later, is
refused at the start. A setting that shortens what a user can read, or weakens replication, is a warning. Both texts
contain the command that corrects the topic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tickerplant.core.errors import ConfigError
from tickerplant.core.schemas import TopicSpec
from tickerplant.core.times import DAY_US
from tickerplant.log.kafka.connection import MESSAGE_BYTES
from tickerplant.log.topic_policy import DEFAULT, TopicPolicy

MAX_REPLICAS: Final = 3
"""Maximum replicas of a new topic if `topics.replicas` is not set. A smaller cluster has one replica per broker. Two of
three replicas must store each record."""

REPLICAS: Final = "replicas"
"""Name of the finding about the count of replicas, which is not a setting of a topic."""

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


def new_topic(spec: TopicSpec, replicas: int, policy: TopicPolicy = DEFAULT) -> dict[str, str]:
    """Return the settings of a new topic. Raises ConfigError if it cannot have the chosen settings."""
    min_insync = policy.min_insync_replicas or (2 if replicas > 2 else 1)
    if min_insync > replicas:
        raise ConfigError(
            f"topics.min_insync_replicas is {min_insync}, and a topic has {replicas} replicas; set topics.replicas, or "
            "fewer in-sync replicas"
        )
    config = {
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(MESSAGE_BYTES),
        "min.insync.replicas": str(min_insync),
    }
    if spec.retention_us is None:
        return {**config, **_KEYED}
    # Only entire segments are deleted. They are much shorter than the retention, but at least ten minutes long.
    retention_ms = max(1, policy.retention_us.get(spec.name, spec.retention_us) // 1000)
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
        found = dict(found)
        replicas = found.pop(REPLICAS, None)
        if replicas is not None:
            text = (
                f"topic {self.topic} has {replicas[0]} replicas, and topics.replicas is {replicas[1]}; add replicas "
                "with `kafka-reassign-partitions.sh`"
            )
            return f"{text}; {self.text(found, bootstrap)}" if found else text
        present = ", ".join(f"{name}={value}" for name, (value, _) in found.items())
        wanted = ",".join(f"{name}={value}" for name, (_, value) in found.items())
        return (
            f"topic {self.topic} has {present}; correct it with `kafka-configs.sh --bootstrap-server {bootstrap} "
            f"--alter --entity-type topics --entity-name {self.topic} --add-config {wanted}`"
        )


def check(
    topic: str, spec: TopicSpec, config: Mapping[str, str], replicas: int, policy: TopicPolicy = DEFAULT
) -> Findings:
    """Return the refused settings of an existing topic, and the settings that cause a warning.

    `topic` is the name on the brokers. The name of `spec` has no prefix.
    """
    if (policy.min_insync_replicas or 0) > replicas:  # more than the topic can have
        policy = replace(policy, min_insync_replicas=replicas)
    found, wanted = Findings(topic, replicas), new_topic(spec, replicas, policy)

    def refuse(name: str) -> None:
        found.refused[name] = (config.get(name, ""), wanted[name])

    if config.get("cleanup.policy", "") != wanted["cleanup.policy"]:
        refuse("cleanup.policy")
    if int(config.get("max.message.bytes", MESSAGE_BYTES)) < MESSAGE_BYTES:
        refuse("max.message.bytes")
    if int(config.get("min.insync.replicas", 1)) > replicas:
        refuse("min.insync.replicas")
    elif int(config.get("min.insync.replicas", 1)) < int(wanted["min.insync.replicas"]):
        # One broker's failure could lose records.
        found.warned["min.insync.replicas"] = (config.get("min.insync.replicas", ""), wanted["min.insync.replicas"])
    if config.get("unclean.leader.election.enable") == "true" and replicas > 1:
        found.warned["unclean.leader.election.enable"] = ("true", "false")
    if policy.replicas is not None and replicas < policy.replicas:
        found.warned[REPLICAS] = (str(replicas), str(policy.replicas))
    if spec.retention_us is None:
        return found
    if config.get("message.timestamp.type", "") != wanted["message.timestamp.type"]:
        refuse("message.timestamp.type")
    retention_us = int(config.get("retention.ms", -1)) * 1000
    if 0 <= retention_us < min(spec.retention_us, _LEAST_RETENTION_US) // 1000 * 1000:
        refuse("retention.ms")
    elif 0 <= retention_us < int(wanted["retention.ms"]) * 1000:
        found.warned["retention.ms"] = (config["retention.ms"], wanted["retention.ms"])
    if int(config.get("retention.bytes", -1)) >= 0:
        found.warned["retention.bytes"] = (config["retention.bytes"], "-1")
    return found
