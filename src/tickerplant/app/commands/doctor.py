"""`tickerplant doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tickerplant.app.commands.common import emit, table
from tickerplant.app.terminal.output import echo

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded


def doctor(
    loaded: Loaded,
    vendors: Annotated[
        bool, typer.Option("--vendors", help="Check each vendor's key with one request, debited to the plant's quota.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check the machine, the log and the database, and print what to do. Works with and without a running plant.

    Exits with 1 if a check fails, and with 0 if all checks are ok or warnings.
    """
    from tickerplant.app.doctor.examine import examine
    from tickerplant.app.doctor.finding import FAIL, worst

    found = list(examine(loaded.settings, ask_vendors=vendors))
    state = worst(found)
    if json:
        emit({"status": state, "checks": [asdict(one) for one in found]})
    else:
        table(["check", "state", "finding", "what to do"], (
            [one.name, one.state, one.sentence, one.advice] for one in found
        ))  # fmt: skip
        echo(f"\n{state}")
    raise typer.Exit(1 if state == FAIL else 0)
