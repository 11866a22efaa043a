"""The times of a file as written. The interval of its bars follows from them. No zone is needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from tickerplant.core import interval as intervals
from tickerplant.core.times import DAY_US, MINUTE_US
from tickerplant.market_data.files.layout import FileLayout
from tickerplant.market_data.files.open_file import DataFile
from tickerplant.market_data.files.options import ReadOptions
from tickerplant.market_data.files.row_reader import RowReader

_ENOUGH: Final = 1_000
"""Number of times after which a divisor of a minute ends the reading: there is no smaller interval."""


def written_clock(file: DataFile, layout: FileLayout, options: ReadOptions) -> tuple[int, int]:
    """Return the common divisor of the times of day as written, in microseconds, and the count of these times.

    The divisor is 0 if all times are dates or midnights. Reading ends early if further times cannot matter.
    """
    reader = RowReader.of(file, layout, replace(options, interval=intervals.D1.name))
    step_us = rows = 0
    for block in file.blocks(reader.scan_columns()):
        written = reader.written(block)
        rows += len(written)
        step_us = int(np.gcd.reduce(np.append(written % DAY_US, step_us)))
        if 0 < step_us <= MINUTE_US and rows >= _ENOUGH:
            break
    return step_us, rows
