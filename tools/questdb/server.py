"""One QuestDB server for benchmarks, on 127.0.0.1, with its data in one folder.

The server needs a JVM (17 or newer), and Maven to get the jar. The jar is cached until `pom.xml` changes. The hash of
the jar is pinned.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

HERE: Final = Path(__file__).resolve().parent
DEFAULT_CACHE: Final = HERE.parents[1] / ".cache" / "questdb"
SHA256: Final = "e2f03857ebfcebe4f152494cc8b162ca0ea7903dd5a5caa95789ac4869a607d0"
"""Hash of the jar that `pom.xml` names."""
MODULE: Final = "io.questdb/io.questdb.ServerMain"
START_S: Final = 60.0
STOP_S: Final = 30.0


class QuestDBError(Exception):
    """The server could not be installed or started; the text contains instructions or the end of its output."""


def get_jar(cache: Path | None = None) -> Path:
    """Return the path of the jar; copy it first if it is missing or `pom.xml` has changed. Raises QuestDBError."""
    cache = cache or Path(os.environ.get("TICKERPLANT_QUESTDB_CACHE") or DEFAULT_CACHE)
    wanted = hashlib.sha256((HERE / "pom.xml").read_bytes()).hexdigest()
    jars, stamp = cache / "jars", cache / "complete"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            shutil.rmtree(jars, ignore_errors=True)
            _copy(jars)
            check(_only(jars))
            stamp.write_text(wanted)
    return _only(jars)


def check(jar: Path) -> None:
    """Raise QuestDBError and remove the jar unless it has the pinned hash."""
    found = hashlib.sha256(jar.read_bytes()).hexdigest()
    if found != SHA256:
        jar.unlink()
        raise QuestDBError(f"{jar.name} has the SHA-256 {found} instead of {SHA256}; it is removed and not used")


def _copy(jars: Path) -> None:
    if not shutil.which("mvn"):
        raise QuestDBError("QuestDB's jar is missing; install Maven (mvn) to get it")
    command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise QuestDBError(f"Maven could not copy QuestDB's jar:\n{done.stdout}{done.stderr}")


def _only(jars: Path) -> Path:
    found = sorted(jars.glob("*.jar"))
    if len(found) != 1:
        raise QuestDBError(f"{jars} contains {len(found)} jars instead of 1; remove the folder and try again")
    return found[0]


class QuestDB:
    """A server that ends with the block. `ilp_port`, `http_port` and `pg_port` are free ports of 127.0.0.1.

    Telemetry, the web console's update check and the second HTTP server are off.
    """

    def __init__(self, folder: Path, heap_mb: int = 1_024) -> None:
        """Configure a server with its data in `folder`, without starting it."""
        self.folder = folder.resolve()
        self.ilp_port, self.http_port, self.pg_port = (_free_port() for _ in range(3))
        self._heap_mb = heap_mb
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the process id of the running server."""
        assert self._process is not None
        return self._process.pid

    @property
    def dsn(self) -> str:
        """Return the address for clients of PostgreSQL's protocol, with the built-in user."""
        return f"postgresql://admin:quest@127.0.0.1:{self.pg_port}/qdb"

    def settings(self) -> dict[str, str]:
        """Return the settings that differ from the defaults."""
        return {
            "http.net.bind.to": f"127.0.0.1:{self.http_port}",
            "pg.net.bind.to": f"127.0.0.1:{self.pg_port}",
            "line.tcp.net.bind.to": f"127.0.0.1:{self.ilp_port}",
            "http.min.enabled": "false",
            "telemetry.enabled": "false",
        }

    def __enter__(self) -> Self:
        """Start the server and wait until all ports accept connections. Raises QuestDBError."""
        jar = get_jar()
        (self.folder / "conf").mkdir(parents=True, exist_ok=True)
        lines = [f"{name}={value}\n" for name, value in self.settings().items()]
        (self.folder / "conf" / "server.conf").write_text("".join(lines))
        command = ["java", f"-Xmx{self._heap_mb}m", "-XX:+UseParallelGC", "-p", str(jar), "-m", MODULE]
        with (self.folder / "output.txt").open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "-d", str(self.folder)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()

    def stop(self) -> None:
        """Stop the server; kill it after `STOP_S`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        for port in (self.http_port, self.pg_port, self.ilp_port):
            while not _accepts(port):
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    tail = (self.folder / "output.txt").read_text(errors="replace")[-3_000:]
                    raise QuestDBError(f"QuestDB did not start:\n{tail}")
                time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False
