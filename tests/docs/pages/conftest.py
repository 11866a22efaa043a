"""The machine of a reader: a network with loopback alone, a plant that the pages share, a broker and a database server.

`make check-docs` runs these tests. Other runs ignore them: they need minutes, and the ports of the pages.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from tools.kafka.broker import KafkaBroker

from tests.docs.blocks import ROOT, Block
from tests.docs.pages import data
from tests.docs.pages.reader import Reader, Terminal
from tests.support.clusters import copy_cluster
from tests.support.kafka import QUICK
from tests.support.waiting import PATIENCE
from tickerplant.store.server.embedded import EmbeddedPostgres

DATA = ".local/share/tickerplant"
"""The default data folder in a home folder."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--wheels", type=Path, metavar="FOLDER", help="folder with the wheels of the plant and its packages"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore these tests unless `make check-docs` runs them."""
    del collection_path
    return None if config.getoption("wheels", None) else True


class Machine:
    """A reader's machine as the pages expect it: packages, the shared plant, a broker."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        names = {interface for _, interface in socket.if_nameindex()}
        if names != {"lo"}:
            raise pytest.UsageError(f"this network has {sorted(names)}; run the tests with `make check-docs`")
        self.folder = folder
        self.wheels = wheels
        self.home = folder / "home"
        self._bin = self._make_environment()
        self._plant: Terminal | None = None
        self._broker: KafkaBroker | None = None
        self._kafka_plant: Terminal | None = None

    def _make_environment(self) -> Path:
        """Create the environment into which pages install packages. It contains the packages of the tests."""
        made = self.folder / "env"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
        (packages,) = made.glob("lib/python*/site-packages")
        (packages / "developers.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT / 'src'}\n")
        pip = made / "bin" / "pip"
        pip.write_text(f"#!{made}/bin/python\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n")
        pip.chmod(0o755)
        return made / "bin"

    def environment(self, home: Path) -> dict[str, str]:
        kept = {
            name: os.environ[name] for name in ("LANG", "LC_ALL", "TERM", "PYTHONPYCACHEPREFIX") if name in os.environ
        }
        home.mkdir(exist_ok=True)
        return {
            **kept, "HOME": str(home), "PATH": f"{self._bin}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(self.wheels), "UV_PYTHON": sys.executable,
            "PIPX_DEFAULT_PYTHON": sys.executable,
        }  # fmt: skip

    def start_plant(self) -> None:
        """Start the plant that pages share. Its first start replays the ticks of `data` into it."""
        if self._plant is not None:
            return
        env = self.environment(self.home)
        folder = self.home / DATA
        first = not folder.exists()
        if first:
            folder.mkdir(parents=True, mode=0o700)
            copy_cluster(folder / "postgres")
            (folder / "tickerplant.toml").write_text(data.SETTINGS)
        self._plant = Terminal(Block("plant", 0, "sh", ""), ["tickerplant", "up"], env, self.folder)
        self._plant.wait_for("tickerplant is up")
        if first:
            data.replay(self.folder / "files", env)

    def stop_plant(self) -> None:
        """Stop the shared plant; the next page that needs it starts it again."""
        if self._plant is not None:
            self._plant.stop()
            self._plant = None

    def start_kafka(self) -> None:
        """Start a broker on port 9092."""
        if self._broker is None:
            self._broker = KafkaBroker(self.folder / "kafka", port=9092, java_options=QUICK)
            self._broker.start(PATIENCE.seconds(60))

    def start_kafka_plant(self) -> None:
        """Start a plant on the broker, beside the shared plant."""
        self.start_kafka()
        if self._kafka_plant is None:
            command = ["tickerplant", "up", "--log", "kafka://localhost:9092", "--port", "8011", "--data"]
            folder = self.folder / "on-kafka"
            copy_cluster(folder / "postgres")
            block = Block("plant on Kafka", 1, "sh", "")
            env = {**self.environment(self.home), "TICKERPLANT_SYMBOLS": "AAPL", "TICKERPLANT_HISTORY": "none"}
            self._kafka_plant = Terminal(block, [*command, str(folder)], env, self.folder)
            self._kafka_plant.wait_for("tickerplant is up")

    def close(self) -> None:
        """Stop everything."""
        for terminal in (self._plant, self._kafka_plant):
            if terminal is not None:
                terminal.stop()
        if self._broker is not None:
            self._broker.stop()

    def reader(self, name: str, own_home: bool) -> Reader:
        """Return a reader who starts in a new folder with links to the repository, the files of `data` and the wheel.

        `own_home`: the reader has a separate home folder, and does not use the plant that other pages share.
        """
        folder = self.folder / "pages" / name
        folder.mkdir(parents=True)
        for path in ROOT.iterdir():
            if path.name not in (".data", ".git", ".cache"):
                (folder / path.name).symlink_to(path)
        data.write_files(folder)
        for wheel in self.wheels.glob("tickerplant-*.whl"):
            (folder / wheel.name).symlink_to(wheel)
        env = self.environment(folder.with_name(f"{name}-home") if own_home else self.home)
        return Reader(folder, env, self.stop_plant)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("reader")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)  # the user of the embedded database must enter it
    made = Machine(folder, pytestconfig.getoption("wheels").resolve())
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[None]:
    """Run a PostgreSQL server on port 5432 with the user and the database of the pages."""
    copy_cluster(tmp_path / "postgres")
    with EmbeddedPostgres(tmp_path / "postgres", {"listen_addresses": "127.0.0.1", "port": "5432"}) as server:

        async def prepare() -> None:
            connection = await asyncpg.connect(server.dsn)
            await connection.execute("CREATE ROLE \"user\" LOGIN CREATEROLE PASSWORD 'password'")
            await connection.execute('CREATE DATABASE market OWNER "user"')
            await connection.close()

        asyncio.run(prepare())
        yield
