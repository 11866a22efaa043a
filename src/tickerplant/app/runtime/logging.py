"""Logging: readable lines on a terminal, JSON elsewhere. Services write at most one line per batch."""

from __future__ import annotations

import logging
import math
import re
import sys
from typing import Any, Final

import structlog

from tickerplant.core.shown import escape, escape_line

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _PoolFilter(logging.Filter):
    """Shortens the messages of the database driver's pool while the database is unavailable: one line, no traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._written_s = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten a line with an exception. Return False for such a line within `QUIET_S` of the previous one."""
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
        """Drop the line if one of its kind was written within `QUIET_S`. It has no traceback."""
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


_COLOUR: Final = re.compile(r"(\x1b\[[0-9;]*m)")


class _EscapedFormatter(structlog.stdlib.ProcessorFormatter):
    """Escapes control characters of foreign text in a line. Only colours remain."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted line."""
        parts = _COLOUR.split(super().format(record))  # colours are at odd positions
        return "".join(part if number % 2 else escape(part) for number, part in enumerate(parts))


def _one_line_values(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace line ends in the texts of a line by escapes, so that no foreign text looks like another line.

    Tracebacks keep theirs. A JSON line needs no escape.
    """
    whole = ("exception", "stack")
    return {
        name: escape_line(value) if isinstance(value, str) and name not in whole else value
        for name, value in event.items()
    }


def configure(level: str = "info", style: str = "auto", *, client_lines: bool = True) -> None:
    """Write all lines, including the lines of libraries, to stderr; stdout is for a command's output.

    `client_lines`: write the lines of Kafka's client library. A command that ends by itself reports their reason.
    """
    json_lines = style == "json" or (style == "auto" and not sys.stderr.isatty())
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
