"""A service that can work without the store refuses a log that the store does not follow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tickerplant.app.wiring.log import is_created
from tickerplant.app.wiring.log_binding import adopt, create_followed_topics
from tickerplant.core.errors import StoreMismatch
from tickerplant.core.schemas import RAW
from tickerplant.log.embedded import EmbeddedLog


def test_another_log_than_the_stores_is_refused_and_gets_no_topics(tmp_path: Path, dsn: str) -> None:
    with EmbeddedLog(tmp_path / "first.log") as first, EmbeddedLog(tmp_path / "second.log") as second:
        create_followed_topics(dsn, first, 1)  # a new store follows no log
        assert first.partitions(RAW) == 1
        adopt(dsn, first, 1)
        create_followed_topics(dsn, first, 1)
        with pytest.raises(StoreMismatch, match="the store follows log"):
            create_followed_topics(dsn, second, 1)
        assert not is_created(second)
        create_followed_topics("", second, 1)
        with pytest.raises(StoreMismatch, match="the store follows log"):
            create_followed_topics(dsn, second, 1)


def test_a_database_without_tables_or_without_an_answer_is_accepted(tmp_path: Path, empty_dsn: str) -> None:
    for number, address in enumerate((empty_dsn, "postgresql://nobody@127.0.0.1:1/nothing")):
        with EmbeddedLog(tmp_path / f"{number}.log") as log:
            create_followed_topics(address, log, 1)
            assert log.partitions(RAW) == 1
