"""Free disk space for new data, with a margin between the stop and the restart of the intake. Pure.

The plant stops its intake before the disk is full. The database needs the remaining space to store
the records that the log already contains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tickerplant.core.reasons import DISK

RESUME_FACTOR: Final = 1.25
"""Free bytes at which the intake continues, as a multiple of the minimum. The intake would otherwise stop and continue
with each file that the database removes."""
MIB: Final = 1 << 20


class FreeSpace:
    """The free bytes of the plant's disks, and the test of whether new data may be stored.

    `free_bytes` returns the free bytes of the disk with the least free space. `least_bytes`: minimum free bytes of the
    intake. If it is 0, the intake never stops. Any thread may call the methods.
    """

    def __init__(self, free_bytes: Callable[[], int], least_bytes: int) -> None:
        self._free_bytes = free_bytes
        self.least_bytes = least_bytes
        self._low = False

    @property
    def resume_bytes(self) -> int:
        """Return the free bytes at which a stopped intake continues."""
        return int(self.least_bytes * RESUME_FACTOR)

    @property
    def reason(self) -> str:
        """Return the reason for a stopped intake, for `down` records and coverage."""
        return f"{DISK}: less than {self.least_bytes // MIB:,} MiB were free"

    def is_low(self) -> bool:
        """Return True from the moment at which the space is below the minimum, until it reaches `resume_bytes`."""
        if not self.least_bytes:
            return False
        self._low = self._free_bytes() < (self.resume_bytes if self._low else self.least_bytes)
        return self._low


UNLIMITED: Final = FreeSpace(lambda: 0, 0)
"""A space that is never low."""
