"""A database with TLS and passwords (SCRAM): each refusal is one line at once, and the plant recovers from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.certificates import EXPIRED, Authority
from tools.kafka.broker import free_port
from tools.postgres.tls import OWNER, TlsPostgres

from tests.persistence.feeding import PARTITIONS, Feed, count
from tests.support.commands import invoke
from tests.support.plant import Plant
from tests.support.waiting import PATIENCE, until
from tickerplant.app.config.settings import load
from tickerplant.app.doctor import store as doctor
from tickerplant.app.doctor.finding import FAIL, OK
from tickerplant.app.runtime.supervisor import Service, Supervisor
from tickerplant.core import schemas
from tickerplant.core.errors import StoreError, StoreRefused
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.persistence.service import Persistence
from tickerplant.store import Store
from tickerplant.store.sql_statements import SqlConnection


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsPostgres]:
    with TlsPostgres(tmp_path_factory.mktemp("tls"), authority, free_port()) as running:
        yield running


@pytest.fixture
def wrong(tmp_path: Path) -> dict[str, str]:
    """Return the paths of unsuitable certificate and key files, by kind."""
    other = Authority(tmp_path, "other")
    made = other.issue("client", password="right")
    (tmp_path / "empty").touch()
    return {
        "other CA": str(other.ca), "key": str(made.key), "certificate": str(made.certificate),
        "empty": str(tmp_path / "empty"), "missing": str(tmp_path / "missing"),
    }  # fmt: skip


def with_store(dsn: str, work: Callable[[Store], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        store = await Store.open(dsn, max_size=2)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


async def encryption(store: Store) -> Any:
    async with store.session() as session:
        return await session.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")


def test_the_plant_connects_with_a_verified_certificate(server: TlsPostgres) -> None:
    assert with_store(server.address(), encryption) is True


@pytest.mark.parametrize(
    ("user", "host", "parameters", "words"),
    [
        (OWNER, "localhost", {}, "the certificate of the database is refused: .*mismatch.*'localhost'.*--store"),
        (OWNER, "127.0.0.1", {"sslrootcert": "other CA"},
         "the certificate of the database is refused: .*self-signed.*sslrootcert"),
        (OWNER, "127.0.0.1", {"sslrootcert": "missing"}, "the file .*/missing cannot be read .*correct sslrootcert"),
        (OWNER, "127.0.0.1", {"sslrootcert": "empty"}, "the file .*/empty contains no certificate.*sslrootcert"),
        (OWNER, "127.0.0.1", {"sslcert": "certificate", "sslkey": "missing"}, "the file .*/missing .*correct sslkey"),
        (OWNER, "127.0.0.1", {"sslcert": "certificate", "sslkey": "key", "sslpassword": "hush"},
         "the certificate .* cannot be used; correct sslcert, sslkey and sslpassword"),
        (OWNER, "127.0.0.1", {"sslmode": "disable"}, "the database refuses the login: .*no encryption.*--store"),
        (OWNER, "127.0.0.1", {"sslmode": "full"}, "the address of the database cannot be used: .*sslmode.*--store"),
        ("stranger", "127.0.0.1", {}, "the database refuses the login: password authentication failed.*--store"),
    ],
    ids=["host", "other CA", "missing CA", "empty CA", "missing key", "password of key", "plain", "mode", "login"],
)  # fmt: skip
def test_a_refusal_is_one_line_at_once_without_a_secret(
    server: TlsPostgres, wrong: dict[str, str], user: str, host: str, parameters: dict[str, str], words: str
) -> None:
    found = {name: wrong.get(value, value) for name, value in parameters.items()}
    dsn = server.address(user=user, host=host, **found)

    async def connect(dsn: str) -> None:
        await (await SqlConnection.connect(dsn)).close()

    for opening in (lambda: with_store(dsn, encryption), lambda: asyncio.run(connect(dsn))):
        began = time.monotonic()
        with pytest.raises(StoreRefused, match=words) as caught:
            opening()
        assert time.monotonic() - began < PATIENCE.seconds(10)
        assert "\n" not in str(caught.value)
        assert server.password not in str(caught.value)
        assert "hush" not in str(caught.value)


def test_a_server_without_tls_is_named(dsn: str, postgres: Any) -> None:
    plain = f"{postgres.over_tcp(dsn)}?sslmode=require"
    with pytest.raises(StoreRefused, match=r"the database has no TLS .*ssl = on.*sslmode"):
        with_store(plain, encryption)


def test_commands_set_up_a_database_with_tls_and_its_read_only_role(server: TlsPostgres, tmp_path: Path) -> None:
    plant = Plant(tmp_path, {"TICKERPLANT_STORE": server.address(), "TICKERPLANT_API__PORT": "0"})
    done = invoke(plant, "init-db")
    assert done.code == 0, done
    reader = invoke(plant, "dsn", "--read-only").out.strip()
    assert reader.startswith("postgresql://tickerplant_reader:")
    assert "sslmode=verify-full&sslrootcert=" in reader
    shown = invoke(plant, "sql", "SELECT ssl, usename FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
                                 "WHERE pid = pg_backend_pid()", "--csv")  # fmt: skip
    assert shown.out.splitlines()[1] == "True,tickerplant_reader"
    refused = invoke(plant, "sql", "SELECT count(*) FROM alerts")
    assert (refused.code, "permission denied" in refused.err) == (1, True), refused
    plain = reader.partition("?")[0] + "?sslmode=disable"
    with pytest.raises(StoreRefused, match="no encryption"):
        with_store(plain, encryption)
    for found in doctor.store(load({"data": tmp_path, "store": server.address()}).settings):
        assert found.state == OK, found
    wrong = load({"data": tmp_path, "store": server.address(password="wrong")}).settings
    [finding] = doctor.store(wrong)
    assert (finding.state, "refuses the login" in finding.sentence) == (FAIL, True)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    with EmbeddedLog(tmp_path / "market.log") as opened:
        opened.create_topics(schemas.TOPICS, PARTITIONS)
        yield opened


def test_persistence_recovers_from_an_expired_certificate_and_a_wrong_password(
    server: TlsPostgres, authority: Authority, log: EmbeddedLog, tmp_path: Path
) -> None:
    assert invoke(Plant(tmp_path, {"TICKERPLANT_STORE": server.address()}), "init-db").code == 0
    before = with_store(server.address(), lambda store: count(store, "realtime_prices"))
    feed, persistence = Feed(log), Persistence(log, server.address())
    supervisor = Supervisor([Service("persistence", asynchronous=persistence.run)])
    [status] = supervisor.statuses()

    def stored() -> int:
        found = with_store(server.address(), lambda store: count(store, "realtime_prices"))
        return int(found) - before

    supervisor.start()
    try:
        feed.ticks(10)
        until(lambda: stored() == 10)
        server.set_certificate(authority.issue("expired", span=EXPIRED))
        server.reload()
        until(lambda: _is_refused(server), "the expired certificate")
        server.disconnect()
        feed.ticks(10)  # persistence uses the database only for records
        until(lambda: "the certificate of the database is refused: certificate has expired" in status.error)
        server.set_certificate(authority.issue("renewed"))
        server.reload()
        until(lambda: not _is_refused(server), "the renewed certificate")
        until(lambda: stored() == 20)
        server.run(f"ALTER ROLE {OWNER} PASSWORD 'changed'")
        server.disconnect()
        feed.ticks(10)
        until(lambda: "the database refuses the login: password authentication failed" in status.error)
        assert server.password not in status.error
        server.run(f"ALTER ROLE {OWNER} PASSWORD '{server.password}'")
        until(lambda: stored() == 30)
    finally:
        assert supervisor.stop() == []


def _is_refused(server: TlsPostgres) -> bool:
    try:
        with_store(server.address(), encryption)
    except StoreError as error:
        return "certificate has expired" in str(error)
    return False


def test_a_path_in_the_address_may_contain_any_character(server: TlsPostgres) -> None:
    odd = "/a b%20&c/ca.crt"
    with pytest.raises(StoreRefused, match=r"the file /a b%20&c/ca\.crt cannot be read"):
        with_store(server.address(sslrootcert=odd), encryption)
