"""Shared by all commands: the options for settings, output for people and for programs, and exit codes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tickerplant.app.terminal.output import console
from tickerplant.app.terminal.output import emit as emit
from tickerplant.app.terminal.output import notify as notify
from tickerplant.core.errors import BadInput, ConfigError, TickerplantError
from tickerplant.core.shown import escape_line

if TYPE_CHECKING:
    from rich.console import Console

    from tickerplant.app.config.renamed import FormerName

_OPTIONS: Mapping[str, tuple[Any, str]] = {
    "data": (
        Annotated[Path | None, typer.Option("--data", help="Data folder of the plant.", rich_help_panel="Settings")],
        "data",
    ),
    "config": (
        Annotated[
            Path | None,
            typer.Option(
                "--config", help="TOML file with settings.", envvar="TICKERPLANT_CONFIG", rich_help_panel="Settings"
            ),
        ],
        "",
    ),
    "log_url": (
        Annotated[
            str | None,
            typer.Option(
                "--log", help="Event log: embedded:, sqlite:///path or kafka://host:port.", rich_help_panel="Settings"
            ),
        ],
        "log",
    ),
    "store_url": (
        Annotated[
            str | None,
            typer.Option("--store", help="Database: embedded: or postgresql://…", rich_help_panel="Settings"),
        ],
        "store",
    ),
    "log_level": (
        Annotated[
            str | None,
            typer.Option(
                "--log-level",
                help="Minimum level of log lines: debug, info, warning or error.",
                rich_help_panel="Settings",
            ),
        ],
        "log_level",
    ),
}

LASTING: Final = ("up", "run", "sandbox")
"""Commands that run until they are stopped. They log at info by default, and other commands log at warning."""

WITHOUT_ARROW: Final = ("config_", "init", "sandbox")
"""Functions of the commands that do not use Arrow."""

READABLE_INTERVALS = (
    "1m, 5m, 15m, 30m, 1h, 1d, 1w, or an activity interval: 100t (trades), 10000v (volume), 1000000d (turnover)."
)
STORED_INTERVALS = "1m, 5m, 1d, or an activity interval: 100t (trades), 10000v (volume), 1000000d (turnover)."

DateOrderOption = Annotated[
    str | None,
    typer.Option("--date-order", help="Order of dates such as 03/04/2024: mdy or dmy.", metavar="mdy|dmy"),
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="ROLE=NAME", help="Column of a role, e.g. close=Settle or clock=Hora. Repeatable."
    ),
]
DecimalOption = Annotated[
    str | None,
    typer.Option("--decimal", help="Decimal mark of numbers such as 1,234.", metavar="point|comma"),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse a file that can be read in two ways.")]

START_HELP = "Start of the range, inclusive; UTC if it has no time zone."
END_HELP = "End of the range, exclusive."

_PIPE_COLUMNS = 10_000  # rich requires a width; no row is longer than this


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `_OPTIONS` to a command, and pass it the loaded settings as `loaded`.

    A parameter such as `s_api__port` sets the setting `api.port`. The name is `s_` and the dotted name of the setting,
    with `__` for a dot.
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
        from tickerplant.app.wiring.memory_tuning import import_structlog, reduce_memory

        import_structlog()  # before any other module imports it
        from tickerplant.app.config import settings
        from tickerplant.app.config.describe import secret_values
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
        ends_quietly = command.__name__ not in LASTING and "log_level" not in loaded.origins
        if ends_quietly:
            level = "warning"  # the user reads the command's output, not the log lines of its components
        logging.hide(secret_values(loaded.settings))
        logging.configure(
            level, loaded.settings.log_format, client_lines=not ends_quietly, lasting=command.__name__ in LASTING
        )
        if not given.get("while_used"):  # the parent process has already warned
            _warn_of_former_names(loaded.former_names)
        fault_injection.install(loaded.settings.testing.crash_at)
        # before the command imports a module that creates an Arrow array: that imports pandas
        reduce_memory(with_arrow=command.__name__ not in WITHOUT_ARROW)
        command(loaded, **given)

    wrapper.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
    return wrapper


def _warn_of_former_names(names: Iterable[FormerName]) -> None:
    import structlog

    log = structlog.get_logger(__name__)
    for name in names:
        old, new = name.spelled()
        log.warning(
            f"{old} is now {new}; use the new name, because the former name works for one more version only",
            origin=name.origin,
        )


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print a table. A table that is wider than the terminal wraps; in a pipe nothing wraps."""
    from rich.table import Table

    grid = Table(*headings, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        grid.add_row(*("" if cell is None else escape_line(str(cell)) for cell in row))
    console_for_tables().print(grid)


def console_for_tables() -> Console:
    """Return a console on stdout, as wide as the terminal; in a pipe it is wide enough for every row."""
    return console(width=None if console().is_terminal else _PIPE_COLUMNS)


def cell(value: Any) -> str:
    """Return a value as text for a table. A float below 1e9 has up to ten significant digits, others no fraction."""
    if isinstance(value, float):
        return f"{value:,.10g}" if abs(value) < 1e9 else f"{value:,.0f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def time_option(text: str | None, name: str) -> int | None:
    """Return a time option in µs UTC; None if `text` is None.

    Examples are `2012-06-21`, `2012-06-21T13:30:00Z` and `1340285400`. A text without a zone is in UTC. Raises BadInput
    if the text is not a time. `name`: the option, for the message.
    """
    import datetime as dt

    from tickerplant.core.time_column import parse_instant

    if text is None:
        return None
    try:
        return parse_instant(text, dt.UTC)
    except BadInput as error:
        raise BadInput(f"{name} {error}; write 2012-06-21 or 2012-06-21T13:30:00Z") from None
    except OverflowError:
        raise BadInput(f"{name} {text!r} is outside the years 1 to 9999; correct the year") from None


def time_range(
    start: str | None, end: str | None, names: tuple[str, str] = ("--from", "--to")
) -> tuple[int | None, int | None]:
    """Return start and end in µs, limited by `clamp_range`; None for a missing option.

    `names`: the names of the options.

    Raises BadInput if the start is not before the end.
    """
    from tickerplant.core.times import check_range, clamp_range

    start_us, end_us = time_option(start, names[0]), time_option(end, names[1])
    check_range(start_us, end_us, f"{names[0]} {start}", f"{names[1]} {end}")
    return clamp_range(start_us, end_us)


def stored_interval(text: str) -> str:
    """Return the name of a stored interval: 1m, 5m, 1d or an activity interval.

    Raises BadInput for another interval.
    """
    from tickerplant.app.config.settings import HISTORY_INTERVALS
    from tickerplant.core.interval import parse

    interval = parse(text)
    if interval.name not in HISTORY_INTERVALS and not interval.is_activity:
        raise BadInput(
            f"the store has bars of {', '.join(HISTORY_INTERVALS)} and of activity intervals (100t, 10000v, 1000000d); "
            f"use the REST API for bars of {interval}"
        )
    return interval.name


def readable_interval(text: str) -> str:
    """Return the name of an interval whose bars are stored or built from stored bars.

    Raises BadInput for other texts.
    """
    from tickerplant.core.interval import parse

    return parse(text).name


def exit_code_of(error: TickerplantError) -> int:
    """Return the exit code of an error: 2 for wrong input or settings, else 1. An unknown option exits with 2 too."""
    return 2 if isinstance(error, BadInput | ConfigError) else 1
