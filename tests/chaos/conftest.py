"""Tests for `make chaos` only; `make test` reports them as deselected."""

from __future__ import annotations

import os

import pytest

_THOROUGH = int(os.environ.get("CHAOS_KILLS", "0")) >= 25
_MINUTES = (
    "test_each_service_is_killed_at_each_named_point[kafka]",
    "test_processes_that_ask_during_a_long_outage_survive_it",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that take minutes."""
    if not _THOROUGH:
        config.hook.pytest_deselected(items=[item for item in items if item.name in _MINUTES])
        items[:] = [item for item in items if item.name not in _MINUTES]
