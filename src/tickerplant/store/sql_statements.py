"""Statements of a user, one after the other, on one connection; and the division of a text into statements."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from tickerplant.core.errors import StoreError, StoreUnavailable
from tickerplant.store.session import DRIVER_ERRORS, connected, is_transient
from tickerplant.store.tls import check_files

CONNECT_S: Final = 10.0
CLOSE_S: Final = 2.0
BATCH_ROWS: Final = 1_000
"""Number of rows that are read from the server at once, so that a large result needs little memory."""

_TOKEN: Final = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|\Z)|[eE]'(?:\\.|''|[^'\\])*(?:'|\Z)|'(?:''|[^'])*(?:'|\Z)|"(?:""|[^"])*(?:"|\Z)"""
    r"""|\$(?P<tag>[A-Za-z_0-9]*)\$.*?(?:\$(?P=tag)\$|\Z)|;|\w+|.""",
    re.DOTALL,
)


def split_statements(text: str) -> tuple[list[str], str]:
    """Return the statements of a text without their semicolons, and the text after the last semicolon.

    A semicolon in a quoted text, a comment or a dollar-quoted text separates nothing.

    >>> split_statements("SELECT ';' -- a; b" + chr(10) + "; SELECT $$;$$")
    (["SELECT ';' -- a; b"], 'SELECT $$;$$')
    """
    statements, current = [], ""
    for match in _TOKEN.finditer(text):
        if match[0] == ";":
            if not _is_blank(current):
                statements.append(current.strip())
            current = ""
        else:
            current += match[0]
    return statements, current.strip()


def _is_blank(text: str) -> bool:
    return all(not match[0].strip() or match[0].startswith(("--", "/*")) for match in _TOKEN.finditer(text))


def unique_names(names: list[str]) -> list[str]:
    """Return the names, with a number after each repeated name.

    >>> unique_names(["a", "a", "b"])
    ['a', 'a_2', 'b']

    """
    return list(_numbered(names))


def _numbered(names: list[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        number, found = 1, name
        while found in seen:
            number += 1
            found = f"{name}_{number}"
        seen.add(found)
        yield found


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a statement: columns and rows in batches, or a tag such as `SET` for a statement without rows."""

    columns: list[str]
    rows: AsyncGenerator[list[tuple[Any, ...]], None]
    tag: str = ""


class SqlConnection:
    """One connection for a user's statements. Belongs to one task at a time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    async def connect(cls, dsn: str) -> SqlConnection:
        """Connect.

        Raises StoreUnavailable if the database is unavailable, and StoreRefused if it refuses the login or TLS fails.
        """
        check_files(dsn)
        opening = asyncpg.connect(
            dsn,
            timeout=CONNECT_S,
            server_settings={"application_name": "tickerplant sql", "timezone": "UTC"},
            statement_cache_size=0,
        )
        return cls(await connected(opening))

    async def close(self) -> None:
        """Close the connection. An open transaction is rolled back."""
        with suppress(*DRIVER_ERRORS):
            await self._connection.close(timeout=CLOSE_S)
            return
        self._connection.terminate()

    @asynccontextmanager
    async def run(self, statement: str) -> AsyncIterator[Result]:
        """Run one statement for the block. Raises StoreError with the database's text if the statement fails."""
        with _explained():
            prepared = await self._connection.prepare(statement)
        names = unique_names([attribute.name for attribute in prepared.get_attributes()])
        if not names:
            with _explained():
                tag = str(await self._connection.execute(statement))
            yield Result([], _batches(None), tag)
            return
        own = None if self._connection.is_in_transaction() else self._connection.transaction()
        with _explained():
            if own is not None:  # a cursor needs a transaction
                await own.start()
        try:
            yield Result(names, _batches(prepared))
        except BaseException:
            with suppress(*DRIVER_ERRORS):
                if own is not None:
                    await own.rollback()
            raise
        with _explained():
            if own is not None:
                await own.commit()


async def _batches(prepared: Any) -> AsyncGenerator[list[tuple[Any, ...]], None]:
    if prepared is None:
        return
    with _explained():
        cursor = await prepared.cursor()
    while True:
        with _explained():
            rows = await cursor.fetch(BATCH_ROWS)
        if not rows:
            return
        yield [tuple(row) for row in rows]


@contextmanager
def _explained() -> Iterator[None]:
    """Replace an error of the driver by StoreUnavailable, or by StoreError with the database's text and hint."""
    try:
        yield
    except asyncpg.QueryCanceledError as error:
        raise StoreError(f"{error} (SHOW statement_timeout prints the limit)") from error
    except DRIVER_ERRORS as error:
        if is_transient(error) or not isinstance(error, asyncpg.PostgresError):
            raise StoreUnavailable(f"the connection to the database was lost: {error}") from error
        hint = getattr(error, "hint", None)
        raise StoreError(f"{error} ({hint})" if hint else str(error)) from error
