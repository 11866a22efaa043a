"""Tests that only `make test-all` runs; `make test` reports them as deselected."""

from __future__ import annotations

import os

import pytest

_THOROUGH = int(os.environ.get("CHAOS_KILLS", "0")) >= 25
_FILES = ("test_security_page.py", "test_portable_plant.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that take minutes, unless `make test-all` runs them."""
    if not _THOROUGH:
        long = [item for item in items if item.path.name in _FILES]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
