"""Processes of the command line that fork from one process with all modules imported.

Half of a start is imports: 0.35 s of CPU time, and the tests of kills start 200 processes. A forked process has its own
session, environment, arguments and files, and runs `main` like a new one. `make test-all` starts new processes.
`run_command` of the end-to-end tests always starts a new process.

    process = fork(["run", "api"], env, stdout=file, stderr=file)
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

MODULES: Final = (
    "app.cli", "app.config.settings", "app.runtime.fault_injection", "app.runtime.logging", "app.runtime.plant",
    "app.wiring.sandbox", "app.wiring.vendors", "app.wiring.database", "aggregation.service", "analytics.service",
    "persistence.service", "market_data.service", "api.service", "log.embedded.log", "log.kafka.log",
    "store.migrations",
)  # fmt: skip
MAX_REQUEST_BYTES: Final = 1 << 17
THOROUGH: Final = int(os.environ.get("CHAOS_KILLS", "0")) >= 25


class ForkedProcess(subprocess.Popen[bytes]):
    """A process whose parent is the server. The server writes its exit status into a pipe."""

    def __init__(self, arguments: Sequence[str], pid: int, status: int) -> None:
        self.args, self.pid, self.returncode = list(arguments), pid, None
        self.stdin = self.stdout = self.stderr = None
        self._status = status

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None if the process runs."""
        return self._read(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code. Raises TimeoutExpired."""
        if (code := self._read(timeout)) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def _read(self, timeout_s: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout_s)[0]:
            text = os.read(self._status, 16)
            os.close(self._status)
            self.returncode = int(text or b"-9")
        return self.returncode

    def __del__(self) -> None:
        """Close the pipe."""
        if self.returncode is None:
            with suppress(OSError):
                os.close(self._status)


def can_fork(env: Mapping[str, str]) -> bool:
    """Return True if a fork has the same effect as a new process: the interpreter's own variables are equal."""
    return not THOROUGH and all(
        env.get(name) == os.environ.get(name) for name in {*env, *os.environ} if name.startswith("PYTHON")
    )


def fork(arguments: Sequence[str], env: Mapping[str, str], *, stdout: IO[Any], stderr: IO[Any]) -> ForkedProcess:
    """Start the command line with these arguments in a forked process, in a new session and without input."""
    server = _server()
    status, their_status = os.pipe()
    request = json.dumps({"arguments": list(arguments), "env": dict(env), "cwd": str(Path.cwd())}).encode()
    assert len(request) < MAX_REQUEST_BYTES
    with open(os.devnull, "rb") as stdin:
        handles = [stdin.fileno(), stdout.fileno(), stderr.fileno(), their_status]
        socket.send_fds(server, [request], handles)
    os.close(their_status)
    return ForkedProcess(arguments, int(server.recv(16)), status)


@cache
def _server() -> socket.socket:
    """Start this process's server, which ends when the connection closes."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forkserver", str(theirs.fileno())],
        cwd=Path(__file__).parents[2], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    theirs.close()

    @atexit.register
    def end() -> None:
        ours.close()
        server.wait()

    return ours


def _serve(requests: socket.socket) -> bool:
    """Fork a process per request until the connection closes; return True in a forked process, False at the end."""
    statuses: dict[int, int] = {}
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready = select.select([requests, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            _report(statuses)
        if requests in ready:
            request, handles, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 4)
            if not request:
                return False
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for handle in (requests.detach(), woken, wake, *statuses.values(), handles.pop()):
                    os.close(handle)
                _become(json.loads(request), handles)
                return True
            statuses[pid] = handles.pop()
            for handle in handles:
                os.close(handle)
            requests.send(str(pid).encode())


def _report(statuses: dict[int, int]) -> None:
    """Write the exit codes of the processes that have ended."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            handle = statuses.pop(ended[0])
            with suppress(BrokenPipeError):  # the process that would wait has closed the pipe
                os.write(handle, str(os.waitstatus_to_exitcode(ended[1])).encode())
            os.close(handle)


def _become(request: Mapping[str, Any], handles: Sequence[int]) -> None:
    """Set the session, files, arguments and environment of this process to those of the request."""
    os.setsid()
    for number, handle in enumerate(handles):
        os.dup2(handle, number)
    for handle in handles:
        if handle > 2:
            os.close(handle)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    program = importlib.import_module("tickerplant.app").__file__
    sys.modules["__main__"].__package__ = "tickerplant.app"  # the name of the program in messages
    sys.argv = [str(Path(str(program)).with_name("__main__.py")), *request["arguments"]]


def _main() -> None:
    from tickerplant.app.wiring.memory_tuning import import_structlog, reduce_memory

    import_structlog()
    reduce_memory()
    for name in MODULES:
        importlib.import_module(f"tickerplant.{name}")
    # NumPy and Arrow have idle threads, which they handle at a fork; Python 3.12 warns of every thread.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    gc.collect()
    gc.freeze()
    if _serve(socket.socket(fileno=int(sys.argv[1]))):
        from tickerplant.app.cli import main

        main()


if __name__ == "__main__":
    _main()
