"""Write the packaged schedules: `python tools/calendars.py`, after each release of exchange_calendars.

Reading a packaged schedule takes milliseconds. Computing it with the library costs a second and 50 MB, mostly pandas.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import numpy as np
from exchange_calendars.calendar_utils import global_calendar_dispatcher

from tickerplant.core.errors import ConfigError
from tickerplant.core.schedules import INDEX, library_schedule
from tickerplant.core.sessions import ALWAYS_OPEN

FOLDER = Path(__file__).parents[1] / "src" / "tickerplant" / "core" / "calendars"


def main() -> None:
    """Write the schedules of all calendars that the library can create, and their index."""
    version = metadata.version("exchange_calendars")
    files: dict[str, str] = {}
    same: dict[bytes, str] = {}
    for name in sorted(global_calendar_dispatcher._calendar_factories.keys() - {ALWAYS_OPEN}):
        try:
            schedule = library_schedule(name)
        except ConfigError as error:
            print(error)
            continue
        steps = {part: np.diff(values, prepend=np.int64(0)) for part, values in schedule.items()}
        content = b"".join(values.tobytes() for values in steps.values())
        files[name] = same.setdefault(content, f"{name.replace('/', '-')}.npz")
        np.savez_compressed(FOLDER / files[name], **steps)
    aliases = {alias: name for alias, name in global_calendar_dispatcher._aliases.items() if name in files}
    index = {"version": version, "calendars": files, "aliases": dict(sorted(aliases.items()))}
    (FOLDER / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for old in {*FOLDER.glob("*.npz")} - {FOLDER / file for file in files.values()}:
        old.unlink()
    size = sum(path.stat().st_size for path in FOLDER.iterdir())
    print(f"{len(files)} calendars of exchange_calendars {version}, {size:,} bytes")


if __name__ == "__main__":
    main()
