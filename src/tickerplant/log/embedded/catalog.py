"""Cache of topics and partitions, by name and by row id. The name and the partitions of a topic never change."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tickerplant.core.errors import UnknownTopic
from tickerplant.log.port import TopicPartition


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic in the file. `partition_ids[i]` is the row id of partition i."""

    id: int
    name: str
    retention_us: int | None
    partition_ids: tuple[int, ...]


class Catalog:
    """The topics read so far. Thread-safe. A miss reads the file through the caller's connection."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._topics: Mapping[str, Topic] = {}
        self._names: Mapping[int, TopicPartition] = {}

    def topic(self, connection: sqlite3.Connection, name: str) -> Topic:
        """Return the topic of that name. Raises UnknownTopic."""
        found = self._topics.get(name)
        if found is None:
            self._read(connection)
            found = self._topics.get(name)
        if found is None:
            raise UnknownTopic(f"the event log has no topic {name}; `tickerplant create-topics` creates the topics")
        return found

    def topics(self, connection: sqlite3.Connection) -> list[Topic]:
        """Read the topics of the file again and return all of them."""
        self._read(connection)
        return list(self._topics.values())

    def partition_id(self, connection: sqlite3.Connection, topic: str, partition: int) -> int:
        """Return a partition's row id. Raises UnknownTopic for a missing topic or partition."""
        ids = self.topic(connection, topic).partition_ids
        if not 0 <= partition < len(ids):
            raise UnknownTopic(f"topic {topic} has {len(ids)} partitions, no partition {partition}")
        return ids[partition]

    def names(self, connection: sqlite3.Connection, partition_ids: Iterable[int]) -> dict[int, TopicPartition]:
        """Return the topic and partition of each row id."""
        wanted = list(partition_ids)
        if any(partition_id not in self._names for partition_id in wanted):
            self._read(connection)
        return {partition_id: self._names[partition_id] for partition_id in wanted}

    def _read(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute(
            "SELECT t.id, t.name, t.retention_us, p.partition, p.id "
            "FROM topics t JOIN partitions p ON p.topic_id = t.id ORDER BY t.id, p.partition"
        ).fetchall()
        topics: dict[str, Topic] = {}
        for topic_id, name, retention_us, _, _ in rows:
            if name not in topics:
                ids = tuple(partition_id for owner, _, _, _, partition_id in rows if owner == topic_id)
                topics[name] = Topic(topic_id, name, retention_us, ids)
        with self._guard:
            self._names = {row[4]: TopicPartition(row[1], row[3]) for row in rows}
            self._topics = topics
