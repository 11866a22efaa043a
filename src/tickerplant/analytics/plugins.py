"""Indicators of other packages: the entry points of the group `tickerplant.indicators`.

Each entry is a subclass of `Indicator`, or a module that contains such classes:

    [project.entry-points."tickerplant.indicators"]
    mine = "my_package.indicators"

A plug-in that cannot be loaded is reported and skipped; the other indicators still work.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Final

from tickerplant.analytics.indicator import register
from tickerplant.analytics.indicator.declaration import Indicator
from tickerplant.core.errors import BadInput

GROUP: Final = "tickerplant.indicators"


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A skipped plug-in: its entry, its package, and the error."""

    entry: str
    package: str
    reason: str

    def __str__(self) -> str:
        return (
            f"the plug-in {self.entry} of the package {self.package} cannot be loaded: {self.reason}; "
            "repair or uninstall the package"
        )


@cache
def load() -> tuple[BrokenPlugin, ...]:
    """Register the indicators of all plug-ins on the first call; return the plug-ins that cannot be loaded."""
    found = sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))
    return tuple(broken for entry in found if (broken := _load(entry)) is not None)


def _load(entry: EntryPoint) -> BrokenPlugin | None:
    package = entry.dist.name if entry.dist is not None else "?"
    try:
        for kind in _indicators(entry.load()):
            register(kind)
    except BadInput as error:
        return BrokenPlugin(entry.name, package, str(error))
    except (Exception, SystemExit) as error:  # importing a foreign module may raise anything
        return BrokenPlugin(entry.name, package, f"{type(error).__name__}: {error}")
    return None


def _indicators(loaded: Any) -> list[type[Indicator]]:
    if inspect.isclass(loaded) and issubclass(loaded, Indicator):
        return [loaded]
    if isinstance(loaded, ModuleType):
        kinds = [kind for _, kind in inspect.getmembers(loaded, inspect.isclass) if issubclass(kind, Indicator)]
        own = [kind for kind in kinds if not inspect.isabstract(kind) and not kind.__module__.startswith(_OWN_PREFIX)]
        if own:
            return own
        raise BadInput(f"the module {loaded.__name__} declares no indicator")
    raise BadInput("the entry is neither a subclass of Indicator nor a module with subclasses")


_OWN_PREFIX: Final = "tickerplant."
