"""The threads of the services run on one core, and move to another one together."""

import os
import sys
import threading

import pytest
from tests.support.waiting import PATIENCE

from tickerplant.app.runtime.cpu_affinity import CoreAffinity

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are placed on a core only on Linux")


def test_registered_threads_share_one_core_and_move_together() -> None:
    all_cores = os.sched_getaffinity(0)
    affinity = CoreAffinity()
    affinity.start()
    seen: list[set[int]] = []
    joined, moved, recorded = threading.Barrier(3), threading.Event(), threading.Barrier(3)

    def work() -> None:
        affinity.join()
        joined.wait(PATIENCE.seconds(10))
        moved.wait(PATIENCE.seconds(10))
        seen.append(os.sched_getaffinity(0))
        recorded.wait(PATIENCE.seconds(10))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    joined.wait(PATIENCE.seconds(10))
    other = max(all_cores)
    if len(all_cores) > 1:
        affinity._move(other)
    moved.set()
    recorded.wait(PATIENCE.seconds(10))
    affinity.stop()
    affinity.stop()
    assert seen == [{other} if len(all_cores) > 1 else all_cores] * 2
    assert os.sched_getaffinity(0) == all_cores, "the thread that started the affinity keeps all cores"


def test_threads_leave_a_core_that_other_processes_use() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        return
    affinity = CoreAffinity()
    affinity.start()
    first = affinity._core
    affinity.stop()

    class BusyOwnCore:
        def measure(self, own_core: int) -> dict[int, float]:
            return {core: 0.9 if core == own_core else 0.0 for core in affinity._cores}

    affinity._stop.clear()
    monitor = threading.Thread(target=affinity._monitor, args=(BusyOwnCore(),), daemon=True)
    monitor.start()
    for _ in range(100):
        if affinity._core != first:
            break
        threading.Event().wait(0.1)
    affinity._stop.set()
    monitor.join()
    assert affinity._core != first
