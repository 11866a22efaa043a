"""Log lines: for people on a terminal, JSON for machines. Services write one line a batch at most."""

from __future__ import annotations

import logging
import math
import sys
from typing import Any, Final

import structlog

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _PoolFilter(logging.Filter):
    """What the driver's pool says while the database is away: one line at a time and no traceback, which is ours."""

    def __init__(self) -> None:
        super().__init__()
        self._said_s = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the line, or leave it out when its like was said just now."""
        if record.exc_info is None:
            return True
        if record.created - self._said_s < QUIET_S:
            return False
        self._said_s = record.created
        error = record.exc_info[1]
        record.msg = f"the database is out of reach, and is connected to again when it answers: {error}"
        record.args, record.exc_info, record.exc_text = (), None, None
        return True


QUIET_S: Final = 30.0
"""So long the pools are not heard again: each tries every few seconds."""
_POOL: Final = _PoolFilter()


def configure(level: str = "info", style: str = "auto") -> None:
    """Send all lines, ours and the libraries', to stderr, which leaves stdout to a command's own output."""
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
    tail = [structlog.processors.format_exc_info, renderer] if json_lines else [renderer]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    logging.getLogger("asyncpg.pool").addFilter(_POOL)
    # These say at `info` what ours say better.
    for chatty in ("httpx", "httpcore", "websockets", "uvicorn.access", "uvicorn.error", "asyncio"):
        logging.getLogger(chatty).setLevel(max(_LEVELS[level], logging.WARNING))
