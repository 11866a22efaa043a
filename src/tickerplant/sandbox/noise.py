"""Random functions that can be evaluated at any point: hashes, and Brownian paths by Lévy's construction.

A path is a sum over levels of tent functions with hashed heights. The tents of each level are half as wide as the tents
of the level before, and lower by a factor of √2. The path is a random walk between points at a level's distance. A
point costs one hash per level, independent of its distance to other points. Times are 30-bit integers, so that a path
has the same bits in every array.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tickerplant.core.times import Float64Array, Int64Array

UInt32Array = npt.NDArray[np.uint32]

ONE: Final = 1 << 30
"""Time at the end of a path. A path begins at time 0."""
_GOLDEN = np.uint32(0x9E3779B1)
_CHUNK: Final = 1_024
"""Points per batch. Its 14 levels have 57 KB and fit in a core's cache. 16 times larger batches are half as fast."""


def hash32(values: UInt32Array) -> UInt32Array:
    """Return a bijective hash of 32-bit numbers (`lowbias32` by Chris Wellons, public domain)."""
    values = values ^ (values >> np.uint32(16))
    values *= np.uint32(0x7FEB352D)
    values ^= values >> np.uint32(15)
    values *= np.uint32(0x846CA68B)
    values ^= values >> np.uint32(16)
    return values


def hashed(keys: UInt32Array, salt: int, numbers: npt.NDArray[np.integer] | int = 0) -> UInt32Array:
    """Return a 32-bit hash of each key and number. Each `salt` selects another function."""
    spread = np.asarray(numbers).astype(np.uint32) * _GOLDEN
    return hash32(hash32(keys ^ np.uint32(salt * 0x85EBCA6B & 0xFFFFFFFF)) ^ spread)


def unit(values: UInt32Array) -> Float64Array:
    """Convert hashes to numbers in (0, 1)."""
    return (values.astype(np.float64) + 0.5) / 2.0**32


class Paths:
    """Brownian bridges from 0 to 0, one per key, with variance `at (ONE - at) / ONE²` at a point.

    `weights` multiplies the height of each level's tents, coarsest first. Its length is the number of levels.
    """

    def __init__(self, weights: tuple[float, ...]) -> None:
        levels = np.arange(len(weights))
        self._down = (30 - levels).astype(np.uint32)[:, None]
        self._up = (levels + 2).astype(np.uint32)[:, None]
        # Heights are uniform in ±√3 (variance 1). Sums of a few heights are nearly normal and need no logarithm.
        amplitudes = np.sqrt(3.0) * 2.0 ** (-levels / 2 - 1) * np.asarray(weights)
        self._amplitudes = (amplitudes * 2.0**-31 * 2.0**-30).astype(np.float32)

    def at(self, keys: UInt32Array, points: Int64Array) -> Float64Array:
        """Return each key's path at each point of [0, ONE]."""
        result = np.empty(len(points))
        for begin in range(0, len(points), _CHUNK):
            end = min(begin + _CHUNK, len(points))
            result[begin:end] = self._some(keys[begin:end], points[begin:end])
        return result

    def _some(self, keys: UInt32Array, points: Int64Array) -> npt.NDArray[np.float32]:
        position = (points + ONE).astype(np.uint32)
        # The tent's number in heap order: level 0 has tent 1, level 1 has 2 and 3. The bits shifted out are the
        # position in the tent.
        heights = position >> self._down
        heights *= _GOLDEN
        heights ^= keys
        heights = hash32(heights)
        within = position << self._up
        tents = np.minimum(within, np.uint32(0) - within) >> np.uint32(1)
        terms = heights.view(np.int32).astype(np.float32)
        terms *= tents.view(np.int32).astype(np.float32)
        total = np.zeros(len(points), np.float32)
        # The sum is computed level by level: the order of NumPy's own sum depends on the array's shape.
        for level, amplitude in enumerate(self._amplitudes):
            total += terms[level] * amplitude
        return total
