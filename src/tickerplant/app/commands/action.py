"""`tickerplant action`: enter splits and dividends, and list the stored ones."""

from __future__ import annotations

import datetime as dt
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tickerplant.app.commands.common import cell, emit, notify, table, with_settings
from tickerplant.app.commands.feeding import (
    exit_if_remaining,
    plant_to_feed,
    wait_until_computed,
    wait_until_stored,
)
from tickerplant.app.terminal.output import echo
from tickerplant.core.digits import parse_float
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.log.port import EventLog

Symbol = Annotated[str, typer.Argument(help="A symbol, e.g. AAPL.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the action is in the tables.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]

YEARS: Final = range(1900, 2200)
COLUMNS: Final = ("kind", "date", "split", "amount", "currency", "source", "counts", "note")

app = typer.Typer(no_args_is_help=True, help="Enter and list splits and dividends. Indicators are adjusted for splits.")


def split(
    loaded: Loaded,
    symbol: Symbol,
    date: Annotated[str, typer.Argument(help="First session at the new price, e.g. 2020-08-31.")],
    ratio: Annotated[
        str,
        typer.Argument(
            metavar="NUMERATOR:DENOMINATOR", help="New shares to old shares: 4:1, or 1:10 for a reverse split."
        ),
    ],
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Enter a split. Indicators of the symbol are recomputed over bars that are adjusted for the split.

    The last split entered for a session applies. Entering the same split again changes nothing, and 1:1 cancels a
    split. Stored bars do not change.
    """
    from tickerplant.app.wiring import corporate_actions

    session_us, (numerator, denominator) = _date(date), _ratio(ratio)
    name = _symbol(symbol)
    row = {
        "kind": "split",
        "symbol": name,
        "date": _iso(session_us),
        "numerator": numerator,
        "denominator": denominator,
    }
    _write(
        loaded,
        row,
        lambda log: corporate_actions.append_split(log, name, session_us, numerator, denominator),
        wait=wait,
        json=json,
    )


def dividend(
    loaded: Loaded,
    symbol: Symbol,
    date: Annotated[str, typer.Argument(help="Ex-date, e.g. 2024-02-09.")],
    amount: Annotated[str, typer.Argument(help="Amount per share.")],
    currency: Annotated[
        str | None, typer.Option("--currency", help="Currency of the amount: USD, or GBp for pence.")
    ] = None,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Enter a dividend. Bars read with `adjust=all` are adjusted for the dividend; indicators are not."""
    from tickerplant.app.wiring import corporate_actions
    from tickerplant.core.currency import normal_currency

    ex_date_us, paid = _date(date), _positive(amount, f"AMOUNT {amount!r}")
    name, money = _symbol(symbol), None if currency is None else normal_currency(currency)
    if currency is not None and money is None:
        raise BadInput(f"--currency {currency!r} is not a currency; write three letters, such as USD, or GBp for pence")
    row = {"kind": "dividend", "symbol": name, "date": _iso(ex_date_us), "amount": paid, "currency": money}
    _write(
        loaded,
        row,
        lambda log: corporate_actions.append_dividend(log, name, ex_date_us, paid, money),
        wait=wait,
        json=json,
    )


def list_(loaded: Loaded, symbol: Symbol, json: Json = False) -> None:
    """Print a symbol's splits and dividends, oldest first.

    If several entries exist for one session, `counts` marks the entry for which bars are adjusted. `note` is the reason
    why bars are not adjusted for a dividend. Reasons are its currency, an ex-date in the future, and a close that is
    missing or not above the amount. `note` also states if the currency of the prices is unknown.
    """
    from tickerplant.app.wiring import corporate_actions, open_readonly

    name = _symbol(symbol)
    with open_readonly.store_of(loaded.settings) as dsn:
        rows = corporate_actions.stored(loaded.settings, dsn, name)
    if json:
        for row in rows:
            emit(row)
    elif rows:
        shown = [{**row, "split": _of(row) if row["kind"] == "split" else None} for row in rows]
        table(COLUMNS, ([cell(row.get(column)) for column in COLUMNS] for row in shown))
    else:
        notify(f"the store has no splits or dividends of {name}")


def _write(
    loaded: Loaded, row: dict[str, Any], write: Callable[[EventLog], dict[int, int]], *, wait: bool, json: bool
) -> None:
    from tickerplant.app.runtime.signals import signals
    from tickerplant.app.wiring import open_readonly

    stop, remaining = threading.Event(), ""
    with signals(stop):
        with open_readonly.log_of(loaded.settings) as event_log:
            event_log.identity()  # raises if the log has no plant; nothing is created
            if not wait:
                offsets = write(event_log)
        if wait:
            with plant_to_feed(loaded) as (plant, own_services):
                offsets = write(plant.event_log)
                wait_until_stored(plant, offsets, stop, own_services=own_services)
                if row["kind"] == "split":
                    remaining = wait_until_computed(
                        plant, offsets, stop, own_services=own_services, symbol=row["symbol"]
                    )
    if json:
        emit({**row, "offsets": offsets, "waited": wait, "remaining": remaining or None})
        exit_if_remaining(remaining)
        return
    what = f"{row['symbol']} {row['date']}: {row['kind']} {_of(row)}"
    if not wait:
        echo(f"{what} is in the log; the plant applies the action when it reaches the record")
    elif row["kind"] == "dividend":
        echo(f"{what} is in the tables")
        _warn_if_not_applied(loaded, row)
    else:
        echo(f"{what} is in the tables")
        exit_if_remaining(remaining)


def _warn_if_not_applied(loaded: Loaded, row: dict[str, Any]) -> None:
    """Print the reason if bars are not adjusted for a dividend that was just entered."""
    from tickerplant.app.wiring import corporate_actions, open_readonly
    from tickerplant.core.adjustment import USER

    with open_readonly.store_of(loaded.settings) as dsn:
        rows = corporate_actions.stored(loaded.settings, dsn, row["symbol"])
    for found in rows:
        if (found["kind"], found["date"], found["source"]) == ("dividend", row["date"], USER) and found["note"]:
            what = "" if found["counts"] else "bars are not adjusted for the dividend: "
            notify(f"{row['symbol']} {row['date']}: {what}{found['note']}")
            return


def _of(row: dict[str, Any]) -> str:
    if row["kind"] == "split":
        return f"{row['numerator']:.10g}:{row['denominator']:.10g}"
    return f"{row['amount']:.10g}" + (f" {row['currency']}" if row["currency"] else "")


def _symbol(text: str) -> str:
    from tickerplant.core.symbols import check_symbol

    return check_symbol(text)


def _date(text: str) -> int:
    """Return 00:00 UTC of a date such as `2020-08-31` or `20200831`, in µs. Raises BadInput."""
    from tickerplant.core.digits import is_digits
    from tickerplant.core.times import micros_of

    try:
        if not text.isascii():
            raise ValueError
        form = "%Y%m%d" if len(text) == 8 and is_digits(text) else "%Y-%m-%d"
        day = dt.datetime.strptime(text, form).replace(tzinfo=dt.UTC)
    except ValueError:
        raise BadInput(f"DATE {text!r} is not a date; write a date such as 2020-08-31") from None
    if day.year not in YEARS:
        raise BadInput(f"DATE {text!r} is outside the years {YEARS[0]} to {YEARS[-1]}; correct the year")
    return micros_of(day)


def _iso(date_us: int) -> str:
    from tickerplant.core.times import datetime_of

    return datetime_of(date_us).date().isoformat()


def _ratio(text: str) -> tuple[float, float]:
    numerator, colon, denominator = text.partition(":")
    if not colon:
        raise BadInput(f"{text!r} is not a ratio; write new shares to old shares: 4:1, or 1:10 for a reverse split")
    what = f"the ratio {text!r}"
    return _positive(numerator, what), _positive(denominator, what)


def _positive(text: str, what: str) -> float:
    try:
        value = parse_float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise BadInput(f"{what}: {text.strip()!r} is not a positive number; write a number above 0")
    return value


for _name, _function in (("split", split), ("dividend", dividend), ("list", list_)):
    # `dividend` parses a negative number as its argument, not as an option, and then refuses it.
    app.command(_name, context_settings={"ignore_unknown_options": _name == "dividend"})(with_settings(_function))
