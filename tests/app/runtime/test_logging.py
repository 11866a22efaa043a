"""Filters for log lines of libraries."""

import json
import logging
from pathlib import Path

import pytest
import uvicorn

from tickerplant.app.runtime.logging import BY_CLIENTS, _ClientFilter, _PoolFilter


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


def test_invalid_requests_of_clients_write_one_line_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    server, only = logging.getLogger("uvicorn.error"), _ClientFilter()
    server.addFilter(only)
    try:
        for text in BY_CLIENTS * 100:
            try:
                b"\xff".decode()
            except UnicodeDecodeError:
                server.exception(text)
        server.error("another line")
    finally:
        server.removeFilter(only)
    lines = [record for record in caplog.records if record.name == "uvicorn.error"]
    assert [(line.levelname, line.msg, line.exc_info) for line in lines] == [
        ("WARNING", BY_CLIENTS[0], None), ("ERROR", "another line", None),
    ]  # fmt: skip


def test_the_lines_about_clients_are_those_of_the_web_server() -> None:
    folder = Path(uvicorn.__file__).parent / "protocols"
    source = "".join(path.read_text() for path in folder.rglob("*.py"))
    assert [text for text in BY_CLIENTS if f'"{text}"' not in source] == []
