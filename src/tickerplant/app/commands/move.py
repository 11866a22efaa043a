"""`tickerplant move`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tickerplant.app.commands.common import emit, notify
from tickerplant.app.terminal.output import echo

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded


def move(
    loaded: Loaded,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Data folder of the embedded plant, which must be stopped.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Copy a stopped embedded plant to Kafka and another database, which the settings log and store name.

    All records keep their offsets, and the services continue from the same positions. After an interruption, run the
    same command again to continue.
    """
    from tickerplant.app.backup.move import LABELS
    from tickerplant.app.backup.move import move as run
    from tickerplant.app.terminal.progress import ProgressBars

    with ProgressBars(LABELS, quiet=json) as bars:
        moved = run(loaded.settings, folder, bars.update)
    rows = sum(moved.rows.values())
    if json:
        emit({"log_id": moved.log_id, "records": moved.records, "states": moved.states, "rows": moved.rows,
              "skipped": list(moved.skipped)})  # fmt: skip
        return
    echo(f"copied {moved.records:,} records, {moved.states:,} states and {rows:,} rows to log {moved.log_id}")
    if moved.skipped:
        notify(f"tables that were not copied, because they are not the plant's: {', '.join(moved.skipped)}")
    echo("start the services with the same settings; do not start the embedded plant again")
