"""One Apache Kafka broker for tests, benchmarks and demos: a KRaft node on 127.0.0.1 with its data in one folder.

The module uses only the standard library, so that it works before the environment is installed. It needs a JVM (17 or
newer), and Maven to get the jars. The jars are cached until `pom.xml` changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).resolve().parent
DEFAULT_CACHE = HERE.parents[1] / ".cache" / "kafka"
ARCHIVE = "classes-"
"""Beginning of the names of class archives."""

# These ports are below Linux's ephemeral range (32768 and up). No outgoing connection of a test can take a broker's
# port between a kill and the restart.
PORTS = range(20_000, 32_000)

SETTINGS = {
    "inter.broker.listener.name": "PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "num.partitions": "1",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "5",  # 50 by default; each is a folder and up to five file handles at start
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "5",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",  # 6 s by default; tests that kill a member wait for the end of its session
    # A killed broker can restart only after its previous session has ended: 9 s by default.
    "broker.session.timeout.ms": "1500",
    "broker.heartbeat.interval.ms": "300",
    "auto.create.topics.enable": "false",  # a misspelt topic is an error, not a new topic
    "log.cleaner.dedupe.buffer.size": "16777216",  # 128 MB by default, a quarter of the heap
    "num.network.threads": "2",
    "num.io.threads": "4",
}

LOG4J = """\
Configuration:
  status: warn
  Appenders:
    File:
      name: file
      fileName: {path}
      PatternLayout:
        pattern: "%d{{ISO8601}} %p %c: %m%n"
  Loggers:
    Root:
      level: info
      AppenderRef:
        ref: file
"""


class KafkaError(Exception):
    """The broker could not be installed, started or reached; the text contains instructions or the path of its log."""


def get_jars(cache: Path | None = None) -> Path:
    """Return the folder of the broker's jars; copy them first if they are missing or `pom.xml` has changed.

    The first call blocks for some seconds. Several processes may call it at once: one process copies, the others wait.
    Raises KafkaError.
    """
    cache = cache or Path(os.environ.get("TICKERPLANT_KAFKA_CACHE") or DEFAULT_CACHE)
    wanted = hashlib.sha256((HERE / "pom.xml").read_bytes()).hexdigest()
    jars, stamp = cache / "jars", cache / "complete"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return jars
        if not shutil.which("mvn"):
            raise KafkaError("Kafka's jars are missing; install Maven (mvn) to get them")
        for old in (stamp, *cache.glob(f"{ARCHIVE}*")):
            old.unlink(missing_ok=True)
        shutil.rmtree(jars, ignore_errors=True)
        command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
        command += ["-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise KafkaError(f"Maven could not copy Kafka's jars:\n{done.stdout}{done.stderr}")
        stamp.write_text(wanted)
    return jars


def get_archive(jars: Path) -> Path:
    """Return the path of the archive of the broker's classes; the file exists after `create_archive`.

    A JVM maps the archive instead of loading and checking 8,000 classes: a start takes 3 s of CPU time, not 5 s. The
    JVM ignores an archive of other jars.
    """
    java = os.stat(shutil.which("java") or HERE)
    return jars.parent / f"{ARCHIVE}{java.st_ino}-{java.st_mtime_ns}.jsa"


def create_archive() -> Path:
    """Create the archive of the broker's classes if it is missing, with a broker that starts and stops."""
    jars = get_jars()
    archive = get_archive(jars)
    with (jars.parent / "archive.lock").open("w") as lock, tempfile.TemporaryDirectory() as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if archive.exists():
            return archive
        for old in jars.parent.glob(f"{ARCHIVE}*"):
            old.unlink()
        draft = archive.with_suffix(".draft")
        options = ("-XX:TieredStopAtLevel=1", f"-XX:ArchiveClassesAtExit={draft}")
        broker = KafkaBroker(Path(folder) / "data", java_options=options)
        broker.start()
        broker.stop()
        if draft.exists():  # a JVM without this feature does not write it
            draft.rename(archive)
    return archive


class KafkaBroker:
    """A broker with topics, ports and identity in `data_dir`: a restart after a kill restores all of them.

    Unless `detached`, the broker ends with this process, even if this process is killed. The broker's log is
    `data_dir/broker.log`. Only one process may use `data_dir` at a time.
    """

    def __init__(
        self,
        data_dir: Path | str,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        heap_mb: int = 512,
        detached: bool = False,
        java_options: Sequence[str] = (),
        listeners: Mapping[str, str] | None = None,
        joins: KafkaBroker | None = None,
        node: int = 1,
    ) -> None:
        """Configure a broker without starting it. `port` 0 chooses a free port; `settings` override the defaults.

        `listeners` are additional listeners for clients: the security protocol by name. `joins` is the first broker of
        the cluster that this broker joins, and its controller. `node` must then differ from the number of `joins`.
        """
        self.data_dir = Path(data_dir).resolve()
        self._wanted_port = port
        self._settings = dict(settings or {})
        self._heap_mb = heap_mb
        self._detached = detached
        self._java_options = java_options
        self._listeners = dict(listeners or {})
        self._joins, self._node = joins, node
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """Return the port. The first call chooses and stores it; only another `port` of the constructor changes it."""
        return int(self._identity()["port"])

    @property
    def bootstrap(self) -> str:
        """Return the value for a client's `bootstrap.servers`."""
        return f"127.0.0.1:{self.port}"

    def address(self, listener: str) -> str:
        """Return the value for `bootstrap.servers` of a client that uses an additional listener."""
        return f"127.0.0.1:{self._identity()[listener]}"

    @property
    def pid(self) -> int | None:
        """Return the JVM's pid, even if another process started the JVM; None if no JVM is running."""
        try:
            pid = int((self.data_dir / "pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self._properties_path) in command else None

    def start(self, timeout_s: float = 60.0) -> str:
        """Start the broker if it is not running, wait until it answers, and return `bootstrap`. Blocks about 4 s.

        1. Get the jars. 2. Choose ports and store them in `data_dir`. 3. Format the folder if it is new. 4. Start the
        JVM and write its pid. 5. Start the watchdog that kills the JVM when this process ends. 6. Wait for an answer.
        """
        if self.pid is not None:
            return self.bootstrap
        jars = get_jars()  # Step 1
        self.data_dir.mkdir(parents=True, exist_ok=True)
        identity = self._identity()  # Step 2
        self._write_settings(identity)
        java = ["java", f"-Xmx{self._heap_mb}m", "-Xms128m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
        java += [f"-Dlog4j2.configurationFile={self.data_dir / 'log4j2.yaml'}", "-Djava.awt.headless=true"]
        if (archive := get_archive(jars)).exists():
            java += [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto", "-Xlog:disable", "-Xlog:all=error:stderr"]
        java += [*self._java_options, "-cp", f"{jars}/*"]
        properties = str(self._properties_path)
        with (self.data_dir / "console.log").open("ab") as console:
            if not (self.data_dir / "topics" / "meta.properties").exists():  # Step 3
                format_ = ["kafka.tools.StorageTool", "format", "-t", str(identity["cluster"]), "-c", properties]
                if subprocess.run(java + format_, stdout=console, stderr=console, check=False).returncode:
                    raise KafkaError(f"Kafka could not format its folder: {self._log_tail()}")
            self._process = subprocess.Popen(  # Step 4
                [*java, "kafka.Kafka", properties],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        (self.data_dir / "pid").write_text(str(self._process.pid))
        if not self._detached:  # Step 5
            self._watch(self._process.pid)
        try:
            self._wait_for_answer(timeout_s)  # Step 6
        except BaseException:
            self.kill()
            raise
        return self.bootstrap

    def stop(self, timeout_s: float = 30.0) -> None:
        """Shut the broker down and wait; kill it after `timeout_s`. Does nothing if the broker is not running."""
        self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> None:
        """Send SIGKILL, like a crash, and wait until the process has ended. The data remain."""
        self._end(signal.SIGKILL, 10.0)

    def restart(self) -> str:
        """Restart the broker with the same data and port; return `bootstrap`."""
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        """Start the broker."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the broker."""
        self.stop()

    @property
    def _properties_path(self) -> Path:
        return self.data_dir / "server.properties"

    def _identity(self) -> dict[str, str | int]:
        """Return the ports and the cluster's id. The first call chooses them and stores them in the folder."""
        path = self.data_dir / "identity.json"
        if path.exists():
            kept: dict[str, str | int] = json.loads(path.read_text())
            if self._wanted_port in (0, kept["port"]):
                return kept
        else:
            first = self._joins._identity() if self._joins is not None else None
            kept = {"cluster": _cluster_id(), "controller": free_port()}
            kept |= {key: first[key] for key in kept} if first is not None else {}
        kept["port"] = self._wanted_port or free_port()
        kept |= {name: free_port() for name in self._listeners}
        self.data_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept))
        return kept

    def _write_settings(self, identity: Mapping[str, str | int]) -> None:
        clients = [f"PLAINTEXT://127.0.0.1:{identity['port']}"]
        clients += [f"{name}://127.0.0.1:{identity[name]}" for name in self._listeners]
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"} | self._listeners
        controller = [] if self._joins is not None else [f"CONTROLLER://127.0.0.1:{identity['controller']}"]
        own = {
            "process.roles": "broker,controller" if controller else "broker",
            "node.id": str(self._node),
            "listeners": ",".join([*clients, *controller]),
            "advertised.listeners": ",".join(clients),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
            "controller.quorum.voters": f"1@127.0.0.1:{identity['controller']}",
            "log.dirs": str(self.data_dir / "topics"),
        }
        lines = [f"{key}={value}\n" for key, value in (SETTINGS | own | self._settings).items()]
        self._properties_path.write_text("".join(lines))
        (self.data_dir / "log4j2.yaml").write_text(LOG4J.format(path=self.data_dir / "broker.log"))

    def _watch(self, pid: int) -> None:
        """Kill the broker when this process ends.

        A shell waits for the end of a pipe; only this process has the other end. PR_SET_PDEATHSIG would be shorter,
        but it fires when the starting *thread* ends, and test fixtures start brokers from worker threads.
        """
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", f"read _; kill -9 {pid} 2>/dev/null"], stdin=subprocess.PIPE, start_new_session=True
        )

    def _wait_for_answer(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not answers(self.port):
            if self._process is not None and self._process.poll() is not None:
                raise KafkaError(f"Kafka ended while it was starting: {self._log_tail()}")
            if time.monotonic() > deadline:
                raise KafkaError(f"Kafka did not answer within {timeout_s:g} s: {self._log_tail()}")
            time.sleep(0.05)

    def _end(self, how: signal.Signals, timeout_s: float) -> None:
        pid = self.pid
        if pid is not None:
            os.kill(pid, how)
            deadline = time.monotonic() + timeout_s
            while self.pid is not None:
                if self._process is not None:
                    self._process.poll()  # reap the process: a zombie keeps its pid
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.02)
        if self._watchdog is not None:  # not earlier: until this line the end of this process must kill the broker
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None
        if self._process is not None:
            self._process.wait()
            self._process = None
        (self.data_dir / "pid").unlink(missing_ok=True)

    def _log_tail(self) -> str:
        lines = [f"see {self.data_dir}"]
        for name in ("console.log", "broker.log"):
            with contextlib.suppress(OSError):
                lines += (self.data_dir / name).read_text(errors="replace").splitlines()[-15:]
        return "\n".join(lines)


def _cluster_id() -> str:
    """Return a new id in Kafka's format. Its tools would parse an id that begins with `-` as an option."""
    while (text := urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def free_port() -> int:
    """Return a free port of `PORTS`, without a reservation. Raises KafkaError if none of 100 is free."""
    for port in random.sample(PORTS, k=100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise KafkaError("no free port found")


def answers(port: int) -> bool:
    """Send an ApiVersions request; return True if the broker answers. A broker opens its port before it can answer."""
    request = struct.pack(">hhih", 18, 0, 1, -1)  # key, version, correlation id, no client id
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            return len(connection.recv(4)) == 4
    except OSError:
        return False
