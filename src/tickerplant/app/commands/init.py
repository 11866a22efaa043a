"""`tickerplant init`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tickerplant.app.commands.common import emit
from tickerplant.app.terminal.output import echo
from tickerplant.core.errors import ConfigError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded


def init(
    loaded: Loaded,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="File to write; default: tickerplant.toml in the data folder."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a settings file with every setting, its default and its description. An existing file is not changed."""
    from tickerplant.app.config.settings import FILE_NAME
    from tickerplant.app.config.template import template

    path = (file or loaded.settings.data / FILE_NAME).expanduser().absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} exists; edit it, or name another file: tickerplant init FILE") from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}); name another file: tickerplant init FILE"
        ) from None
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(template())
    if json:
        emit({"file": str(path)})
        return
    echo(f"wrote {path}")
    if path != loaded.settings.data / FILE_NAME:
        echo(f"use it with: tickerplant up --config {path}")
