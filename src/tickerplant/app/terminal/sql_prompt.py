"""A prompt for SQL statements, for machines without psql. Results are tables."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tickerplant.app.terminal.output import echo, notify
from tickerplant.core.errors import StoreError, StoreUnavailable
from tickerplant.store.sql_statements import SqlConnection, split_statements

SHOWN_ROWS: Final = 1_000
"""Maximum rows of a result that the prompt prints."""
HELP: Final = """\\d         list views and tables
\\d NAME    list the columns of a view or table
\\q         quit (or Ctrl-D)
A statement ends with a semicolon and may have several lines. Ctrl-C cancels it."""
RELATIONS: Final = """
    SELECT c.relname AS name, CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END AS kind,
        obj_description(c.oid, 'pg_class') AS description
    FROM pg_class AS c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
        AND has_table_privilege(c.oid, 'SELECT')
    ORDER BY kind DESC, name
"""
COLUMNS: Final = """
    SELECT a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type,
        col_description(a.attrelid, a.attnum) AS description
    FROM pg_attribute AS a
    WHERE a.attrelid = {name}::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

Print = Callable[[list[str], list[tuple[Any, ...]]], None]


def run_prompt(dsn: str, show: Print, read: Callable[[str], str] = input) -> None:
    """Read and run statements until the end of input.

    `show` prints a table; `read` prints a prompt and reads a line. Raises StoreUnavailable if the connection is lost,
    and StoreError if the database refuses the login.
    """
    # `asyncio.run` would defer Ctrl-C until a statement is awaited.
    loop = asyncio.new_event_loop()
    try:
        connection = loop.run_until_complete(SqlConnection.connect(dsn))
        try:
            _Prompt(loop, connection, show).run(read)
        finally:
            loop.run_until_complete(connection.close())
    finally:
        loop.run_until_complete(asyncio.sleep(0))  # closes the socket of a refused connection
        loop.close()


@dataclass(frozen=True, slots=True)
class _Prompt:
    """The prompt on one connection, whose event loop runs while a statement runs."""

    loop: asyncio.AbstractEventLoop
    connection: SqlConnection
    show: Print

    def run(self, read: Callable[[str], str]) -> None:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # gives `input` a history
        echo("Statements end with a semicolon; \\? lists the commands.")
        text = ""
        while True:
            try:
                line = read("    -> " if text else "sql -> ")
            except EOFError:
                echo()
                return
            except KeyboardInterrupt:
                echo()
                text = ""
                continue
            if not text and line.strip().startswith("\\"):
                if line.strip() in ("\\q", "\\quit"):
                    return
                statements = [_command(line.strip())]
            else:
                statements, text = split_statements(f"{text}\n{line}" if text else line)
            for statement in filter(None, statements):
                if not self._run_one(statement):
                    break

    def _run_one(self, statement: str) -> bool:
        """Run one statement and print its result or error. Return False after an error."""
        task = self.loop.create_task(_print_result(self.connection, statement, self.show))
        try:
            self.loop.run_until_complete(task)
        except KeyboardInterrupt:
            task.cancel()
            self.loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            notify("the statement was cancelled")
            return False
        except StoreUnavailable:
            raise
        except StoreError as error:
            notify(str(error))
            return False
        return True


def _command(line: str) -> str:
    r"""Return the statement of a command such as `\d bars`; "" for every other command, which prints the help."""
    name, _, argument = line.partition(" ")
    argument = argument.strip()
    if name in ("\\d", "\\dt", "\\dv", "\\d+"):
        return COLUMNS.format(name="'" + argument.replace("'", "''") + "'") if argument else RELATIONS
    echo(HELP)
    return ""


async def _print_result(connection: SqlConnection, statement: str, show: Print) -> None:
    async with connection.run(statement) as result, contextlib.aclosing(result.rows) as batches:
        rows: list[tuple[Any, ...]] = []
        async for batch in batches:
            rows += batch
            if len(rows) > SHOWN_ROWS:
                break
    if not result.columns:
        echo(result.tag)
        return
    show(result.columns, rows[:SHOWN_ROWS])
    if len(rows) > SHOWN_ROWS:
        echo(f"only the first {SHOWN_ROWS:,} rows are shown; add LIMIT, or use tickerplant sql --csv for all")
    else:
        echo(f"{len(rows):,} {'row' if len(rows) == 1 else 'rows'}")
