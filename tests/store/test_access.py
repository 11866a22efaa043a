"""Access to the embedded server from outside its folder: TCP with passwords, and a socket in another folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tools.kafka.broker import free_port

from tests.support.clusters import copy_cluster
from tickerplant.core.errors import StoreError
from tickerplant.store import Store
from tickerplant.store.migrations import migrate
from tickerplant.store.reader_role import ensure_reader
from tickerplant.store.server.access import Access
from tickerplant.store.server.embedded import DATABASE, USER, EmbeddedPostgres

READER, PASSWORD = "tickerplant_reader", "a-password-of-tests"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Yield a path in a folder that every user can enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder / "socket"
    shutil.rmtree(folder)


def server_at(folder: Path, access: Access) -> EmbeddedPostgres:
    copy_cluster(folder)
    return EmbeddedPostgres(folder, access=access)


def login(password: str = PASSWORD, **place: Any) -> object:
    """Connect as the reader, or as `user`, and return the result of one query."""

    async def run() -> object:
        connection = await asyncpg.connect(**{"user": READER, "database": DATABASE, "password": password, **place})
        try:
            return await connection.fetchval("SELECT count(*) FROM bars")
        finally:
            await connection.close()

    return asyncio.run(run())


async def create_reader(dsn: str) -> None:
    store = await Store.open(dsn, max_size=1)
    await migrate(store)
    async with store.session() as session:
        await ensure_reader(session, READER, PASSWORD, alone=True)
    await store.close()


def test_others_log_in_over_tcp_and_by_the_socket_and_the_owner_only_by_a_socket(
    tmp_path: Path, open_folder: Path
) -> None:
    port = free_port()
    with server_at(tmp_path / "postgres", Access("127.0.0.1", port, open_folder)) as server:
        asyncio.run(create_reader(server.dsn))
        over_tcp, by_socket = {"host": "127.0.0.1", "port": port}, {"host": str(open_folder), "port": port}
        for place in (over_tcp, by_socket):
            assert login(**place) == 0
            with pytest.raises(asyncpg.InvalidPasswordError):
                login("wrong-password", **place)
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):  # only the plant's database
                login(**place, database="postgres")
        owner = {"user": USER, "password": (tmp_path / "postgres" / "password").read_text()}
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match=r"pg_hba\.conf rejects"):
            login(**over_tcp, **owner)
        assert login(**by_socket, **owner) == 0
        assert stat.S_IMODE(server._sockets.stat().st_mode) == 0o700
        assert stat.S_IMODE(open_folder.stat().st_mode) == 0o755
        if os.geteuid() == 0:  # another user of the machine reaches the socket
            drop = "import os, socket; os.setgroups([]); os.setgid(12345); os.setuid(12345)"
            code = f"{drop}; socket.socket(socket.AF_UNIX).connect({str(open_folder / f'.s.PGSQL.{port}')!r})"
            subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
    assert not list(open_folder.iterdir())


def test_without_the_settings_the_server_listens_only_on_its_private_socket(tmp_path: Path) -> None:
    with server_at(tmp_path / "postgres", Access()) as server:

        async def settings() -> tuple[str, str, str]:
            connection = await asyncpg.connect(server.dsn)
            names = ("listen_addresses", "unix_socket_directories", "unix_socket_permissions")
            found = [await connection.fetchval(f"SHOW {name}") for name in names]
            await connection.close()
            return found[0], found[1], found[2]

        assert asyncio.run(settings()) == ("", f'"{server._sockets}"', "0700")


def test_a_port_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StoreError, match=rf"store\.listen.*127\.0\.0\.1:{port} \(it is in use\)") as caught:
            server_at(tmp_path / "postgres", Access("127.0.0.1", port)).start()
    assert "\n" not in str(caught.value)


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"store\.listen.*198\.51\.100\.7:5432 .*use another port or host"):
        server_at(tmp_path / "postgres", Access("198.51.100.7")).start()


def test_a_folder_that_cannot_have_the_socket_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"store\.socket: .*file is not a folder"):
        server_at(tmp_path / "postgres", Access(folder=tmp_path / "file")).start()
    with pytest.raises(StoreError, match=r"store\.socket: .*/no/such cannot be created \(No such file"):
        server_at(tmp_path / "postgres", Access(folder=tmp_path / "no" / "such")).start()
    with pytest.raises(StoreError, match=r"store\.socket: .* more than 87 bytes"):
        server_at(tmp_path / "postgres", Access(folder=tmp_path / ("x" * 90))).start()


def test_the_socket_of_a_killed_server_is_replaced_and_that_of_another_database_is_not(
    tmp_path: Path, open_folder: Path
) -> None:
    open_folder.mkdir()
    if os.geteuid() == 0:
        open_folder.chmod(0o777)
    lock = open_folder / ".s.PGSQL.5432.lock"
    # A process of another program has the pid of the dead server.
    lock.write_text(f"{os.getpid()}\n{tmp_path / 'postgres' / 'cluster'}\n")
    refusal = rf"store\.socket: another database \({tmp_path}/postgres/cluster\)"
    with (
        server_at(tmp_path / "postgres", Access(folder=open_folder)),
        pytest.raises(StoreError, match=refusal),
    ):
        server_at(tmp_path / "second", Access(folder=open_folder)).start()
    lock.write_text(f"{os.getpid()}\n/elsewhere\n")
    with pytest.raises(StoreError, match=r"another database \(/elsewhere\)"):
        server_at(tmp_path / "postgres", Access(folder=open_folder)).start()
    assert lock.exists()
