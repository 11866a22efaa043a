"""The settings as tables, for `tickerplant config` and docs/settings.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from pydantic import BaseModel, SecretStr

from tickerplant.app.config.renamed import RENAMED, variable
from tickerplant.app.config.settings import EMBEDDED, Loaded, Settings
from tickerplant.app.config.store_access import shown_name

HIDDEN = "********"

UNDOCUMENTED = "testing."
"""Prefix of the settings that docs/settings.md does not list."""

_SECRETS = ("password", "passphrase", "secret", "token", "key")
"""Parts of names that mark an entry of a table with free keys as secret."""
_FILES = (".location", "sslkey")
"""Ends of names whose values are paths of files, as in `ssl.key.location`."""


@dataclass(frozen=True)
class Row:
    """One setting as a row of a table."""

    name: str
    environment: str
    value: Any
    default: Any
    origin: str
    description: str

    def as_dict(self) -> dict[str, Any]:
        """Return the row as a dict, for `--json`."""
        return asdict(self)


def rows(loaded: Loaded) -> Iterator[Row]:
    """Yield every setting of the tree, in the order of its definition, with secrets hidden."""
    yield from _rows(Settings, loaded.settings, Settings.model_construct(), loaded, "")


def _rows(kind: type[BaseModel], value: BaseModel, default: BaseModel, loaded: Loaded, prefix: str) -> Iterator[Row]:
    for name, field in kind.model_fields.items():
        dotted = f"{prefix}{name}"
        present, usual = getattr(value, name), getattr(default, name)
        if isinstance(present, BaseModel):
            yield from _rows(type(present), present, usual, loaded, f"{dotted}.")
            continue
        origin = loaded.origins.get(dotted)
        if origin is None:  # a table with free keys may be set entry by entry
            origin = next((o for n, o in loaded.origins.items() if n.startswith(f"{dotted}.")), "default")
        shown = shown_name(dotted)
        shown_value, default_value = (_plain(one, address=dotted == "store") for one in (present, usual))
        yield Row(shown, variable(shown), shown_value, default_value, origin, field.description or "")


def secret_values(settings: BaseModel) -> Iterator[str]:
    """Yield the secrets of the settings: keys, passwords of the database, and secret entries of tables."""
    for name in type(settings).model_fields:
        yield from _secrets_in(getattr(settings, name), address=name == "store")


def _secrets_in(value: Any, *, address: bool = False) -> Iterator[str]:
    """Yield the secrets in a value. `address`: the value is an address, and only its password is secret."""
    if isinstance(value, BaseModel):
        yield from secret_values(value)
    elif isinstance(value, SecretStr):
        text = value.get_secret_value()
        if not address:
            yield text
        elif text != EMBEDDED:
            _, _, password = text.rpartition("@")[0].partition("://")[2].partition(":")
            yield from (password, unquote(password))
            parameters = parse_qs(urlsplit(text).query)
            for given in (*parameters.get("password", ()), *parameters.get("sslpassword", ())):
                yield from (given, quote(given), quote(given, safe=""))
    elif isinstance(value, dict):
        for name, entry in value.items():
            if isinstance(entry, str) and _is_secret(name):
                yield entry
            yield from _secrets_in(entry)


def _is_secret(name: str) -> bool:
    """Return whether the value of this entry, property of Kafka or parameter of an address is a secret."""
    return any(word in name.lower() for word in _SECRETS) and not name.lower().endswith(_FILES)


def _plain(value: Any, *, address: bool = False) -> Any:
    """Return a value for a table, with secrets hidden.

    `address`: the value is an address, and only its password is secret.
    """
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        return text if text == "embedded:" else (without_password(text) if address else HIDDEN)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {k: HIDDEN if _is_secret(k) else _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return value


def without_password(url: str) -> str:
    """Return the address of a database with every password hidden, before `@` and in parameters.

    >>> without_password("postgresql://u:secret@h/d?password=secret&sslmode=require")
    'postgresql://u:********@h/d?password=********&sslmode=require'

    """
    scheme, _, rest = url.partition("://")
    place, mark, query = rest.partition("?")
    if "@" in query:  # a password with an unescaped question mark
        return f"{scheme}://{HIDDEN}"
    user, at, host = place.rpartition("@")
    name, colon, _ = user.partition(":")
    shown = (
        f"{key}{equals}{HIDDEN if _is_secret(key) else value}"
        for key, equals, value in (part.partition("=") for part in query.split("&"))
    )
    return f"{scheme}://{name}{colon and ':' + HIDDEN}{at}{host}{mark}{'&'.join(shown)}"


def text_of(value: Any) -> str:
    """Return a value as text for a table."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def markdown() -> str:
    """Return the page docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "The precedence, highest first, is: a flag of the command line, the environment, the TOML file, the default.",
        "The file is `--config FILE`, or `tickerplant.toml` in the data folder. A setting with a dotted name is in a",
        "table of the file: `api.port` is `port` under `[api]`. `tickerplant config` prints the values in force and",
        "their origins. `tickerplant config --markdown` prints this page.",
        "",
        "| setting | environment | default | description |",
        "|---|---|---|---|",
    ]
    settings = Settings.model_construct()
    for row in rows(Loaded(settings, {})):
        if row.name.startswith(UNDOCUMENTED):
            continue
        default = "`~/.local/share/tickerplant`" if row.name == "data" else _cell(row.default)
        lines.append(
            f"| `{row.name}` | `{row.environment}` | {default} | {row.description.replace('|', chr(92) + '|')} |"
        )
    lines += [
        "",
        "## Former names",
        "",
        "Use the new names. The former names work for one more version only, with a warning. The command fails if one",
        "source sets both names of a setting to different values. The sources are flags, environment and file.",
        "",
        "| former name | new name |",
        "|---|---|",
        *(
            f"| `{former}` | `{present}` |"
            for former, present in RENAMED.items()
            if not present.startswith(UNDOCUMENTED)
        ),
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    text = text_of(value)
    return f"`{text}`" if text else ""
