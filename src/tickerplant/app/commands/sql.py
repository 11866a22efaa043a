"""`tickerplant dsn` and `tickerplant sql`: the database for other programs and for people."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickerplant.app.commands.common import cell, emit, notify, table
from tickerplant.app.terminal.output import echo, write_csv, write_csv_rows
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.app.wiring.reader import Login
    from tickerplant.store.sql_statements import Result


def dsn(
    loaded: Loaded,
    read_only: Annotated[
        bool,
        typer.Option("--read-only", help="Print the address for the read-only role, which can read only market data."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Print the address of the database, with its password, for psql, notebooks and other programs.

    The plant itself uses the address that is printed without --read-only.
    """
    from tickerplant.app.wiring.database import store_address
    from tickerplant.app.wiring.reader import reader_login, split_login

    settings = loaded.settings
    found = store_address(settings)
    login = reader_login(settings, found.dsn, found.listen, found.socket) if read_only else split_login(found.dsn)
    if json:
        emit({"dsn": login.dsn, "address": login.address, "password": login.password, "read_only": read_only})
    else:
        echo(login.dsn if read_only else found.dsn)
    if not found.running:
        up, run = settings.command("up"), settings.command("run store")
        notify(f"the database does not run; start it with `{up}` or `{run}`")


def sql(
    loaded: Loaded,
    statement: Annotated[
        str | None, typer.Argument(help="A statement. Default: statements from stdin, or a prompt on a terminal.")
    ] = None,
    owner: Annotated[
        bool, typer.Option("--owner", help="Connect as the plant's own role, which may change everything.")
    ] = False,
    psql: Annotated[bool, typer.Option("--psql/--no-psql", help="Use psql for the prompt, if it is installed.")] = True,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Run SQL statements as the read-only role: from the command line, from stdin, or at a prompt.

    The prompt is psql if it is installed.
    """
    from tickerplant.app.wiring import open_readonly
    from tickerplant.app.wiring.reader import reader_login, split_login

    if csv and json:
        raise BadInput("--csv and --json exclude each other; use one of them")
    with open_readonly.store_of(loaded.settings) as address:
        login = split_login(address) if owner else reader_login(loaded.settings, address)
        text = statement if statement is not None or sys.stdin.isatty() else sys.stdin.read()
        if text is not None:
            asyncio.run(_run_all(login, text, csv=csv, json=json))
            return
        # No variable passes the password of a key to psql, and arguments are visible to other users.
        program = shutil.which("psql") if psql and "sslpassword=" not in login.address else None
        code = _run_psql(program, login) if program is not None else _run_prompt(login)
    raise typer.Exit(code)


def _run_psql(program: str, login: Login) -> int:
    """Run psql until it ends and return its exit code. The password is in its environment, never in an argument."""
    from tickerplant.app.config.settings import child_environment

    environment = child_environment() | {"PGAPPNAME": "tickerplant sql"}
    if login.password:
        environment["PGPASSWORD"] = login.password
    former = signal.signal(signal.SIGINT, lambda number, frame: None)  # psql handles Ctrl-C; a handler is not inherited
    try:
        return subprocess.run([program, login.address], env=environment, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, former)


def _run_prompt(login: Login) -> int:
    from tickerplant.app.terminal.sql_prompt import run_prompt

    run_prompt(login.dsn, lambda columns, rows: table(columns, (list(map(_cell, row)) for row in rows)))
    return 0


async def _run_all(login: Login, text: str, *, csv: bool, json: bool) -> None:
    from tickerplant.store.sql_statements import SqlConnection, split_statements

    statements, last = split_statements(text)
    connection = await SqlConnection.connect(login.dsn)
    try:
        for statement in [*statements, *filter(None, [last])]:
            async with connection.run(statement) as result:
                await _print(result, csv=csv, json=json)
    finally:
        await connection.close()


async def _print(result: Result, *, csv: bool, json: bool) -> None:
    if not result.columns:
        if not csv and not json:
            echo(result.tag)
        return
    if csv:
        write_csv(result.columns, [])
    rows: list[tuple[Any, ...]] = []
    async for batch in result.rows:
        if json:
            for row in batch:
                emit(dict(zip(result.columns, map(_value, row), strict=True)))
        elif csv:
            write_csv_rows(map(_csv_row, batch))
        else:
            rows += batch
    if not csv and not json:
        table(result.columns, (list(map(_cell, row)) for row in rows))


def _value(value: Any) -> Any:
    """Return a value for JSON: times as ISO 8601 in UTC, and numbers that JSON cannot represent as text."""
    from tickerplant.core.times import iso

    if isinstance(value, dt.datetime):
        return iso(value) if value.tzinfo is not None else value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_value(one) for one in value]
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _csv_row(row: tuple[Any, ...]) -> list[Any]:
    return ["{" + _cell(value) + "}" if isinstance(value, (list, tuple)) else _value(value) for value in row]


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    return cell(_value(value))
