"""What is left to `make chaos`: `make test` names it as deselected."""

from __future__ import annotations

import os

import pytest

_THOROUGH = int(os.environ.get("CHAOS_KILLS", "0")) >= 25


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what takes minutes more: the marker `thorough`, and single services at every point on Kafka."""
    if _THOROUGH:
        return
    left = [item for item in items if _is_thorough(item)]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if not _is_thorough(item)]


def _is_thorough(item: pytest.Item) -> bool:
    by_name = item.name == "test_each_service_is_killed_at_each_named_point[kafka]"
    return by_name or item.get_closest_marker("thorough") is not None
