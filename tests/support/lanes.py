"""Which tests run on one worker of `pytest -n`, and in which order.

A file's tests stay on one worker, because they share its fixtures. These do not:

- Tests on Kafka are one group, so that one broker serves a whole run.
- Tests that wait more than they compute are groups of their own, and begin first: they overlap with each other and
  with the tests that compute.
- The files of `APART` have no fixtures to share and run longer than a worker's fair share.
"""

from __future__ import annotations

import re
from typing import Any, Final

from xdist.scheduler import LoadScopeScheduling

WAITING: Final = ("tests/chaos/", "tests/e2e/", "tests/app/", "tests/support/", "tests/conformance/")
"""Folders whose tests wait for processes. They begin first, in this order."""
APART: Final = (
    "tests/chaos/test_alerts.py", "tests/chaos/test_backfill.py", "tests/chaos/test_live.py", "tests/e2e/test_truth.py",
    "tests/aggregation/test_laws.py", "tests/aggregation/test_rebuild.py", "tests/market_data/backfill/test_manager.py",
)  # fmt: skip
_KAFKA: Final = re.compile("kafka|broker", re.IGNORECASE)


def group_of(nodeid: str) -> str:
    """Return the name of the group that runs on one worker, of a test's id."""
    file, _, test = nodeid.partition("::")
    if file.startswith(WAITING) and _KAFKA.search(test):
        return "kafka"
    return nodeid if file in APART else file


def rank_of(nodeid: str) -> int:
    """Return the place of a test's group in the order of beginning: smaller is sooner."""
    if group_of(nodeid) == "kafka":
        return 0
    return next((rank for rank, folder in enumerate(WAITING, 1) if nodeid.startswith(folder)), len(WAITING) + 1)


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Gives the next group to the worker that is free first."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def scheduler(config: Any, log: Any) -> Lanes:
    """Return the scheduler; groups keep the order of the collected tests."""
    config.option.loadscopereorder = False
    return Lanes(config, log)
