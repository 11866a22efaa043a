"""Tests that only `make chaos` and `make test-all` run; `make test` reports them as deselected."""

from __future__ import annotations

import os

import pytest

_THOROUGH = int(os.environ.get("CHAOS_KILLS", "0")) >= 25
_MINUTES = (
    "test_each_service_is_killed_at_each_named_point[kafka]",
    "test_processes_that_ask_during_a_long_outage_survive_it",
    "test_commands_that_start_without_a_broker_wait_for_it",
)
_FILES = (
    "test_backup_kills.py", "test_brokers.py", "test_database_backup.py", "test_exhaustion.py", "test_members.py",
    "test_move.py",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that take minutes, unless `make chaos` or `make test-all` runs them."""
    if not _THOROUGH:
        long = [item for item in items if item.name in _MINUTES or item.path.name in _FILES]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
