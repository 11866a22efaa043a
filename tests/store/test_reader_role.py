"""The read-only role: its creation, its rights and its limits."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support.postgres import Postgres
from tickerplant.core.errors import StoreError
from tickerplant.store import Store
from tickerplant.store.migrations import migrate
from tickerplant.store.reader_role import CONNECTIONS, HIDDEN, READABLE, ReaderState, ensure_reader, scram_verifier
from tickerplant.store.session import Session

ROLE = "reader_of_tests"
PASSWORD = "a-password-of-tests"
RELATIONS = """
    SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace
        AND relkind IN ('r', 'p', 'v', 'm') AND NOT relispartition
"""


@asynccontextmanager
async def with_reader(store: Store, *, alone: bool = False, name: str = ROLE) -> AsyncIterator[Session]:
    """Create the role for the block, in a session of the owner."""
    async with store.session() as session:
        try:
            state = await ensure_reader(session, name, PASSWORD, alone=alone)
            assert state == ReaderState(True, created=True)
            yield session
        finally:
            await session.script("RESET ROLE")
            await session.script(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_the_role_reads_market_data_and_nothing_else(store: Store) -> None:
    async with with_reader(store) as session:
        relations = {row[0] for row in await session.rows(RELATIONS)}
        assert relations <= {*READABLE, *HIDDEN}, "a new table is in one of the lists"
        assert not {*READABLE} & {*HIDDEN}
        assert {*READABLE} <= relations
        await session.script(f"SET ROLE {ROLE}")
        for name in READABLE:
            await session.rows(f"SELECT * FROM {name} LIMIT 1")
        for name in relations & {*HIDDEN}:
            with pytest.raises(StoreError, match="permission denied"):
                await session.rows(f"SELECT * FROM {name} LIMIT 1")
        for statement in ("DELETE FROM symbols", "INSERT INTO retention VALUES ('x')", "CREATE TABLE mine (n int)"):
            with pytest.raises(StoreError, match=r"permission denied|read-only"):
                await session.script(statement)


async def test_the_role_is_no_superuser_and_has_limits(store: Store) -> None:
    async with with_reader(store) as session:
        [found] = await session.rows("SELECT * FROM pg_roles WHERE rolname = $1", ROLE)
        for right in ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls"):
            assert found[right] is False, right
        assert found["rolcanlogin"]
        assert found["rolconnlimit"] == CONNECTIONS
        limits = dict(text.split("=", 1) for text in found["rolconfig"])
        assert limits["statement_timeout"] == "60s"
        assert limits["idle_in_transaction_session_timeout"] == "60s"
        assert limits["default_transaction_read_only"] == "on"
        assert limits["temp_file_limit"] == "1GB"


async def test_a_second_call_keeps_the_limits_that_an_administrator_has_set(store: Store) -> None:
    async with with_reader(store) as session:
        await session.script(f"ALTER ROLE {ROLE} CONNECTION LIMIT 3; ALTER ROLE {ROLE} SET statement_timeout = '5min'")
        await session.script(f"REVOKE SELECT ON bars FROM {ROLE}")
        assert await ensure_reader(session, ROLE, None) == ReaderState(True)
        [found] = await session.rows("SELECT * FROM pg_roles WHERE rolname = $1", ROLE)
        assert found["rolconnlimit"] == 3
        assert "statement_timeout=5min" in found["rolconfig"]
        assert await session.value("SELECT has_table_privilege($1, 'bars', 'SELECT')", ROLE)


async def test_a_missing_role_without_a_password_is_not_created(store: Store) -> None:
    async with store.session() as session:
        assert await ensure_reader(session, ROLE, None) == ReaderState(False)
        assert not await session.value("SELECT count(*) FROM pg_roles WHERE rolname = $1", ROLE)


async def test_a_superuser_is_not_made_the_reader(store: Store) -> None:
    async with store.session() as session:
        owner = await session.value("SELECT current_user::text")
        state = await ensure_reader(session, owner, PASSWORD)
        assert "superuser" in state.advice
        assert "store.reader" in state.advice


@pytest.mark.parametrize("database", ["tcp"], indirect=True)
async def test_the_password_logs_in_and_the_server_stores_only_a_verifier(
    store: Store, database: str, postgres: Postgres
) -> None:
    parts = urlsplit(database)
    login = {"host": "127.0.0.1", "port": postgres.port, "user": ROLE, "database": parts.path[1:]}
    async with with_reader(store, alone=True) as session:
        stored = await session.value("SELECT rolpassword FROM pg_authid WHERE rolname = $1", ROLE)
        assert stored.startswith("SCRAM-SHA-256$4096:")
        connection = await asyncpg.connect(**login, password=PASSWORD)
        try:
            assert await connection.fetchval("SHOW statement_timeout") == "1min"
            assert await connection.fetchval("SELECT count(*) FROM latest_prices") == 0
            await connection.execute("SET default_transaction_read_only = off")
            for statement in ("CREATE TEMPORARY TABLE t (n int)", "CREATE SCHEMA s", "DELETE FROM splits"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        finally:
            await connection.close()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(**login, password="wrong")


@pytest.mark.parametrize("database", ["tcp"], indirect=True)
async def test_a_login_without_rights_gets_advice(store: Store, database: str, postgres: Postgres) -> None:
    name = urlsplit(database).path[1:]
    async with store.session() as session:
        await session.script(f"CREATE ROLE plain_{name} LOGIN PASSWORD 'x'")
        await session.script(f"CREATE DATABASE own_{name} OWNER plain_{name}")
    try:
        poor = await Store.open(f"postgresql://plain_{name}:x@127.0.0.1:{postgres.port}/own_{name}", max_size=1)
        try:
            await migrate(poor)
            async with poor.session() as session:
                state = await ensure_reader(session, ROLE, PASSWORD)
                assert not state.exists
                assert f"CREATE ROLE {ROLE} LOGIN CONNECTION LIMIT {CONNECTIONS} PASSWORD" in state.advice
                assert PASSWORD not in state.advice
                async with store.session() as administrator:
                    await administrator.script(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'other'")
                assert await ensure_reader(session, ROLE, None) == ReaderState(True)
                assert await session.value("SELECT has_table_privilege($1, 'bars', 'SELECT')", ROLE)
                assert "password" in (await ensure_reader(session, ROLE, PASSWORD)).advice
        finally:
            await poor.close()
    finally:
        async with store.session() as session:
            await session.script(f"DROP DATABASE own_{name} WITH (FORCE)")
            await session.script(f"DROP ROLE plain_{name}; DROP ROLE IF EXISTS {ROLE}")


def test_a_verifier_answers_the_exchange_of_rfc_7677() -> None:
    verifier = scram_verifier("pencil", b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    message = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,"
        b"i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    stored, server = (b64decode(key) for key in verifier.rpartition("$")[2].split(":"))
    assert hmac.digest(server, message, "sha256") == b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    proof = b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    signature = hmac.digest(stored, message, "sha256")
    client = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    assert hashlib.sha256(client).digest() == stored
