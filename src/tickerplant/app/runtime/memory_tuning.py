"""What makes a long-lived process small: set once, before its threads start. Nothing here changes what it does."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Final

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
ARENAS: Final = 2
LARGE_BYTES: Final = 256 * 1024
"""Blocks from here on come from the kernel and go back to it when freed: records of the log and whole columns."""


def lean() -> None:
    """Keep this process small."""
    _return_memory()
    _without_pandas()
    _one_allocator()


def _return_memory() -> None:
    """Have glibc give memory back. By default it keeps an arena for each thread, and what the largest batch of each of
    a dozen threads took stays with them: 150 MB that nobody uses.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(M_ARENA_MAX, ARENAS)
    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)  # fixed: glibc would raise it to 32 MB with the first large block freed
    mallopt(M_TRIM_THRESHOLD, 16 * LARGE_BYTES)


class _Absent:
    """Finds none of these packages."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = frozenset(packages)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Refuse the packages, and leave every other module to those who follow."""
        del path, target
        if name in self._packages:
            raise ModuleNotFoundError(f"{name} is not looked for here", name=name)


@contextlib.contextmanager
def without(*packages: str) -> Iterator[None]:
    """Let who is imported in the block believe that there are no such packages. Others may import them afterwards."""
    absent = _Absent(packages)
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)


def _without_pandas() -> None:
    """Let pyarrow believe that there is no pandas: it would import it, at a second and 50 MB, when the first list
    becomes an array, to see whether the list is one of pandas'. It looks once, so others may import it afterwards.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    with without("pandas"):
        pa.array([0])


def lean_talib() -> None:
    """Import TA-Lib without pandas and Polars, which it would import to take their series: 1.4 s and 90 MB."""
    if {"talib", "pandas", "polars"} & set(sys.modules):
        return
    with without("pandas", "polars"):
        importlib.import_module("talib")


def _one_allocator() -> None:
    """Have Arrow take its memory where all else does, under the bounds above: its own pool keeps what it has had.

    20 M ticks from a file: 312 MB in the first third and 350 in the last, with Arrow's pool 334 and 373.
    """
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())
