"""The read-only role of the store: its password, its creation, and the addresses that users connect to."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from tickerplant.core.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.store import Store
    from tickerplant.store.reader_role import ReaderState

PASSWORD_NAME: Final = "reader.password"  # noqa: S105
_OF_LOGIN: Final = ("user", "password", "passfile", "passwordfile")
"""Parameters of an address that belong to its login."""
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}  # noqa: S104
"""Address to connect to, for each address that means all addresses of this machine."""


@dataclass(frozen=True, slots=True)
class Login:
    """An address without its password, and the password; "" if the address has none."""

    address: str
    password: str

    @property
    def dsn(self) -> str:
        """Return the address with the password."""
        scheme, _, rest = self.address.partition("://")
        user, at, place = rest.partition("@")
        if not self.password:
            return self.address
        user, place = (user, place) if at else ("", rest)
        return f"{scheme}://{user}:{quote(self.password, safe='')}@{place}"


def split_login(dsn: str) -> Login:
    """Return an address and its password. The returned address contains no password, not even as a parameter.

    >>> split_login("postgresql://me:hu%40sh@h:5432/d?sslmode=require")
    Login(address='postgresql://me@h:5432/d?sslmode=require', password='hu@sh')

    """
    parts = urlsplit(dsn)
    user, _, place = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    given = dict(pairs)
    name = name or quote(given.get("user", ""), safe="")
    query = urlencode([pair for pair in pairs if pair[0] not in ("user", "password")], safe="/,:", quote_via=quote)
    netloc = f"{name}@{place}" if name else place
    return Login(_joined(netloc, parts.path, query), unquote(password) or given.get("password", ""))


def _joined(netloc: str, path: str, query: str) -> str:
    return f"postgresql://{netloc}{path}" + (f"?{query}" if query else "")


def reader_login(settings: Settings, dsn: str, listen: str = "", socket: str = "") -> Login:
    """Return the login of the read-only role, for the database that the owner's address `dsn` names.

    `listen` and `socket` are the addresses that the embedded server accepts besides its private socket. Raises
    StoreError if the password is unknown.
    """
    from tickerplant.app.config.store_access import listen_address

    password = known_password(settings)
    if password is None:
        raise StoreError(
            f"the password of the role {settings.store_access.reader} is not in the data folder: run "
            "`tickerplant init-db`, or set store.reader_password"
        )
    parts = urlsplit(dsn)
    place = parts.netloc.rpartition("@")[2]
    pairs = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in _OF_LOGIN]
    address = listen_address(listen)
    if address is not None:
        host = _ANY.get(address.host, address.host)
        place = f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
        pairs = []
    elif socket:
        pairs = [(name, socket if name == "host" else value) for name, value in pairs]
    query = urlencode(pairs, safe="/,:", quote_via=quote)
    return Login(_joined(f"{settings.store_access.reader}@{place}", parts.path, query), password)


async def ensure_reader(settings: Settings, store: Store, *, create: bool) -> ReaderState:
    """Create the read-only role if `create` is true and the role does not exist, and grant its rights.

    Return the state of the role. The embedded database always has the role. The password is stored in the data folder,
    unless it is a setting.
    """
    from tickerplant.store.reader_role import ensure_reader as ensure
    from tickerplant.store.reader_role import role_exists

    name, alone, file = settings.store_access.reader, settings.embedded_store, settings.data / PASSWORD_NAME
    async with store.session() as session:
        exists, known = await role_exists(session, name), known_password(settings)
        owns = create or alone
        if not owns or (exists and (known is not None or not alone) and settings.store_access.reader_password is None):
            state = await ensure(session, name, None, alone=alone)
        else:
            state = await ensure(session, name, known or _create_password(file), alone=alone)
            if not state.exists and known is None:
                file.unlink(missing_ok=True)  # no role has this password
    if create and exists and known is None and not alone and not state.advice:
        advice = f"the role {name} exists, but its password is not in the data folder; set store.reader_password"
        state = replace(state, advice=advice)
    return state


def known_password(settings: Settings) -> str | None:
    """Return the password of the read-only role, or None if neither the settings nor the data folder contain it."""
    if settings.store_access.reader_password is not None:
        return settings.store_access.reader_password.get_secret_value()
    with contextlib.suppress(FileNotFoundError):
        return _read(settings.data / PASSWORD_NAME)
    return None


def _create_password(path: Path) -> str:
    """Write a random password to a new private file and return it. Return the file's password if it exists."""
    text = secrets.token_urlsafe(24)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{PASSWORD_NAME}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
        os.link(draft, path)  # fails if another process was faster
    except FileExistsError:
        return _read(path)
    finally:
        draft.unlink(missing_ok=True)
    return text


def _read(path: Path) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle) as file:
            return file.read().strip()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); remove it") from None
