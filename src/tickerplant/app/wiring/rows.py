"""Rows for commands: plain values with ISO 8601 times. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tickerplant.core.times import iso


def plain(row: Any) -> dict[str, Any]:
    """Return a row, which is a mapping or a dataclass, as a dict with times as ISO 8601 and durations as text."""
    pairs = dict(row) if isinstance(row, Mapping) else {f.name: getattr(row, f.name) for f in fields(row)}
    return {name: _plain(value) for name, value in pairs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dt.timedelta):
        return str(value)
    return iso(value) if isinstance(value, dt.datetime) else value
