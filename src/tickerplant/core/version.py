"""Versions: they identify the raw record that caused an output.

A version is one int64, `generation << 40 | offset`: the generation of the log and the offset of the raw record whose
step produced the output. Versions of one partition only increase. The newest version is therefore the largest number,
in NumPy, SQL and JavaScript alike. Versions up to generation 8,191 are below 2^53.
"""

from __future__ import annotations

OFFSET_BITS = 40
MAX_OFFSET = (1 << OFFSET_BITS) - 1  # 1.1e12 records in a partition: at 1,000 records a second, 35 years
MAX_GENERATION = (1 << 13) - 1


def make_version(generation: int, offset: int) -> int:
    """Return the version of the raw record at `offset` in log generation `generation`.

    Raises ValueError if either is out of range.
    """
    if not 0 <= offset <= MAX_OFFSET:
        raise ValueError(f"offset {offset} is outside 0..{MAX_OFFSET}")
    if not 0 <= generation <= MAX_GENERATION:
        raise ValueError(f"log generation {generation} is outside 0..{MAX_GENERATION}")
    return generation << OFFSET_BITS | offset


def split_version(version: int) -> tuple[int, int]:
    """Return (log generation, raw offset) of a version."""
    return version >> OFFSET_BITS, version & MAX_OFFSET
