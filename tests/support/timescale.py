"""A real TimescaleDB for a test, empty and in memory; `tools/timescale/serve.mjs` lists its limits."""

from __future__ import annotations

import re
import select
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.waiting import PATIENCE

SERVER = Path(__file__).resolve().parents[2] / "tools" / "timescale" / "serve.mjs"


class TimescaleError(Exception):
    """The database could not start; the text contains the missing part or its output."""


class TimescaleServer:
    """One database, empty at each start, that ends with this process. It serves one session at a time.

    Connect with `asyncpg.connect(server.dsn, **server.connect_args)`; a pool must have only one connection.
    """

    # Named prepared statements have no benefit with one backend, and outlive a cancelled session.
    connect_args: dict[str, Any] = {"ssl": False, "statement_cache_size": 0}  # noqa: RUF012

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def dsn(self) -> str:
        """Return the server's address, which is valid while the server runs."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres?sslmode=disable"

    def start(self, timeout_s: float = 60.0) -> str:
        """Start the server, wait until it answers, and return `dsn`. Blocks about 3 s.

        `timeout_s` holds for an idle machine; it is longer on a busy machine. Raises TimescaleError.
        """
        node = shutil.which("node")
        if node is None or not (SERVER.parent / "node_modules").is_dir():
            raise TimescaleError(f"TimescaleDB for tests needs node, and `npm ci` in {SERVER.parent}")
        # The server runs until its standard input ends, so it ends with this process.
        self._process = process = subprocess.Popen(
            [node, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None
        answered, _, _ = select.select([process.stdout], [], [], PATIENCE.seconds(timeout_s))
        line = process.stdout.readline().decode() if answered else ""
        ready = re.fullmatch(r"ready (\d+)\n", line)
        if ready is None:
            self.stop()
            raise TimescaleError(f"TimescaleDB did not start, or not in time; its output was {line!r}")
        self._port = int(ready[1])
        return self.dsn

    def stop(self) -> None:
        """Stop the server and discard its data."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
