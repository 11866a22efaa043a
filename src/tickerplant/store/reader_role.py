"""The read-only role: it reads market data, and no alerts, webhooks or dead letters.

The limits of the role are set only when it is created, so that an administrator may change them. Rights are granted
again after each migration.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import asyncpg

from tickerplant.core.errors import StoreError
from tickerplant.store.session import LOCK, LOCK_ROLES, Session

READABLE: Final = (
    "answers", "bars", "coverage", "daily_analytics", "dividends", "feeds", "historical_ohlcv", "indicators",
    "intraday_analytics", "intraday_ohlcv", "latest_prices", "ohlcv_1d_rollup", "ohlcv_5m_rollup", "positions",
    "realtime_analytics", "realtime_prices", "retention", "source_order", "splits", "symbols", "ticks",
)  # fmt: skip
"""Tables and views that the role may read."""
HIDDEN: Final = (
    "alert_firings", "alert_webhooks", "alerts", "arrivals", "compression", "dead_letters", "jobs", "plant",
    "schema_migrations",
)  # fmt: skip
"""Tables that the role may not read: secrets, users' rules, unreadable input, and the plant's own state."""

CONNECTIONS: Final = 16
LIMITS: Final = {
    "default_transaction_read_only": "on",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",  # an open transaction holds back retention
}
TEMPORARY_FILES: Final = "1GB"
"""Maximum size of the temporary files of a session. Only a superuser can set this limit."""
_ITERATIONS: Final = 4_096


@dataclass(frozen=True, slots=True)
class ReaderState:
    """The state of the role. `advice` states what an administrator must do, on one line; "" if nothing is needed."""

    exists: bool
    created: bool = False
    advice: str = ""


async def role_exists(session: Session, name: str) -> bool:
    """Return whether the server has a role of this name."""
    return bool(await session.value("SELECT count(*) FROM pg_roles WHERE rolname = $1", name))


async def ensure_reader(session: Session, name: str, password: str | None, *, alone: bool = False) -> ReaderState:
    """Create the role if it does not exist and `password` is given, and grant its rights; return its state.

    `password` is set for an existing role too; None changes only rights. `alone` is true if no other application uses
    the server. Only the owner may then create schemas and temporary tables.
    """
    async with session.transaction():
        await session.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK, LOCK_ROLES)
        found = await session.rows("SELECT rolsuper FROM pg_roles WHERE rolname = $1", name)
        if found and found[0]["rolsuper"]:
            return ReaderState(True, advice=f"the role {name} is a superuser; set store.reader to another name")
        if not found and password is None:
            return ReaderState(False)
        if password is not None and not await _allowed(
            session, lambda: _write_role(session, name, password, not found)
        ):
            return _denied(name, exists=bool(found))
        if not await _allowed(session, lambda: _grant(session, name)):
            return ReaderState(
                True, advice=f"this login may not grant rights to the role {name}; use the login that owns the tables"
            )
        if alone and await session.value("SELECT has_database_privilege('public', current_database(), 'TEMPORARY')"):
            await session.script(f"REVOKE CREATE, TEMPORARY ON DATABASE {await _database(session)} FROM PUBLIC")
        return ReaderState(True, created=not found)


def _denied(name: str, *, exists: bool) -> ReaderState:
    if exists:
        return ReaderState(
            True, advice=f"this login may not set the password of the role {name}; set the password as an administrator"
        )
    return ReaderState(
        False,
        advice=f"this login may not create the role {name}. As an administrator, run CREATE ROLE {name} LOGIN "
        f"CONNECTION LIMIT {CONNECTIONS} PASSWORD '…', set store.reader_password to that password, and run "
        "`tickerplant init-db` again",
    )


async def _write_role(session: Session, name: str, password: str, create: bool) -> None:
    """Create the role, or set its password. The statement contains a verifier, because servers log statements."""
    verifier = scram_verifier(password)
    if not create:
        await session.script(f"ALTER ROLE {_quoted(name)} PASSWORD '{verifier}'")
        return
    await session.script(
        f"CREATE ROLE {_quoted(name)} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
        f" CONNECTION LIMIT {CONNECTIONS} PASSWORD '{verifier}'"
    )
    for setting, value in LIMITS.items():
        await session.script(f"ALTER ROLE {_quoted(name)} SET {setting} = '{value}'")
    await _allowed(
        session, lambda: session.script(f"ALTER ROLE {_quoted(name)} SET temp_file_limit = '{TEMPORARY_FILES}'")
    )


async def _grant(session: Session, name: str) -> None:
    """Grant SELECT on the relations of `READABLE` that the role cannot read yet."""
    schema = await session.value("SELECT current_schema()::text")
    role = _quoted(name)
    if not await session.value("SELECT has_schema_privilege($1, $2, 'USAGE')", name, schema):
        await session.script(f"GRANT USAGE ON SCHEMA {_quoted(schema)} TO {role}")
    if schema != "public":
        await session.script(
            f"ALTER ROLE {role} IN DATABASE {await _database(session)} SET search_path = {_quoted(schema)}, public"
        )
    rows = await session.rows(
        """SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace
           AND relname = ANY ($2::text[]) AND NOT has_table_privilege($1, oid, 'SELECT') ORDER BY relname""",
        name,
        list(READABLE),
    )
    if rows:
        await session.script(f"GRANT SELECT ON {', '.join(_quoted(row['relname']) for row in rows)} TO {role}")


async def _allowed(session: Session, work: Callable[[], Awaitable[None]]) -> bool:
    """Run `work` in a savepoint; return False if the login lacks a privilege."""
    try:
        async with session.transaction():
            await work()
    except StoreError as error:
        if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
            return False
        raise
    return True


async def _database(session: Session) -> str:
    return _quoted(await session.value("SELECT current_database()::text"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """Return the SCRAM-SHA-256 verifier of a password in ASCII, as PostgreSQL stores it.

    A random salt is used if `salt` is None.
    """
    salt = secrets.token_bytes(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _ITERATIONS)
    client = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    texts = [base64.b64encode(key).decode() for key in (salt, client, server)]
    return f"SCRAM-SHA-256${_ITERATIONS}:{texts[0]}${texts[1]}:{texts[2]}"
