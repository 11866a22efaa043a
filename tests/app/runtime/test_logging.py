"""Log lines: filters for lines of libraries, one JSON line per event, and no secrets."""

import contextlib
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import structlog
import uvicorn

from tickerplant.app.config.describe import secret_values
from tickerplant.app.config.settings import Settings
from tickerplant.app.runtime import logging as log_module
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


def test_repeated_invalid_requests_of_clients_write_one_line(caplog: pytest.LogCaptureFixture) -> None:
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


@contextlib.contextmanager
def json_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[[], list[str]]]:
    """Configure JSON lines as for a long-running command; yield a function that returns the written lines.

    Call it in the test itself: pytest replaces stderr between a fixture and its test.
    """
    written: list[str] = []

    def read() -> list[str]:
        written.append(capsys.readouterr().err)
        return "".join(written).splitlines()

    for owner, name in ((sys, "excepthook"), (threading, "excepthook"), (log_module, "_secrets"),
                        (log_module, "_json_lines"), (log_module, "_json_only")):  # fmt: skip
        monkeypatch.setattr(owner, name, getattr(owner, name))
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level = root.level
    configured = structlog.get_config()
    log_module.configure("info", "json", lasting=True)
    yield read
    logging.captureWarnings(False)
    structlog.configure(**configured)
    root.handlers[:] = before
    root.setLevel(level)


def test_every_json_line_is_one_event(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with json_lines(monkeypatch, capsys) as lines:
        log = structlog.get_logger("test")
        try:
            raise ValueError("two\nlines \x7f\x1b[2J \u2028")
        except ValueError:
            log.exception("failed\nbadly", symbol="A\x7fB")
        logging.getLogger("library").error("multi\nline %s", "x")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(False)  # pytest replaces the hook before each test
            logging.captureWarnings(True)
            warnings.warn("old\nname", stacklevel=1)
        thread = threading.Thread(target=lambda: 1 / 0, name="worker")
        thread.start()
        thread.join()
        sys.excepthook(KeyError, KeyError("k"), None)
        log_module.announce("tickerplant is up", {"dashboard": "http://localhost:8000/"})
        events = [json.loads(line) for line in lines()]
        assert [event["event"].split("\n")[0] for event in events[:2]] == ["failed", "multi"]
        assert events[0]["symbol"] == "A\x7fB"
        assert "Traceback" in events[0]["exception"]
        assert "old\nname" in events[2]["event"]
        assert [event.get("thread") for event in events[3:5]] == ["worker", "main"]
        assert "ZeroDivisionError" in events[3]["exception"]
        assert events[5] | {"timestamp": ""} == {
            "event": "tickerplant is up", "dashboard": "http://localhost:8000/", "level": "info", "timestamp": "",
        }  # fmt: skip
        assert all(event["timestamp"].endswith("Z") and event["level"] for event in events)


def test_no_line_contains_a_secret_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with json_lines(monkeypatch, capsys) as lines:
        settings = Settings(
            store="postgresql://plant:d%40ta%2Fbase@db/market",
            api={"key": 'api"key\\7'},
            vendors={
                "twelve_data_key": "td-key-1", "keys": {"acme": "acme/key"}, "options": {"acme": {"token": "tok-9"}},
            },
            kafka={"sasl_password": "kafka-pw", "sasl_username": "plant"},
        )  # fmt: skip
        secrets = list(secret_values(settings))
        assert set(secrets) == {
            "d%40ta%2Fbase", "d@ta/base", 'api"key\\7', "td-key-1", "acme/key", "tok-9", "kafka-pw",
        }  # fmt: skip
        log_module.hide(secrets)
        log = structlog.get_logger("test")
        for secret in secrets:
            try:
                raise ConnectionError(f"GET https://vendor/?apikey={secret} and {quote(secret, safe='')}")
            except ConnectionError:
                log.exception(f"event {secret}", value=secret, nested={"key": [secret]})
            logging.getLogger("library").error("url %r", secret)
            log_module.announce(f"up {secret}", {"x": secret})
        text = "\n".join(lines())
        events = [json.loads(line) for line in lines()]
        for secret in secrets:
            assert secret not in text
            assert secret not in str(events)
            assert json.dumps(secret)[1:-1] not in text
            assert quote(secret, safe="") not in text
        assert text.count("sasl") == 0
        assert events[0]["value"] == log_module.HIDDEN


def test_a_short_text_and_an_empty_list_hide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_secrets", None)
    log_module.hide(["abc", ""])
    assert log_module.without_secrets("abcdef") == "abcdef"
    log_module.hide(["abcd"])
    assert log_module.without_secrets("abcdef") == f"{log_module.HIDDEN}ef"
