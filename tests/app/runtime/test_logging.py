"""Filters for log lines of libraries."""

import json
import logging

import pytest

from tickerplant.app.runtime.logging import _PoolFilter


def test_an_unavailable_database_is_logged_once_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    pool = logging.getLogger("asyncpg.pool")
    only = _PoolFilter()
    pool.addFilter(only)
    try:
        for _ in range(3):
            try:
                raise ConnectionRefusedError(111, "Connection refused")
            except OSError:
                pool.warning("Failed to restore the pool connection floor; retrying", exc_info=True)
        pool.warning("Pool.close() is taking over 60 seconds to complete.")
    finally:
        pool.removeFilter(only)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "database unavailable, reconnecting",
        "Pool.close() is taking over 60 seconds to complete.",
    ]
    assert "Traceback" not in caplog.text
    assert json.dumps(caplog.records[0].getMessage()).count("Connection refused") == 1
