"""Files of ticks and bars: replaying a file into the log, and reading a file for `compute`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.log.port import EventLog
    from tickerplant.market_data.files.bars import FileBars
    from tickerplant.market_data.files.options import ReadOptions
    from tickerplant.market_data.files.replay import ReplayOptions, ReplayProgress, ReplaySummary


def replay_options(*, columns: Sequence[str] | None, **options: Any) -> ReplayOptions:
    """Return the options of a replay; an option of None has its default. Raises BadInput for an unknown value.

    `columns`: texts such as `close=Settle`. `options`: the other fields of `ReplayOptions`.
    """
    from tickerplant.market_data.files.conditions import table_named
    from tickerplant.market_data.files.replay import ReplayOptions

    given = {name: value for name, value in options.items() if value is not None}
    check_date_order(given.get("date_order"))
    check_decimal(given.get("decimal"))
    if "conditions" in given:
        given["conditions"] = table_named(given["conditions"]).name
    return ReplayOptions(columns=column_options(columns), **given)


def column_options(texts: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """Return the pairs of role and column of `--column ROLE=NAME`. Raises BadInput for a text of another form."""
    pairs = [text.partition("=") for text in texts or ()]
    for text, (role, mark, name) in zip(texts or (), pairs, strict=True):
        if not (role.strip() and mark and name.strip()):
            raise BadInput(f"--column {text!r}: write ROLE=NAME, as in --column 'volume=Volume BTC'")
    return tuple((role.strip().lower(), name.strip()) for role, _, name in pairs)


def check_decimal(text: str | None) -> None:
    """Raise BadInput unless the value of --decimal is None, point or comma."""
    if text not in (None, "point", "comma"):
        raise BadInput(f"--decimal {text!r}: use point (1,234.5) or comma (1.234,5)")


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
    """Append the file to the log and return a summary. Blocks. Raises the errors of `market_data.files.replay`."""
    from tickerplant.market_data.files.replay import replay as run

    return run(log, file, options, progress=progress, stop=stop)


def file_bars(file: Path, options: ReadOptions, *, strict: bool = False) -> FileBars:
    """Return all bars of a file.

    Raises BadInput if the file cannot be read. If `strict` is true, also raises BadInput for a file that can be read in
    two ways.
    """
    from tickerplant.market_data.files.bars import read_bars

    check_date_order(options.date_order)
    check_decimal(options.decimal)
    found = read_bars(file, options)
    if strict and found.choices:
        raise BadInput(
            f"{file.name}: --strict: {'; '.join(found.choices)}; set the option that decides, or omit --strict"
        )
    return found
