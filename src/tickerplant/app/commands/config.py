"""`tickerplant config`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tickerplant.app.commands.common import emit, table
from tickerplant.app.terminal.output import echo

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded


def config_(
    loaded: Loaded,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/settings.md.")] = False,
) -> None:
    """Print every setting: its value, the origin of the value, and its description. Secrets are hidden."""
    from tickerplant.app.config import describe

    if markdown:
        echo(describe.markdown(), end="")
    elif json:
        for row in describe.rows(loaded):
            emit(row.as_dict())
    else:
        table(
            ["setting", "value", "origin", "description"],
            ([row.name, describe.text_of(row.value), row.origin, row.description] for row in describe.rows(loaded)),
        )
