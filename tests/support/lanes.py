"""Assignment of tests to workers of `pytest -n`, and their order.

A file's tests stay on one worker, because they share its fixtures. These tests do not:

- Kafka tests in the folders `WAITING` are two groups, those of `tests/chaos` and the others: two brokers serve them.
- The files of `SEPARATE_FILES` share little and run longer than a worker's fair share: each test is a group.

Groups form one queue. Tests that wait for processes are in front, tests that compute are behind. Three of four workers
take from the front and one takes from the back, so that waiting and computing overlap until the queue is empty.
"""

from __future__ import annotations

import re
from typing import Any, Final

from xdist.scheduler import LoadScopeScheduling

ORDER: Final = (
    "tests/chaos/", "tests/conformance/", "tests/e2e/", "tests/app/", "tests/support/", "tests/store/", "tests/",
    "tests/analytics/", "tests/market_data/", "tests/protocols/", "tests/sandbox/", "tests/aggregation/",
)  # fmt: skip
"""Folders from the front of the queue to its back; `tests/` means all others."""
WAITING: Final = ORDER[:5]
SEPARATE_FILES: Final = (
    "tests/chaos/test_alerts.py", "tests/chaos/test_backfill.py", "tests/chaos/test_kills.py",
    "tests/chaos/test_live.py",
    "tests/aggregation/test_laws.py", "tests/aggregation/test_rebuild.py", "tests/market_data/backfill/test_manager.py",
)  # fmt: skip
COMPUTING: Final = 1
"""Index, among four workers, of the worker that takes from the back."""
_KAFKA: Final = re.compile("kafka|broker", re.IGNORECASE)


def group_of(nodeid: str) -> str:
    """Return the name of a test's group, which runs on one worker."""
    file, _, test = nodeid.partition("::")
    if file.startswith(WAITING) and _KAFKA.search(test):
        return "kafka chaos" if file.startswith("tests/chaos/") else "kafka"
    return nodeid if file in SEPARATE_FILES else file


def rank_of(nodeid: str) -> int:
    """Return the position of a test in the queue; smaller is nearer to the front."""
    if group_of(nodeid).startswith("kafka"):
        return -1
    return ORDER.index(max((folder for folder in ORDER if nodeid.startswith(folder)), key=len, default="tests/"))


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Scheduler that assigns the next group to the first free worker."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        if int(node.gateway.id.removeprefix("gw")) % 4 == COMPUTING:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


def scheduler(config: Any, log: Any) -> Lanes:
    """Return the scheduler; groups keep the order of the collected tests."""
    config.option.loadscopereorder = False
    return Lanes(config, log)
