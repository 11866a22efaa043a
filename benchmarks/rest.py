"""Costs of a plant at rest: CPU, growth of log and database, memory, with the sandbox's live ticks at a low rate.

    python benchmarks/rest.py                       # 12 symbols with 50 ticks a second in all
    python benchmarks/rest.py --symbols 1           # one symbol
    python benchmarks/rest.py --symbols 1000 --rate 100

The plant is `tickerplant up` with its sandbox, as `make run` starts it, without history. CPU is a share of one core.
Growth of the database is the growth of its files. Growth of the log is the growth of its used pages, without free
pages. Memory is the sum of the proportional set sizes of all processes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.plant import cpu_of, descendants, environment, plant, report  # noqa: E402

DAY_S = 86_400


def kind(pid: int) -> str:
    """Return the component to which a process of the plant belongs."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    if "postgres" in command:
        return "postgres"
    return "sandbox" if "sandbox" in command.split("\0")[1:4] or "tickerplant.sandbox" in command else "plant"


def by_kind(root: int) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {"plant": [], "sandbox": [], "postgres": []}
    for pid in [root, *descendants(root)]:
        with suppress(OSError):
            found[kind(pid)].append(pid)
    return found


def memory_mb(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def size_of(folder: Path) -> int:
    """Return the allocated bytes of all files in a folder."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            if file.is_file() and not file.is_symlink():
                total += file.stat().st_blocks * 512
    return total


def log_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("market.log*") if file.is_file())


def records_and_bytes(folder: Path) -> tuple[int, int]:
    """Return the number of records that were appended to the log so far, and the bytes of the used pages."""
    import sqlite3

    with sqlite3.connect(f"file:{folder / 'market.log'}?mode=ro", uri=True) as connection:
        (count,) = connection.execute("SELECT sum(next_offset) FROM partitions").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(count), (pages - free) * size


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=12)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--warm", type=float, default=40)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--keep", type=Path, help="folder for the plant's data, which is kept")
    asked = parser.parse_args()
    symbols = ",".join(f"SYM{number:04}" for number in range(asked.symbols))
    env = {
        **environment("embedded:"),
        "TICKERPLANT_SYMBOLS": symbols,
        "TICKERPLANT_SANDBOX__RATE": str(asked.rate),
        "TICKERPLANT_HISTORY": "none",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = asked.keep or Path(name) / "data"
        with plant(folder, env, "--sandbox") as (process, _):
            time.sleep(asked.warm)
            pids = by_kind(process.pid)
            cpu = {part: cpu_of(found) for part, found in pids.items()}
            began, log_0, store_0 = time.monotonic(), records_and_bytes(folder), size_of(folder / "postgres")
            time.sleep(asked.seconds)
            seconds = time.monotonic() - began
            pids = by_kind(process.pid)
            used = {part: (cpu_of(found) - cpu[part]) / seconds for part, found in pids.items()}
            log_1, store_1 = records_and_bytes(folder), size_of(folder / "postgres")
            memory = {part: round(memory_mb(found)) for part, found in pids.items()}
    report(
        f"{asked.symbols} symbols, {asked.rate:g} ticks/s",
        {
            "cpu_percent": {part: round(100 * share, 1) for part, share in used.items()},
            "cpu_percent_in_all": 100 * sum(used.values()),
            "records_per_s": (log_1[0] - log_0[0]) / seconds,
            "log_gb_per_day": (log_1[1] - log_0[1]) / seconds * DAY_S / 1e9,
            "store_gb_per_day": (store_1 - store_0) / seconds * DAY_S / 1e9,
            "memory_mb": memory,
            "memory_mb_in_all": float(sum(memory.values())),
            "load": os.getloadavg()[0],
        },
    )


if __name__ == "__main__":
    main()
