"""`tickerplant backup` and `tickerplant restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickerplant.app.commands.common import emit
from tickerplant.app.terminal.output import echo
from tickerplant.core.free_space import MIB

if TYPE_CHECKING:
    from tickerplant.app.backup.manifest import Manifest, Progress
    from tickerplant.app.config.settings import Loaded
    from tickerplant.app.terminal.progress import ProgressBars

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def backup(
    loaded: Loaded,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the backup.")],
    json: Json = False,
) -> None:
    """Write a backup of the embedded log and database into a new folder. The plant may run.

    While the backup is written, the folder's name ends with .incomplete.
    """
    from tickerplant.app.backup.create import LABELS, create
    from tickerplant.app.terminal.progress import ProgressBars

    target = folder.expanduser().absolute()
    with ProgressBars(LABELS, quiet=json) as bars:
        made = create(loaded.settings, target, _shown(bars))
    if json:
        emit({"backup": str(target), **_as_dict(made)})
        return
    _print_files(made)
    echo(f"wrote the backup {target}")


def restore(
    loaded: Loaded,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a backup.")],
    json: Json = False,
) -> None:
    """Create a new data folder from a backup. --data names the folder, which must be empty or missing.

    An interrupted restore is repeated by the same command.
    """
    from tickerplant.app.backup.restore import LABELS
    from tickerplant.app.backup.restore import restore as run
    from tickerplant.app.terminal.progress import ProgressBars

    with ProgressBars(LABELS, quiet=json) as bars:
        found = run(loaded.settings, folder, _shown(bars))
    if json:
        emit({"data": str(loaded.settings.data), **_as_dict(found)})
        return
    _print_files(found)
    settings = loaded.settings
    echo(f"restored {settings.data} from the backup of {found.created_at}; start it with `{settings.command('up')}`")


def _shown(bars: ProgressBars) -> Progress:
    def update(label: str, done: int, total: int | None) -> None:
        bars.update(label, done, total, _size(done) if total is None else f"{_size(done)} of {_size(total)}")

    return update


def _print_files(found: Manifest) -> None:
    for name, one in sorted(found.files.items()):
        echo(f"{name:<16} {_size(one.bytes)}")
    records = sum(end - first for below in found.offsets.values() for first, end in below.values())
    behind = sum(
        max(0, found.offsets[topic][number][1] - position)
        for topic, below in found.positions.items()
        for number, position in below.items()
    )
    echo(f"{records:,} records; the database has not yet applied {behind:,} of them")


def _as_dict(found: Manifest) -> dict[str, Any]:
    return {
        "version": found.version, "created_at": found.created_at, "log_id": found.log_id,
        "generation": found.generation, "positions": found.positions,
        "files": {name: one.bytes for name, one in sorted(found.files.items())},
    }  # fmt: skip


def _size(count: int) -> str:
    return f"{count / MIB:,.1f} MiB" if count >= MIB else f"{count:,} bytes"
