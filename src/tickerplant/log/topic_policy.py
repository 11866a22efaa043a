"""The settings of topics on Kafka that an operator chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TopicPolicy:
    """The chosen settings of new topics. Existing topics are compared with them. The embedded log ignores them."""

    replicas: int | None = None
    """Replicas of each topic. None means one per broker of the cluster, at most three."""
    min_insync_replicas: int | None = None
    """Replicas that must have stored a record before it is committed. None means two of three or more, otherwise
    one."""
    retention_us: Mapping[str, int] = field(default_factory=dict)
    """Retention by topic, without the prefix; a topic that is missing here has its default."""


DEFAULT = TopicPolicy()
