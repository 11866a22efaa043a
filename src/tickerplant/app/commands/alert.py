"""`tickerplant alert`: rules and what they fired, in the store and in the log, whether the plant runs or not."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickerplant.app.commands.common import cell, emit, say, table, time_option, with_settings
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded

Id = Annotated[str, typer.Argument(metavar="ID", help="The rule's id; `alert list` has them.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]

COLUMNS = ("id", "symbol", "interval", "rule", "when", "once", "active", "webhook")
FIRED = ("fired_at", "symbol", "interval", "time", "rule", "left", "right", "state", "revised", "webhook", "alert_id")

app = typer.Typer(no_args_is_help=True, help="Rules over prices and indicators, and what they fired.")


def add(
    loaded: Loaded,
    symbol: Annotated[str, typer.Argument(help="A symbol, e.g. AAPL or EUR/USD.")],
    left: Annotated[str, typer.Argument(help="close, open, high, low, volume, RSI(14), BBANDS(20,2).upper, …")],
    operator: Annotated[str, typer.Argument(help="crosses_above, crosses_below, greater, less or percent_change.")],
    right: Annotated[str, typer.Argument(help="A number, or what LEFT can be.")],
    interval: Annotated[str, typer.Option("--interval", "-i", help="1m, 5m, 1d, or by activity.")] = "1m",
    bars: Annotated[int, typer.Option("--bars", help="The window of percent_change, in bars.")] = 1,
    update: Annotated[
        bool, typer.Option("--update", help="Look at forming bars too, not at closed ones alone.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Fire once in all, not at every crossing.")] = False,
    webhook: Annotated[str | None, typer.Option("--webhook", help="Address to post what fires to.")] = None,
    secret: Annotated[
        str | None, typer.Option("--secret", help="Signs what is posted; - reads it from standard input.")
    ] = None,
    json: Json = False,
) -> None:
    """Keep a new rule, and tell the plant."""
    given = {
        "symbol": symbol, "left": left, "operator": operator, "right": right, "interval": interval, "bars": bars,
        "when": "update" if update else "bar", "once": once, "webhook": webhook,
        "secret": _read(secret),
    }  # fmt: skip
    _show(_with_rules(loaded, lambda rules: rules.add(given)), json=json)


def list_(
    loaded: Loaded,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Only those of this symbol.")] = None,
    json: Json = False,
) -> None:
    """Print all rules, oldest first."""
    from tickerplant.core.symbols import check_symbol

    name = None if symbol is None else check_symbol(symbol)
    _print(_with_rules(loaded, lambda rules: rules.all(name)), COLUMNS, json=json)


def show(loaded: Loaded, name: Id, json: Json = False) -> None:
    """Print one rule."""
    _show(_there(_with_rules(loaded, lambda rules: rules.get(name)), name), json=json)


def remove(loaded: Loaded, name: Id) -> None:
    """Take a rule away. What it fired stays; what of that is still to be posted is given up."""
    if not _with_rules(loaded, lambda rules: rules.remove(name)):
        raise _unknown(name)
    say(f"removed {name}")


def pause(loaded: Loaded, name: Id) -> None:
    """Let a rule rest until `alert resume`."""
    _set_active(loaded, name, active=False)


def resume(loaded: Loaded, name: Id) -> None:
    """Let a rule that was paused, or has fired its once, begin anew."""
    _set_active(loaded, name, active=True)


def firings(
    loaded: Loaded,
    name: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only what this rule fired.")] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Only those of this symbol.")] = None,
    start: Annotated[str | None, typer.Option("--start", help="Fired from this time on (UTC unless it says).")] = None,
    end: Annotated[str | None, typer.Option("--end", help="Fired before this time.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most so many, the newest.")] = 50,
    json: Json = False,
) -> None:
    """Print what fired, newest first, and how its webhook went."""
    from tickerplant.app.wiring import alert_rules, open_readonly
    from tickerplant.core.symbols import check_symbol

    symbol = None if symbol is None else check_symbol(symbol)
    from_us, to_us = time_option(start, "--start"), time_option(end, "--end")
    with open_readonly.store_of(loaded.settings) as dsn:
        rows = alert_rules.firings(dsn, name, symbol, from_us, to_us, limit)
    _print(rows if json else [row | {"webhook": _webhook(row["webhook"])} for row in rows], FIRED, json=json)


def _read(secret: str | None) -> str | None:
    """Return the secret; one that is given as - is not seen in the list of processes."""
    from_stdin = secret is not None and secret.strip() == "-"
    return sys.stdin.readline().strip() if from_stdin else secret


def _set_active(loaded: Loaded, name: str, *, active: bool) -> None:
    def change(rules: Any) -> Awaitable[Any]:
        # A rule that is active already begins anew all the same: that is how a `once` is armed again.
        awaited: Awaitable[Any] = rules.set_active(name, active=active)
        return awaited

    _there(_with_rules(loaded, change), name)
    say(f"{name} {'goes on' if active else 'is paused'}")


def _with_rules(loaded: Loaded, work: Callable[[Any], Awaitable[Any]]) -> Any:
    from tickerplant.app.wiring import alert_rules, open_readonly

    with open_readonly.store_of(loaded.settings) as dsn, open_readonly.log_of(loaded.settings) as event_log:
        return alert_rules.with_rules(dsn, event_log, work)


def _there(row: Any, name: str) -> Any:
    if row is None:
        raise _unknown(name)
    return row


def _unknown(name: str) -> BadInput:
    return BadInput(f"there is no alert rule {name!r}; `tickerplant alert list` has them all")


def _show(row: Mapping[str, Any], *, json: bool) -> None:
    if json:
        emit(row)
    else:
        for name, value in row.items():
            print(f"{name:<11} {cell(value)}")
    if not row["in_log"]:
        say("the log could not be told yet; the API does it when it comes up")


def _print(rows: list[dict[str, Any]], columns: tuple[str, ...], *, json: bool) -> None:
    if json:
        for row in rows:
            emit(row)
    elif rows:
        table(columns, ([cell(row[name]) for name in columns] for row in rows))
    else:
        say("there are none")


def _webhook(state: Mapping[str, Any] | None) -> str:
    if state is None:
        return ""
    return f"{state['state']}: {state['error']}" if state["error"] else str(state["state"])


for _name, _function in (
    ("add", add), ("list", list_), ("show", show), ("remove", remove), ("pause", pause), ("resume", resume),
    ("firings", firings),
):  # fmt: skip
    # A negative number is no option: what is none of the known ones is an argument.
    app.command(_name, context_settings={"ignore_unknown_options": _name == "add"})(with_settings(_function))
