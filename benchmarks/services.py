"""Costs of a tick by service, in CPU time and disk, with one process per service on Kafka.

    python -m benchmarks.services                                # 2 M ticks of 1,000 symbols, 167 per symbol and minute
    python -m benchmarks.services --ticks 300000 --density 42

The feed is `tickerplant replay` at full speed, in place of market_data. A smaller file of another day runs first, while
the broker's virtual machine compiles. A service of one process can use one core. `one core` is therefore the maximum
rate of the service's only process. More members share the partitions. Disk is the growth of the broker's folder and of
the database's folder, with files that are allocated in advance.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from benchmarks.plant import cpu_of, descendants, make_ticks, report
from benchmarks.support.processes import Processes, environment
from benchmarks.support.standstill import wait_until
from tools.kafka.broker import KafkaBroker, free_port

SERVICES = ("persistence", "aggregation", "analytics", "api")
PATIENCE_S = 90.0


def postgres_of(pids: list[int]) -> list[int]:
    """Return the processes of PostgreSQL below these processes."""
    found = []
    for pid in {below for root in pids for below in descendants(root)}:
        with suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().startswith("postgres"):
                found.append(pid)
    return found


def used(plant: Processes, broker: KafkaBroker) -> dict[str, float]:
    """Return the CPU seconds of each service, of PostgreSQL and of the broker since their start."""
    pids = {name: process.pid for name, process in plant.running.items()}
    found = {name: cpu_of([pid]) for name, pid in pids.items()}
    return {**found, "postgres": cpu_of(postgres_of(list(pids.values()))), "broker": cpu_of([broker.pid or 0])}


def allocated(folder: Path) -> int:
    """Return the allocated bytes of all files in a folder."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_blocks * 512 if path.is_file() else 0
    return total


def replay(plant: Processes, file: Path) -> float:
    """Replay a file until it is in the tables; return the seconds."""
    done = plant.run("replay", str(file), "--json")
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def measure(plant: Processes, broker: KafkaBroker, warm: Path, file: Path, ticks: int) -> None:
    """Run the services and both files; print the costs of the second file."""
    for service in SERVICES:
        plant.begin(service, "run", service, api__port=str(free_port()))
    ups = [lambda name=service: f"{name} is up" in plant.output(name).read_text() for service in SERVICES]
    wait_until(lambda: plant.ended() or all(up() for up in ups), "not all services are up", PATIENCE_S)
    if plant.ended():
        raise SystemExit(f"ended by themselves: {', '.join(plant.ended())}; see {plant.data}")
    replay(plant, warm)
    folders = {"broker": broker.data_dir / "topics", "postgres": plant.data / "postgres"}
    cpu, disk = used(plant, broker), {name: allocated(folder) for name, folder in folders.items()}
    seconds = replay(plant, file)
    costs = {name: 1e6 * (after - cpu.get(name, 0.0)) / ticks for name, after in used(plant, broker).items()}
    title = "one process per service"
    report(
        title,
        {
            "ticks": ticks,
            "ticks_per_s": ticks / seconds,
            "cpu_us_per_tick": {name: round(cost, 3) for name, cost in costs.items()},
            "one core, ticks/s": {name: round(1e6 / cost) for name, cost in costs.items() if cost > 0},
            "bytes a tick": {
                name: round((allocated(folder) - disk[name]) / ticks, 1) for name, folder in folders.items()
            },
            "load": os.getloadavg()[0],
        },
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=2_000_000)
    parser.add_argument("--symbols", type=int, default=1_000)
    parser.add_argument("--density", type=float, default=167, help="ticks per symbol and minute")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds the stack, which stops the plant
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        KafkaBroker(Path(name) / "kafka") as broker,
    ):
        folder, minutes = Path(name), asked.ticks / asked.symbols / asked.density
        warm, file = folder / "warm.parquet", folder / "ticks.parquet"
        make_ticks(warm, max(asked.ticks // 5, 1), asked.symbols, minutes=minutes / 5, day="2024-03-01")
        make_ticks(file, asked.ticks, asked.symbols, minutes=minutes)
        (folder / "data").mkdir()
        plant = Processes(environment(f"kafka://{broker.bootstrap}", history="none"), folder / "data")
        try:
            measure(plant, broker, warm, file, asked.ticks)
        finally:
            plant.stop()


if __name__ == "__main__":
    main()
