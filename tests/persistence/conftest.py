"""Fixtures of the tests of persistence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.persistence.feeding import PARTITIONS, Feed
from tickerplant.core import schemas
from tickerplant.log.embedded import EmbeddedLog


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    opened = EmbeddedLog(tmp_path / "market.log")
    opened.create_topics(schemas.TOPICS, PARTITIONS)
    yield opened
    opened.close()


@pytest.fixture
def feed(log: EmbeddedLog) -> Feed:
    return Feed(log)
