"""`tickerplant alert`: alert rules and their firings, whether or not the plant runs."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickerplant.app.commands.common import (
    END_HELP,
    START_HELP,
    cell,
    emit,
    notify,
    table,
    time_range,
    with_settings,
)
from tickerplant.app.terminal.output import echo
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the rule; `alert list` prints the ids.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]

COLUMNS = ("id", "symbol", "interval", "rule", "when", "once", "active", "webhook")
FIRED = ("fired_at", "symbol", "interval", "time", "rule", "left", "right", "state", "revised", "webhook", "alert_id")

app = typer.Typer(no_args_is_help=True, help="Manage alert rules over prices and indicators, and list their firings.")


def add(
    loaded: Loaded,
    symbol: Annotated[str, typer.Argument(help="A symbol, e.g. AAPL or EUR/USD.")],
    left: Annotated[str, typer.Argument(help="close, open, high, low, volume, RSI(14), BBANDS(20,2).upper, …")],
    operator: Annotated[str, typer.Argument(help="crosses_above, crosses_below, greater, less or percent_change.")],
    right: Annotated[str, typer.Argument(help="A number, or an operand like LEFT.")],
    interval: Annotated[
        str, typer.Option("--interval", "-i", help="1m, 5m, 1d, or an activity interval such as 100t.")
    ] = "1m",
    bars: Annotated[int, typer.Option("--bars", help="Window of percent_change, in bars.")] = 1,
    update: Annotated[bool, typer.Option("--update", help="Evaluate forming bars too, not only closed ones.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Fire only once, not at every crossing.")] = False,
    webhook: Annotated[str | None, typer.Option("--webhook", help="URL that firings are posted to.")] = None,
    secret: Annotated[
        str | None, typer.Option("--secret", help="Secret that signs the posts; - reads it from standard input.")
    ] = None,
    json: Json = False,
) -> None:
    """Add a rule to the store and append it to the log; the plant applies it."""
    given = {
        "symbol": symbol, "left": left, "operator": operator, "right": right, "interval": interval, "bars": bars,
        "when": "update" if update else "bar", "once": once, "webhook": webhook,
        "secret": _read(secret),
    }  # fmt: skip
    _show(_with_rules(loaded, lambda rules: rules.add(given)), json=json)


def list_(
    loaded: Loaded,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Print only rules of this symbol.")] = None,
    json: Json = False,
) -> None:
    """Print all rules, oldest first."""
    from tickerplant.core.symbols import check_symbol

    name = None if symbol is None else check_symbol(symbol)
    _print(_with_rules(loaded, lambda rules: rules.all(name)), COLUMNS, json=json)


def show(loaded: Loaded, name: Id, json: Json = False) -> None:
    """Print one rule."""
    _show(_require(_with_rules(loaded, lambda rules: rules.get(name)), name), json=json)


def remove(loaded: Loaded, name: Id) -> None:
    """Remove a rule. Its firings remain stored; its pending webhooks are given up."""
    if not _with_rules(loaded, lambda rules: rules.remove(name)):
        raise _unknown(name)
    notify(f"removed {name}")


def pause(loaded: Loaded, name: Id) -> None:
    """Pause a rule until `alert resume`."""
    _set_active(loaded, name, active=False)


def resume(loaded: Loaded, name: Id) -> None:
    """Restart a rule that is paused, or a `--once` rule that has fired."""
    _set_active(loaded, name, active=True)


def firings(
    loaded: Loaded,
    name: Annotated[str | None, typer.Argument(metavar="[ID]", help="Print only firings of this rule.")] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Print only firings of this symbol.")] = None,
    start: Annotated[str | None, typer.Option("--start", help=START_HELP)] = None,
    end: Annotated[str | None, typer.Option("--end", help=END_HELP)] = None,
    limit: Annotated[
        int,
        typer.Option("--limit", "-n", min=1, max=100_000, help="Maximum number of firings; the newest are printed."),
    ] = 50,
    json: Json = False,
) -> None:
    """Print firings, newest first, with the state of their webhooks."""
    from tickerplant.app.wiring import alert_rules, open_readonly
    from tickerplant.core.symbols import check_symbol

    symbol = None if symbol is None else check_symbol(symbol)
    start_us, end_us = time_range(start, end, ("--start", "--end"))
    with open_readonly.store_of(loaded.settings) as dsn:
        rows = alert_rules.read_firings(dsn, alert_rules.FiringSelection(name, symbol, start_us, end_us, limit))
    _print(rows if json else [row | {"webhook": _webhook(row["webhook"])} for row in rows], FIRED, json=json)


def _read(secret: str | None) -> str | None:
    """Return the secret of the option, or None if the option is missing.

    The value `-` reads the secret from standard input, so that process lists do not contain the secret.
    """
    from_stdin = secret is not None and secret.strip() == "-"
    return sys.stdin.readline().strip() if from_stdin else secret


def _set_active(loaded: Loaded, name: str, *, active: bool) -> None:
    def change(rules: Any) -> Awaitable[Any]:
        # An active rule restarts too, which arms a `once` rule again.
        awaited: Awaitable[Any] = rules.set_active(name, active=active)
        return awaited

    _require(_with_rules(loaded, change), name)
    notify(f"{name} {'is active' if active else 'is paused'}")


def _with_rules(loaded: Loaded, work: Callable[[Any], Awaitable[Any]]) -> Any:
    from tickerplant.app.wiring import alert_rules, open_readonly

    with open_readonly.store_of(loaded.settings) as dsn, open_readonly.log_of(loaded.settings) as event_log:
        return alert_rules.with_rules(dsn, event_log, loaded.settings.alerts, work)


def _require(row: Any, name: str) -> Any:
    if row is None:
        raise _unknown(name)
    return row


def _unknown(name: str) -> BadInput:
    return BadInput(f"there is no alert rule {name!r}; `tickerplant alert list` prints all rules")


def _show(row: Mapping[str, Any], *, json: bool) -> None:
    if json:
        emit(row)
    else:
        for name, value in row.items():
            echo(f"{name:<11} {cell(value)}")
    if not row["in_log"]:
        notify("the rule is stored but not in the log yet; a running API appends it within 30 s")


def _print(rows: list[dict[str, Any]], columns: tuple[str, ...], *, json: bool) -> None:
    if json:
        for row in rows:
            emit(row)
    elif rows:
        table(columns, ([cell(row[name]) for name in columns] for row in rows))
    else:
        notify("the store has no matching rows")


def _webhook(state: Mapping[str, Any] | None) -> str:
    if state is None:
        return ""
    return f"{state['state']}: {state['error']}" if state["error"] else str(state["state"])


for _name, _function in (
    ("add", add), ("list", list_), ("show", show), ("remove", remove), ("pause", pause), ("resume", resume),
    ("firings", firings),
):  # fmt: skip
    # `add` parses a negative number as an argument, not as an unknown option.
    app.command(_name, context_settings={"ignore_unknown_options": _name == "add"})(with_settings(_function))
