"""Settings of the allocators and of imports that keep a long-running process small. They change no behaviour.

Call `reduce_memory` once, before the process starts threads.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType

from tickerplant import machine


def reduce_memory(*, with_arrow: bool = True) -> None:
    """Reduce the memory of this process. If `with_arrow` is false, Arrow is not loaded."""
    machine.return_freed_memory()
    if with_arrow:
        _without_pandas()
        _share_allocator()


class _ImportBlocker:
    """A meta path finder that prevents the import of some packages."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = frozenset(packages)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Raise ModuleNotFoundError for a blocked package; leave every other module to the next finder."""
        del path, target
        if name in self._packages:
            raise ModuleNotFoundError(f"{name} is blocked here", name=name)


@contextlib.contextmanager
def without(*packages: str) -> Iterator[None]:
    """Make imports of these packages fail inside the block, so that libraries treat them as not installed."""
    blocker = _ImportBlocker(packages)
    sys.meta_path.insert(0, blocker)
    try:
        yield
    finally:
        sys.meta_path.remove(blocker)


def _without_pandas() -> None:
    """Prevent pyarrow from importing pandas, which costs a second and 50 MB.

    pyarrow tries the import once, when the first list becomes an array, to check for pandas objects. Other modules can
    import pandas afterwards.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    with without("pandas"):
        pa.array([0])


def import_talib() -> None:
    """Import TA-Lib without pandas and Polars.

    TA-Lib imports both to accept their series, which costs 1.4 s and 90 MB.
    """
    if {"talib", "pandas", "polars"} & set(sys.modules):
        return
    with without("pandas", "polars"):
        importlib.import_module("talib")


def import_structlog() -> None:
    """Import structlog without rich. structlog imports rich for tracebacks that the plant does not print, in 0.05 s."""
    if {"structlog", "rich"} & set(sys.modules):
        return
    with without("rich"):
        importlib.import_module("structlog")


def _share_allocator() -> None:
    """Configure Arrow to use the system allocator, because Arrow's own pool keeps freed memory.

    A process that replays 20 M ticks uses 312 MB in the first third and 350 MB in the last third. With Arrow's pool it
    uses 334 MB and 373 MB.
    """
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())
