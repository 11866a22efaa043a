"""Files of ticks and bars: replaying a file into the log, and reading a file for `compute`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.log.port import EventLog
    from tickerplant.market_data.files.bars import FileBars
    from tickerplant.market_data.files.replay import ReplayOptions, ReplayProgress, ReplaySummary


def replay_options(
    *,
    symbol: str | None,
    interval: str | None,
    tz: str | None,
    date_order: str | None,
    speed: float | None,
    source: str | None,
    conditions: str | None,
) -> ReplayOptions:
    """Return the options of a replay. Raises BadInput for a date order or conditions that do not exist."""
    from tickerplant.market_data.files.conditions import table_named
    from tickerplant.market_data.files.replay import ReplayOptions

    check_date_order(date_order)
    return ReplayOptions(
        symbol=symbol,
        interval=interval,
        tz=tz,
        date_order=date_order,
        speed=speed,
        source=source or "file",
        conditions=table_named(conditions).name if conditions else None,
    )


def check_date_order(text: str | None) -> None:
    """Raise BadInput unless the value of --date-order is None, mdy or dmy."""
    if text not in (None, "mdy", "dmy"):
        raise BadInput(f"--date-order {text!r}: use mdy (03/04 is the 4th of March) or dmy (the 3rd of April)")


def replay(
    log: EventLog,
    file: Path,
    options: ReplayOptions,
    *,
    progress: Callable[[ReplayProgress], None],
    stop: threading.Event,
) -> ReplaySummary:
    """Append the file to the log. Blocks. Raises what `market_data.files.replay` raises."""
    from tickerplant.market_data.files.replay import replay as run

    return run(log, file, options, progress=progress, stop=stop)


def file_bars(
    file: Path, *, symbol: str | None, interval: str | None, tz: str | None, date_order: str | None
) -> FileBars:
    """Return all bars of a file. Raises BadInput if the file cannot be read."""
    from tickerplant.market_data.files.bars import read_bars
    from tickerplant.market_data.files.options import ReadOptions

    check_date_order(date_order)
    return read_bars(file, ReadOptions(symbol, interval, tz, date_order))
