"""The intake stops below the minimum of free space, and continues with a margin above it."""

from __future__ import annotations

from tickerplant.core.free_space import MIB, UNLIMITED, FreeSpace


def test_the_intake_continues_only_when_the_margin_is_free_too() -> None:
    free: list[int] = []
    space = FreeSpace(lambda: free[-1], 100 * MIB)
    found = []
    for mib in (101, 100, 99, 110, 124, 125, 110, 100, 99):
        free.append(mib * MIB)
        found.append(space.is_low())
    assert found == [False, False, True, True, True, False, False, False, True]
    assert space.reason == "disk: less than 100 MiB were free"


def test_a_minimum_of_0_never_stops_the_intake() -> None:
    assert not FreeSpace(lambda: 0, 0).is_low()
    assert not UNLIMITED.is_low()
