"""Logging: readable lines on a terminal, JSON elsewhere. Services write at most one line per batch.

A long-running command with `log_format = json` writes nothing else to stderr: one event is one line. Secrets of the
settings are replaced in every line.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import structlog

from tickerplant.app.terminal.output import escape_json, json_line, notify
from tickerplant.core.shown import escape, escape_line

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _PoolFilter(logging.Filter):
    """Shortens the messages of the database driver's pool while the database is unavailable: one line, no traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._written_s = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten a line with an exception. Return False within `QUIET_S` of the previous such line."""
        if record.exc_info is None:
            return True
        if record.created - self._written_s < QUIET_S:
            return False
        self._written_s = record.created
        error = record.exc_info[1]
        record.msg = f"database unavailable, reconnecting: {error}"
        record.args, record.exc_info, record.exc_text = (), None, None
        return True


class _ClientFilter(logging.Filter):
    """Limits the lines of the web server about invalid requests. A client could fill the disk with them."""

    def __init__(self) -> None:
        super().__init__()
        self._written_s = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for a line about an invalid request within `QUIET_S` of the previous such line, else True.

        A line that passes becomes a warning without a traceback. Other lines are unchanged.
        """
        if record.msg not in BY_CLIENTS:
            return True
        if record.created - self._written_s < QUIET_S:
            return False
        self._written_s = record.created
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.exc_info, record.exc_text = None, None
        return True


QUIET_S: Final = 30.0
"""Minimum seconds between two lines of the pools, or about invalid requests."""
BY_CLIENTS: Final = (
    "Invalid HTTP request received.",
    "Invalid UTF-8 sequence received from client.",
    "Unsupported upgrade request.",
)
"""Lines of uvicorn that a client's bytes cause."""
_POOL: Final = _PoolFilter()
_CLIENTS: Final = _ClientFilter()


HIDDEN: Final = "********"
"""Text that replaces a secret."""
MIN_SECRET: Final = 4
"""Minimum characters of a secret that is replaced. A shorter text also occurs in other words."""

_secrets: re.Pattern[str] | None = None
_json_lines = False
_json_only = False


def hide(secrets: Iterable[str]) -> None:
    """Replace these secrets in all later lines, also in their forms in URLs, JSON, escaped text and Python literals.

    Secrets shorter than `MIN_SECRET` are not replaced. A second call discards the secrets of the first call.
    """
    global _secrets
    forms = {
        form
        for secret in secrets
        if len(secret) >= MIN_SECRET
        for form in (
            secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1], escape(secret), repr(secret)[1:-1],
        )
    }  # fmt: skip
    _secrets = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True)))) if forms else None


def without_secrets(text: str) -> str:
    """Return the text with `HIDDEN` in place of each secret that `hide` received."""
    return _secrets.sub(HIDDEN, text) if _secrets is not None else text


_COLOUR: Final = re.compile(r"(\x1b\[[0-9;]*m)")


class _EscapedFormatter(structlog.stdlib.ProcessorFormatter):
    """Formats a line without secrets. Control characters are escaped, except the sequences that set a colour."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted line. Control characters in JSON become escapes of JSON."""
        if _json_lines:
            return escape_json(without_secrets(super().format(record)))
        parts = _COLOUR.split(without_secrets(super().format(record)))  # colours are at odd positions
        return "".join(part if number % 2 else escape(part) for number, part in enumerate(parts))


def _one_line_values(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace line ends in the texts of a line by escapes, so that no foreign text looks like another line.

    Tracebacks keep their line ends. A JSON line needs no escapes.
    """
    whole = ("exception", "stack")
    return {
        name: escape_line(value) if isinstance(value, str) and name not in whole else value
        for name, value in event.items()
    }


def writes_json() -> bool:
    """Return True if all lines on stderr must be JSON: a long-running command with `log_format = json`."""
    return _json_only


def announce(event: str, values: Mapping[str, str], level: str = "info") -> None:
    """Write one JSON line to stderr. The level of the log does not suppress it."""
    stamp = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    line = json_line({**values, "event": event, "level": level, "timestamp": stamp})
    notify(without_secrets(line))


def _report_uncaught(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None = None, where: str = "main"
) -> None:
    if error is not None and not issubclass(kind, KeyboardInterrupt):
        structlog.get_logger(__name__).critical("uncaught error", thread=where, exc_info=(kind, error, trace))


def _replace_hooks() -> None:
    """Install hooks that write uncaught errors and warnings as log lines. Python's own reports have several lines."""
    sys.excepthook = _report_uncaught
    threading.excepthook = lambda args: _report_uncaught(
        args.exc_type, args.exc_value, args.exc_traceback, args.thread.name if args.thread is not None else "?"
    )
    logging.captureWarnings(True)


def configure(level: str = "info", style: str = "auto", *, client_lines: bool = True, lasting: bool = False) -> None:
    """Write all lines, including the lines of libraries, to stderr; stdout is for a command's output.

    `client_lines`: write the lines of Kafka's client library. A command that ends by itself reports the cause in its
    error. `lasting`: for a long-running command, whose other messages are JSON too if `style` is `json`.
    """
    global _json_lines, _json_only
    _json_lines = json_lines = style == "json" or (style == "auto" and not sys.stderr.isatty())
    _json_only = style == "json" and lasting
    if _json_only:
        _replace_hooks()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json_lines
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=32
        )
    )
    tail = [structlog.processors.format_exc_info if json_lines else _one_line_values, renderer]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _EscapedFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    logging.getLogger("asyncpg.pool").addFilter(_POOL)
    logging.getLogger("uvicorn.error").addFilter(_CLIENTS)
    logging.getLogger("tickerplant.log.kafka").setLevel(logging.NOTSET if client_lines else logging.CRITICAL)
    # The `info` lines of these libraries repeat the plant's own lines.
    for chatty in ("httpx", "httpcore", "websockets", "uvicorn.access", "uvicorn.error", "asyncio"):
        logging.getLogger(chatty).setLevel(max(_LEVELS[level], logging.WARNING))
