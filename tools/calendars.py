"""Write the packaged schedules: `python tools/calendars.py`, after each release of exchange_calendars.

Reading a packaged schedule takes milliseconds. Computing it with the library costs a second and 50 MB, mostly pandas.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np

from tickerplant.core.schedules import PACKAGED_CALENDARS, library_schedule

FOLDER = Path(__file__).parents[1] / "src" / "tickerplant" / "core" / "calendars"


def main() -> None:
    """Write each schedule and the version of its source."""
    version = np.array(metadata.version("exchange_calendars"))
    for name in PACKAGED_CALENDARS:
        steps = {part: np.diff(values, prepend=np.int64(0)) for part, values in library_schedule(name).items()}
        np.savez_compressed(FOLDER / f"{name}.npz", version=version, **steps)
        print(f"{name}: {(FOLDER / f'{name}.npz').stat().st_size:,} bytes, from exchange_calendars {version}")


if __name__ == "__main__":
    main()
