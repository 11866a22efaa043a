"""The command line. Each command's module is imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Annotated, Final

import typer

from tickerplant.app.commands import (
    action,
    alert,
    backfill,
    compare,
    compute,
    config,
    coverage,
    health,
    query,
    rebuild,
    replay,
    run,
    setup,
    tail,
    top,
    vendors,
    verify,
    version,
)
from tickerplant.app.commands.common import exit_code_of, say, with_settings
from tickerplant.core.errors import TickerplantError


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tickerplant {metadata.version('tickerplant')}")
        raise typer.Exit


app = typer.Typer(
    name="tickerplant",
    help="A market-data plant: feeds in; revisable bars, streaming indicators and gap-free history out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _everywhere(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    del show_version


RUN_PANEL: Final = "Run"
LOOK_PANEL: Final = "Look"
SET_UP_PANEL: Final = "Set up"

for panel, name, function in (
    (RUN_PANEL, "up", run.up),
    (RUN_PANEL, "run", run.run),
    (RUN_PANEL, "replay", replay.replay),
    (RUN_PANEL, "backfill", backfill.backfill),
    (RUN_PANEL, "rebuild", rebuild.rebuild),
    (RUN_PANEL, "sandbox", run.sandbox),
    (LOOK_PANEL, "query", query.query),
    (LOOK_PANEL, "compute", compute.compute),
    (LOOK_PANEL, "indicators", compute.indicators),
    (LOOK_PANEL, "tail", tail.tail),
    (LOOK_PANEL, "top", top.top),
    (LOOK_PANEL, "coverage", coverage.coverage),
    (LOOK_PANEL, "compare", compare.compare),
    (LOOK_PANEL, "verify", verify.verify),
    (LOOK_PANEL, "vendors", vendors.vendors),
    (LOOK_PANEL, "health", health.health),
    (LOOK_PANEL, "config", config.config_),
    (SET_UP_PANEL, "init-db", setup.init_db),
    (SET_UP_PANEL, "migrate", setup.migrate),
    (SET_UP_PANEL, "create-topics", setup.create_topics),
    (SET_UP_PANEL, "adopt", setup.adopt),
):
    app.command(name, rich_help_panel=panel)(with_settings(function))
app.add_typer(action.app, name="action", rich_help_panel=RUN_PANEL)
app.add_typer(alert.app, name="alert", rich_help_panel=LOOK_PANEL)
app.command("version", rich_help_panel=LOOK_PANEL)(version.version)


def main() -> None:
    """Run the command that the arguments name; never show a traceback for what a user can mend."""
    try:
        app()
    except TickerplantError as error:
        say(f"tickerplant: {error}")
        raise SystemExit(exit_code_of(error)) from None
    except BrokenPipeError:  # `tickerplant tail | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
