"""A plant whose data folder is on a small disk.

With `full`, the disk becomes full twice: once while the plant runs, and once while it stops. With `low`, another
program leaves less than the minimum of free space.

    python -m tests.chaos.full_disk FOLDER STORE full|low

`FOLDER` contains `disk`, the mounted file system, and receives the plant's output. `STORE` is the address of a database
elsewhere, or `embedded`: a database on the same disk. `test_exhaustion.py` runs this module in a mount namespace.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.single_plant import SinglePlant, explained, settings
from tests.e2e.support import rows
from tests.e2e.test_services import free_port
from tests.support.plant import Plant

FULL = "no space left for the event log"
REFILL_S = 0.02
LEAST_MB = 64


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Keep the disk full during the block, even if a process frees some space."""
    filler, first, stop = disk / "filler", threading.Event(), threading.Event()

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            while not stop.wait(REFILL_S if first.is_set() else 0):
                for size in (1 << 16, 1 << 12, 1):
                    with contextlib.suppress(OSError):
                        while file.write(bytes(size)):
                            pass
                first.set()

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        assert first.wait(60)
        yield
    finally:
        stop.set()
        thread.join()
        filler.unlink()


def main() -> None:
    """Run the scenario, and assert that nothing is lost or stored twice."""
    folder, store, scenario = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    disk = folder / "disk"
    least = LEAST_MB if scenario == "low" else 0  # the plant stops its intake long before the disk is full
    plant = Plant(disk / "data", settings(store, free_port()) | {"TICKERPLANT_MIN_FREE_MB": str(least)})
    if scenario == "low":
        low(folder, plant)
    else:
        full_twice(folder, plant)
    print("equal")


def low(folder: Path, plant: Plant) -> None:
    """Leave less than the minimum of free space until the feed is down, then free the space."""
    filler = folder / "disk" / "filler"
    with explained(SinglePlant(plant, folder / "up.log")) as running:
        running.grows("before")
        with filler.open("wb") as file:
            free = os.statvfs(filler)
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - (LEAST_MB * 3 // 4 << 20))
        running.wait("a failed disk in health", lambda: running.state("disk") == "failed")
        running.wait(
            "a feed that is down",
            lambda: any(
                name[:5] == "feed " and "disk: less" in one["sentence"] for name, one in running.health().items()
            ),
        )
        assert FULL not in running.output.read_text(), "the intake stopped before the disk was full"
        filler.unlink()
        running.wait("a disk with space", lambda: running.state("disk") != "failed")
        running.grows("after")
        with plant.store() as dsn:
            notes = rows(dsn, "SELECT DISTINCT verdict, note FROM answers WHERE note LIKE 'disk%'")
            assert notes, "coverage contains the reason"
        running.stop()
        running.assert_equal()


def full_twice(folder: Path, plant: Plant) -> None:
    """Fill the disk while the plant runs, and while it stops."""
    disk = folder / "disk"
    with explained(SinglePlant(plant, folder / "up.log")) as running:
        running.grows("before")
        with full(disk):
            running.wait("a failed disk in health", lambda: running.state("disk") == "failed")
            running.wait("the feed to hold its ticks", lambda: FULL in running.output.read_text())
            assert running.state("disk") == "failed"
        running.wait("a disk with space", lambda: running.state("disk") != "failed")
        running.grows("after")
        written = running.output.stat().st_size
        with full(disk):
            running.wait("the feed to hold its ticks", lambda: FULL in running.output.read_text()[written:])
            running.stop()
        running.start_again()
        running.grows("at the next start")
        running.stop()
        running.assert_equal()


if __name__ == "__main__":
    main()
