"""`tickerplant dsn` and `tickerplant sql`, and the role that `init-db` creates."""

from __future__ import annotations

import asyncio
import io
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import asyncpg
import pytest
from tests.support.commands import assert_refused, invoke, objects
from tests.support.plant import Plant
from tests.support.postgres import Postgres

from tickerplant.app.commands import sql
from tickerplant.app.terminal.sql_prompt import run_prompt
from tickerplant.app.wiring.reader import Login, split_login
from tickerplant.core.errors import StoreError


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """Yield a plant whose store runs in this process, with tables and the role."""
    found = Plant(tmp_path_factory.mktemp("plant") / "data")
    with found.store():
        assert invoke(found, "init-db").code == 0
        yield found


def reader_dsn(plant: Plant) -> str:
    return invoke(plant, "dsn", "--read-only").out.strip()


def test_init_db_creates_the_role_with_a_private_password(plant: Plant) -> None:
    file = plant.data / "reader.password"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_text()) == 32
    again = invoke(plant, "init-db", "--json")
    assert objects(again) == [{"applied": [], "reader": "tickerplant_reader"}]


def test_dsn_prints_the_addresses_of_both_roles(plant: Plant) -> None:
    async def who(dsn: str) -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval("SELECT current_user")
        finally:
            await connection.close()

    owner, reader = invoke(plant, "dsn").out.strip(), reader_dsn(plant)
    assert asyncio.run(who(owner)) == "tickerplant"
    assert asyncio.run(who(reader)) == "tickerplant_reader"
    [parts] = objects(invoke(plant, "dsn", "--read-only", "--json"))
    assert parts["dsn"] == reader
    assert parts["password"] == (plant.data / "reader.password").read_text()
    assert parts["password"] not in parts["address"]


def test_dsn_without_a_store_or_a_running_one_says_so(tmp_path: Path, plant: Plant) -> None:
    assert_refused(
        invoke(Plant(tmp_path / "none"), "dsn"), 1, "no store", f"`tickerplant up --data {tmp_path / 'none'}`"
    )
    stopped = Plant(tmp_path / "stopped")
    with stopped.store():
        pass
    found = invoke(stopped, "dsn")
    assert found.out.startswith("postgresql://tickerplant:")
    assert "does not run" in found.err
    assert f"`tickerplant up --data {stopped.data}`" in found.err
    assert_refused(invoke(stopped, "dsn", "--read-only"), 1, "init-db", "tickerplant_reader")


def test_a_statement_prints_a_table_json_or_csv(plant: Plant) -> None:
    statement = (
        "SELECT 1 AS n, 1 AS n, 1.5::float8 AS f, 'NaN'::float8 AS nan, NULL AS nothing, true AS yes,"
        " '{a,b}'::text[] AS list, '2012-06-21 13:30+00'::timestamptz AS time, 0.1::numeric AS exact, '=1+1' AS formula"
    )
    shown = invoke(plant, "sql", statement)
    assert shown.code == 0, shown.err
    assert shown.out.split("\n")[0].split() == [
        "n", "n_2", "f", "nan", "nothing", "yes", "list", "time", "exact", "formula",
    ]  # fmt: skip
    [row] = objects(invoke(plant, "sql", "--json", statement))
    assert row == {
        "n": 1, "n_2": 1, "f": 1.5, "nan": "nan", "nothing": None, "yes": True, "list": ["a", "b"],
        "time": "2012-06-21T13:30:00Z", "exact": "0.1", "formula": "=1+1",
    }  # fmt: skip
    header, line = invoke(plant, "sql", "--csv", statement).out.splitlines()
    assert header == "n,n_2,f,nan,nothing,yes,list,time,exact,formula"
    assert line == '1,1,1.5,nan,,True,"{a, b}",2012-06-21T13:30:00Z,0.1,\'=1+1'


def test_a_large_result_is_streamed(plant: Plant) -> None:
    lines = invoke(plant, "sql", "--csv", "SELECT i FROM generate_series(1, 5000) AS i").out.splitlines()
    assert lines == ["i", *map(str, range(1, 5001))]


def test_statements_come_from_stdin_too(plant: Plant) -> None:
    text = "SELECT ';' AS a; -- a comment; with a semicolon\nSHOW statement_timeout; SELECT $$;$$ AS b"
    with mock.patch.object(sys, "stdin", io.StringIO(text)):
        found = invoke(plant, "sql", "--json")
    assert objects(found) == [{"a": ";"}, {"statement_timeout": "1min"}, {"b": ";"}]


def test_an_error_is_one_line_and_the_reader_writes_nothing(plant: Plant) -> None:
    assert_refused(invoke(plant, "sql", "SELECT no"), 1, 'column "no" does not exist')
    assert_refused(invoke(plant, "sql", "SELECT secret FROM alerts"), 1, "permission denied")
    assert_refused(invoke(plant, "sql", "DELETE FROM symbols"), 1, "read-only")
    slow = "SET statement_timeout = 1; SELECT pg_sleep(9)"
    assert_refused(invoke(plant, "sql", "--json", slow), 1, "statement timeout")
    assert_refused(invoke(plant, "sql", "--csv", "--json", "SELECT 1"), 2, "exclude")
    assert invoke(plant, "sql", "--owner", "--json", "SELECT count(*) FROM alerts").lines == [{"count": 0}]


def test_psql_gets_the_password_in_its_environment_and_no_other_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "psql"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$*" >"$OUT"\nenv >>"$OUT"\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setenv("TICKERPLANT_API__KEY", "hush-api")
    former = signal.getsignal(signal.SIGINT)
    login = split_login("postgresql://me:hu%40sh@/d?host=/run/x&port=6000")
    assert sql._run_psql(str(program), login) == 3
    assert signal.getsignal(signal.SIGINT) is former
    arguments, *environment = (tmp_path / "out").read_text().splitlines()
    assert arguments == "postgresql://me@/d?host=/run/x&port=6000"
    assert "PGPASSWORD=hu@sh" in environment
    assert "hush-api" not in str(environment)


def prompt(dsn: str, *lines: str | type[BaseException]) -> list[Any]:
    """Answer the prompt with these lines, then end the input. Return the printed tables."""
    shown: list[Any] = []
    given = iter(lines)

    def read(text: str) -> str:
        line = next(given, EOFError)
        if not isinstance(line, str):
            raise line
        return line

    run_prompt(dsn, lambda columns, rows: shown.append((columns, rows)), read)
    return shown


def test_the_prompt_runs_statements_of_several_lines(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    shown = prompt(
        reader_dsn(plant), "SELECT 1 AS a;", "SELECT 2", "AS b; SELECT 3 AS c;", "SELECT", KeyboardInterrupt,
        "SELECT 4 AS d;", "BEGIN;", "SELECT 5 AS e;", "COMMIT;", "\\q", "SELECT 9;",
    )  # fmt: skip
    assert shown == [([name], [(number,)]) for number, name in enumerate("abcde", 1)]
    out = capsys.readouterr().out
    assert "1 row" in out
    assert "BEGIN" in out


def test_the_prompt_lists_views_and_their_columns(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    views, columns = prompt(reader_dsn(plant), "\\d", "\\d bars", "\\?")
    assert [row[0] for row in views[1][:4]] == ["bars", "indicators", "latest_prices", "ticks"]
    assert "alerts" not in {row[0] for row in views[1]}
    assert all(row[2] for row in [*views[1], *columns[1]])
    assert [row[0] for row in columns[1][:3]] == ["symbol", "interval", "time"]
    assert "Ctrl-D" in capsys.readouterr().out


def test_the_prompt_goes_on_after_an_error_and_limits_rows(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    shown = prompt(reader_dsn(plant), "SELECT no; SELECT 1;", "SELECT i FROM generate_series(1, 3000) AS i;", "\\d 'x")
    assert [len(rows) for _, rows in shown] == [1000]
    captured = capsys.readouterr()
    assert 'column "no" does not exist' in captured.err
    assert "the first 1,000 rows" in captured.out


def test_a_wrong_password_ends_the_prompt_with_one_line(plant: Plant) -> None:
    wrong = Login(split_login(reader_dsn(plant)).address, "wrong-password").dsn
    with pytest.raises(StoreError, match="refuses the login"):
        prompt(wrong)


@pytest.mark.parametrize(
    ("dsn", "address", "password"),
    [
        ("postgresql://me:a%3Ab%40c@h:5432/d", "postgresql://me@h:5432/d", "a:b@c"),
        ("postgres://me@h/d", "postgresql://me@h/d", ""),
        ("postgresql://h/d?user=me&password=hush&sslmode=require", "postgresql://me@h/d?sslmode=require", "hush"),
        ("postgresql://me:x@a:1,b:2/d", "postgresql://me@a:1,b:2/d", "x"),
        ("postgresql://me:x@/d?host=/run/a%20b&port=1", "postgresql://me@/d?host=/run/a%20b&port=1", "x"),
        ("postgresql://me:x@[::1]:5432/d", "postgresql://me@[::1]:5432/d", "x"),
    ],
)
def test_an_address_is_divided_from_its_password(dsn: str, address: str, password: str) -> None:
    login = split_login(dsn)
    assert (login.address, login.password) == (address, password)
    assert split_login(login.dsn) == login


def test_init_db_on_another_server_creates_the_role_and_a_second_host_needs_the_password(
    empty_dsn: str, postgres: Postgres, tmp_path: Path
) -> None:
    role = "reader_of_another_server"
    dsn = postgres.over_tcp(empty_dsn)
    env = {"TICKERPLANT_STORE": dsn, "TICKERPLANT_STORE__READER": role}
    first, second = Plant(tmp_path / "first", env), Plant(tmp_path / "second", env)
    try:
        assert f"created the read-only role {role}" in invoke(first, "init-db").out
        login = reader_dsn(first)
        assert f"{role}:" in login
        assert f"@127.0.0.1:{postgres.port}/" in login
        assert invoke(first, "sql", "--json", "SELECT current_user").lines == [{"current_user": role}]
        again = invoke(second, "init-db")
        assert again.code == 0
        assert "not in the data folder" in again.err
        assert "store.reader_password" in again.err
        assert_refused(invoke(second, "dsn", "--read-only"), 1, "not in the data folder")
        assert invoke(first, "sql", "SELECT 1").code == 0, "the password has not changed"
        third = Plant(tmp_path / "third", {**env, "TICKERPLANT_STORE__READER_PASSWORD": "password-of-all-hosts"})
        assert invoke(third, "init-db").err == ""
        assert invoke(third, "sql", "SELECT 1").code == 0
    finally:
        _drop_role(dsn, role)


def _drop_role(dsn: str, role: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()

    asyncio.run(run())
