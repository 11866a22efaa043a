from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.support import PARTITIONS, MemoryStore
from tickerplant.core import schemas
from tickerplant.log.embedded.log import EmbeddedLog
from tickerplant.log.port import EventLog


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EmbeddedLog(tmp_path / "log.sqlite") as found:
        found.create_topics(schemas.TOPICS, PARTITIONS)
        yield found


@pytest.fixture
def store(log: EventLog) -> MemoryStore:
    return MemoryStore(log)
