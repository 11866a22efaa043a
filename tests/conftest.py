"""Fixtures of servers, and rules for every test: skips, timeouts, order, and the report of the slowest files."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

from tests.support import lanes, properties  # noqa: F401
from tests.support.waiting import PATIENCE

pytest_plugins = ["tests.support.kafka", "tests.support.postgres"]

settings.load_profile("ci")  # the option `--hypothesis-profile` overrides it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        default=bool(os.environ.get("CI")),
        help="report a skipped test as failed (the default if CI is set)",
    )
    parser.addoption("--slowest-files", type=int, default=0, metavar="N", help="print the N slowest files")


def _forbid_skip(report: Any, config: pytest.Config) -> Any:
    if config.getoption("--no-skips") and report.skipped and not hasattr(report, "wasxfail"):
        where = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, and --no-skips or CI forbids it: {where}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    return _forbid_skip((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    return _forbid_skip((yield), collector.config)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Multiply the test's timeout by the slowness of the machine."""
    marker = item.get_closest_marker("timeout")
    idle_s = marker.args[0] if marker is not None else float(item.config.getini("timeout"))
    item.add_marker(pytest.mark.timeout(PATIENCE.seconds(idle_s)), append=False)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Collect the tests without garbage collection. Later garbage collections do not scan the 460,000 objects."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests so that tests that wait run first, if there are several workers."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: lanes.rank_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> lanes.Lanes:
    """Return the scheduler that distributes tests to workers by their groups."""
    return lanes.scheduler(config, log)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the files whose tests took the longest, with set-up and tear-down, if `--slowest-files` is set."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            seconds[getattr(report, "nodeid", "").partition("::")[0]] += getattr(report, "duration", 0.0)
    if count := config.getoption("--slowest-files"):
        terminalreporter.section(f"slowest {count} files")
        for file, took_s in seconds.most_common(count):
            terminalreporter.write_line(f"{took_s:7.1f} s  {file}")
