"""Helpers that write small files as users have them, replay them, and shorten the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.market_data.support import embedded, rows
from tickerplant.core import records, schemas
from tickerplant.market_data.files.replay import ReplayOptions, ReplaySummary, replay


def write(folder: Path, text: str | bytes, name: str = "f.csv") -> Path:
    """Write a file, and return its path."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def replayed(
    folder: Path, path: Path, **options: Any
) -> tuple[ReplaySummary, list[dict[str, Any]], list[dict[str, Any]]]:
    """Replay a file into a new log; return the summary, the ticks or bars, and the dead letters."""
    options["columns"] = tuple(options.pop("columns", {}).items())
    with embedded(folder / f"log of {path.name} {len(list(folder.iterdir()))}", 1) as log:
        summary = replay(log, path, ReplayOptions(**options))
        kind = records.Ticks if summary.kind == "ticks" else records.VendorBars
        return summary, rows(log, kind), rows(log, records.Dead, schemas.DEADLETTER)


def ohlcv(row: dict[str, Any]) -> tuple[str, float, float, float, float, float]:
    """Return a bar's time to the second, its four prices and its volume."""
    time = row["time"].strftime("%Y-%m-%d %H:%M:%S")
    return time, row["open"], row["high"], row["low"], row["close"], row["volume"]


def trade(row: dict[str, Any]) -> tuple[str, str, float, float]:
    """Return a tick's time to the microsecond, its symbol, price and size."""
    return row["time"].strftime("%Y-%m-%d %H:%M:%S.%f"), row["symbol"], row["price"], row["size"]
