"""A plant whose data folder is on a small disk that becomes full twice: once while it runs, and once while it stops.

    python -m tests.chaos.full_disk FOLDER STORE

`FOLDER` contains `disk`, the mounted file system, and receives the plant's output. `STORE` is the address of a database
elsewhere, or `embedded`: a database on the same disk. `test_exhaustion.py` runs this module in a mount namespace.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.single_plant import SinglePlant, explained, settings
from tests.e2e.test_services import free_port
from tests.support.plant import Plant

FULL = "no space left for the event log"
REFILL_S = 0.02


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Keep the disk full for the block, also if a process frees some space."""
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
    """Fill the disk twice, and assert that nothing is lost or stored twice."""
    folder, store = Path(sys.argv[1]), sys.argv[2]
    disk = folder / "disk"
    plant = Plant(disk / "data", settings(store, free_port()))
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
    print("equal")


if __name__ == "__main__":
    main()
