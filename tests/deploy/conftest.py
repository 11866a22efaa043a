"""Selection of the tests that only `make test-all` runs; `make test` reports them as deselected."""

from __future__ import annotations

import os

import pytest

_THOROUGH = "CHAOS_KILLS" in os.environ  # `make test-all` sets it
_FILES = ("test_security_page.py", "test_portable_plant.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that take minutes, unless `make test-all` runs them."""
    if not _THOROUGH:
        long = [item for item in items if item.path.name in _FILES]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
