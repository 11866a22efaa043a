"""What all commands share: the options that name settings, output for people and for programs, and errors."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tickerplant.core.errors import BadInput, ConfigError, TickerplantError

if TYPE_CHECKING:
    from rich.console import Console

    from tickerplant.app.config.renamed import FormerName

_OPTIONS: Mapping[str, tuple[Any, str]] = {
    "data": (
        Annotated[Path | None, typer.Option("--data", help="Data folder.", rich_help_panel="Settings")],
        "data",
    ),
    "config": (
        Annotated[
            Path | None,
            typer.Option(
                "--config", help="TOML file of settings.", envvar="TICKERPLANT_CONFIG", rich_help_panel="Settings"
            ),
        ],
        "",
    ),
    "log_url": (
        Annotated[
            str | None,
            typer.Option(
                "--log", help="Event log: embedded:, sqlite:///path, kafka://host:port.", rich_help_panel="Settings"
            ),
        ],
        "log",
    ),
    "store_url": (
        Annotated[
            str | None,
            typer.Option("--store", help="Database: embedded:, postgresql://…", rich_help_panel="Settings"),
        ],
        "store",
    ),
    "log_level": (
        Annotated[
            str | None, typer.Option("--log-level", help="debug, info, warning, error.", rich_help_panel="Settings")
        ],
        "log_level",
    ),
}

LASTING: Final = ("up", "run", "sandbox")
"""Commands that stay until they are stopped, and so tell what they do."""

STORED_INTERVALS = "1m, 5m, 1d, or by activity: 100t (trades), 10000v (volume), 1000000d (turnover)."

_PIPE_COLUMNS = 10_000  # no row of ours is longer: rich knows no table without a width


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_OPTIONS`, and call it with `loaded`, the settings, as its first argument.

    An option of its own whose name is a setting's dotted name with `__` (`api__port`) is a flag for that setting too.
    """
    signature = inspect.signature(command, eval_str=True, locals={"Loaded": object})
    own = [parameter for name, parameter in signature.parameters.items() if name != "loaded"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, (annotation, _) in _OPTIONS.items()
    ]
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        from tickerplant.app.config import settings
        from tickerplant.app.runtime import fault_injection, logging

        flags: dict[str, Any] = {}
        config = given.pop("config")
        for name, (_, setting) in _OPTIONS.items():
            value = given.pop(name, None)
            if setting and value is not None:
                flags[setting] = value
        for name in [name for name in given if name.startswith("s_")]:
            value = given.pop(name)
            if value is not None:
                _put(flags, name.removeprefix("s_").split("__"), value)
        loaded = settings.load(flags, config=config)
        level = loaded.settings.log_level
        if command.__name__ not in LASTING and "log_level" not in loaded.origins:
            level = "warning"  # who waits for an answer reads that, not the life of the parts behind it
        logging.configure(level, loaded.settings.log_format)
        if not given.get("while_used"):  # the process that started this one has warned
            _warn_of_former_names(loaded.former_names)
        fault_injection.install(loaded.settings.testing.crash_at)
        command(loaded, **given)

    wrapper.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
    return wrapper


def _warn_of_former_names(names: Iterable[FormerName]) -> None:
    import structlog

    log = structlog.get_logger(__name__)
    for name in names:
        log.warning(
            f"{name.former} is now {name.present}: use the new name, the former one stops working in the next version",
            origin=name.origin,
        )


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def say(text: str) -> None:
    """Tell a person something that is not the command's output (to stderr)."""
    print(text, file=sys.stderr, flush=True)


def emit(row: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    print(json.dumps(row, ensure_ascii=False, default=str, allow_nan=False), flush=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print a table for people; wider than the terminal, it wraps on one and does not in a pipe."""
    from rich.table import Table

    grid = Table(*headings, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        grid.add_row(*("" if cell is None else str(cell) for cell in row))
    console_for_tables().print(grid)


def console_for_tables() -> Console:
    """Return stdout, as wide as the terminal; in a pipe nothing wraps or is left out."""
    from rich.console import Console

    return Console(width=None if Console().is_terminal else _PIPE_COLUMNS, highlight=False)


def cell(value: Any) -> str:
    """Return a value as a table for people has it: numbers with ten digits at the most, nothing for None."""
    if isinstance(value, float):
        return f"{value:,.10g}" if abs(value) < 1e9 else f"{value:,.0f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def time_option(text: str | None, name: str) -> int | None:
    """Return microseconds of `2012-06-21`, `2012-06-21T13:30:00Z` (no zone: UTC), or None. Raises BadInput."""
    import datetime as dt

    from tickerplant.core.times import micros_of

    if text is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{name} {text!r} is no time; write 2012-06-21 or 2012-06-21T13:30:00Z") from None
    return micros_of(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))


def stored_interval(text: str) -> str:
    """Return the name of an interval whose bars the plant keeps, one by activity too. Raises BadInput for any other."""
    from tickerplant.app.config.settings import HISTORY_INTERVALS
    from tickerplant.core.interval import parse

    interval = parse(text)
    if interval.name not in HISTORY_INTERVALS and not interval.is_activity:
        raise BadInput(
            f"the plant keeps bars of {', '.join(HISTORY_INTERVALS)}, and by activity (100t, 10000v, 1000000d); "
            f"the API makes those of {interval} from them"
        )
    return interval.name


def exit_code_of(error: TickerplantError) -> int:
    """2 for what the user asked wrongly (as the command line itself does), 1 for what went wrong."""
    return 2 if isinstance(error, BadInput | ConfigError) else 1
