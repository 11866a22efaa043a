"""The commented settings file that `tickerplant init` writes.

Prose begins with a hash and a blank. A setting begins with a hash alone, so that removing the hash sets it. The
unchanged file therefore loads, and a file with all settings uncommented sets the defaults.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any, Final

from tickerplant.app.config.describe import UNDOCUMENTED, Row, rows
from tickerplant.app.config.settings import FILE_NAME, Loaded, Settings, default_folder

WIDTH: Final = 100
"""Maximum width of a line of prose, in characters."""

TABLE_NAMES: Final = {"store": "store.url"}
"""Names of settings in a file that has a table of the same name (`store_access`)."""

HEAD: Final = f"""\
Settings of Tickerplant. `tickerplant` reads this file as `{FILE_NAME}` in the data folder, or with `--config FILE`.
Each setting has its default. To change a setting, remove the hash at the start of its line. Flags of the command line
and variables of the environment take precedence. `tickerplant config` prints the values in force and their origins.
This file may contain keys and passwords. Do not publish it.
"""


def template() -> str:
    """Return the text of the settings file: every documented setting, with its default and its description."""
    found = [
        replace(row, name=TABLE_NAMES.get(row.name, row.name))
        for row in rows(Loaded(Settings.model_construct(), {}))
        if not row.name.startswith(UNDOCUMENTED)
    ]
    lines = [*_prose(HEAD)]
    # A key after the header of a table belongs to that table, so keys without a table are first.
    for group, some in groupby(sorted(found, key=_has_table), key=lambda row: row.name.rpartition(".")[0]):
        if group:
            lines += ["", f"[{group}]"]
        for row in some:
            lines += ["", *_setting(row)]
    return "\n".join(lines) + "\n"


def _has_table(row: Row) -> bool:
    return "." in row.name


def _setting(row: Row) -> Iterator[str]:
    yield from _prose(row.description)
    yield from _prose(f"Environment: {row.environment}")
    name = row.name.rpartition(".")[2]
    default = str(default_folder()) if row.name == "data" else row.default
    if default is None:
        yield f"# Unset by default. To set it, write: {name} = …"
    else:
        yield f"#{name} = {_toml(default)}"


def _prose(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2, break_long_words=False, break_on_hyphens=False)]


def _toml(value: Any) -> str:
    """Return a value in TOML, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{_toml(str(key))} = {_toml(each)}" for key, each in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, int | float):
        return str(value)
    return json.dumps(str(value), ensure_ascii=False)
