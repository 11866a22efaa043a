"""The canonical names of time zones. The list of aliases is a file of the package tzdata."""

from __future__ import annotations

import importlib.resources
from functools import lru_cache

from tickerplant.core.time_column import TimeColumn, check_zone

__all__ = ["TimeColumn", "canonical_zone", "check_zone"]


def canonical_zone(name: str) -> str:
    """Return the canonical name of a zone: `America/New_York` for `US/Eastern`, `UTC` for `Zulu`."""
    links = _links()
    while name in links:
        name = links[name]
    return "UTC" if name in ("Etc/UTC", "Etc/GMT") else name


@lru_cache(maxsize=1)
def _links() -> dict[str, str]:
    """Return IANA's aliases with the zone of each; {} if the list is not installed."""
    try:
        text = importlib.resources.files("tzdata.zoneinfo").joinpath("tzdata.zi").read_text(encoding="ascii")
    except (ModuleNotFoundError, OSError):
        return {}
    lines = (line.split() for line in text.splitlines() if line.startswith("L "))
    return {link: target for _, target, link in lines}
