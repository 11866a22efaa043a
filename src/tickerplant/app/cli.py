"""The command line. Commands import the other packages when they run, so that `--help` prints at once."""

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
    backup,
    compare,
    compute,
    config,
    coverage,
    doctor,
    health,
    init,
    move,
    query,
    rebuild,
    replay,
    run,
    setup,
    skip_lost,
    sql,
    tail,
    top,
    vendors,
    verify,
    version,
)
from tickerplant.app.commands.common import exit_code_of, notify, with_settings
from tickerplant.app.terminal.output import echo
from tickerplant.core.errors import TickerplantError


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"tickerplant {metadata.version('tickerplant')}")
        raise typer.Exit


app = typer.Typer(
    name="tickerplant",
    help="A market-data plant. It turns feeds into revisable bars, streaming indicators and gap-free history.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _everywhere(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    del show_version


RUN_PANEL: Final = "Run"
READ_PANEL: Final = "Read"
SET_UP_PANEL: Final = "Set up"

for panel, name, function in (
    (RUN_PANEL, "up", run.up),
    (RUN_PANEL, "run", run.run),
    (RUN_PANEL, "replay", replay.replay),
    (RUN_PANEL, "backfill", backfill.backfill),
    (RUN_PANEL, "rebuild", rebuild.rebuild),
    (RUN_PANEL, "sandbox", run.sandbox),
    (READ_PANEL, "query", query.query),
    (READ_PANEL, "compute", compute.compute),
    (READ_PANEL, "indicators", compute.indicators),
    (READ_PANEL, "tail", tail.tail),
    (READ_PANEL, "top", top.top),
    (READ_PANEL, "sql", sql.sql),
    (READ_PANEL, "dsn", sql.dsn),
    (READ_PANEL, "coverage", coverage.coverage),
    (READ_PANEL, "compare", compare.compare),
    (READ_PANEL, "verify", verify.verify),
    (READ_PANEL, "vendors", vendors.vendors),
    (READ_PANEL, "health", health.health),
    (READ_PANEL, "config", config.config_),
    (SET_UP_PANEL, "init", init.init),
    (SET_UP_PANEL, "doctor", doctor.doctor),
    (SET_UP_PANEL, "backup", backup.backup),
    (SET_UP_PANEL, "restore", backup.restore),
    (SET_UP_PANEL, "move", move.move),
    (SET_UP_PANEL, "init-db", setup.init_db),
    (SET_UP_PANEL, "migrate", setup.migrate),
    (SET_UP_PANEL, "create-topics", setup.create_topics),
    (SET_UP_PANEL, "adopt", setup.adopt),
    (SET_UP_PANEL, "skip-lost", skip_lost.skip_lost),
):
    app.command(name, rich_help_panel=panel)(with_settings(function))
app.add_typer(action.app, name="action", rich_help_panel=RUN_PANEL)
app.add_typer(alert.app, name="alert", rich_help_panel=READ_PANEL)
app.command("version", rich_help_panel=READ_PANEL)(version.version)


def main() -> None:
    """Run the command that the arguments name.

    An error that a user can correct prints one line, without a traceback.
    """
    os.umask(0o077)  # only this user may read the data folder and its files
    try:
        app()
    except TickerplantError as error:
        _report(str(error))
        raise SystemExit(exit_code_of(error)) from None
    except BrokenPipeError:  # `tickerplant tail | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:
        from tickerplant.app.disk import FULL

        if error.errno not in FULL:
            raise
        _report(f"nothing can be written to {error.filename or 'the disk'}: {error.strerror}; free some space")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _report(error: str) -> None:
    """Write an error to stderr, as a JSON line if all lines must be JSON."""
    configured = sys.modules.get("tickerplant.app.runtime.logging")  # absent if the settings are wrong
    if configured is not None and configured.writes_json():
        configured.announce(error, {}, "error")
    else:
        notify(f"tickerplant: {error}")


if __name__ == "__main__":
    main()
