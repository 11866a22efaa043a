"""Who is there: the vendors of all installed packages, ours too, by the entry points of `port.ENTRY_POINTS`.

Nothing of a vendor is imported before it is wanted, so a broken plug-in breaks nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from tickerplant.core.errors import ConfigError
from tickerplant.market_data.vendors.port import ENTRY_POINTS, Provider, ProviderContext

_MEMBERS: Final = ("name", "offer", "cost", "bars", "actions", "stream", "close")


def names() -> list[str]:
    """Return the names of all vendors, sorted; none is imported."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)})


def factory(name: str) -> Callable[[ProviderContext], Provider]:
    """Import a vendor and return its factory.

    Raises ConfigError for a name that no package has or several have, and for a plug-in that cannot be imported: it
    says which package, and why.
    """
    found = {entry.value: entry for entry in entry_points(group=ENTRY_POINTS, name=name)}
    if not found:
        raise ConfigError(f"there is no vendor {name!r}; known are {', '.join(names()) or 'none'}")
    if len(found) > 1:
        raise ConfigError(f"the vendor {name!r} is brought by several packages: {_packages(found.values())}")
    entry = next(iter(found.values()))
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:  # whatever a stranger's module does when it is imported
        raise _broken(entry, f"cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(loaded):
        raise _broken(entry, f"is no factory: {entry.value} cannot be called")
    made: Callable[[ProviderContext], Provider] = loaded
    return made


def provider(context: ProviderContext) -> Provider:
    """Return the vendor `context.name`, made with this context.

    Raises ConfigError as `factory` does, the vendor's own (a key that it needs), or one that says that it failed.
    """
    make = factory(context.name)
    entry = next(iter(entry_points(group=ENTRY_POINTS, name=context.name)))
    try:
        made = make(context)
    except ConfigError:
        raise
    except Exception as error:  # only the kind of error: its text may hold the key
        raise _broken(entry, f"cannot be made: {type(error).__name__}") from error
    missing = [name for name in _MEMBERS if not hasattr(made, name)]
    if missing:
        raise _broken(entry, f"is no provider: it lacks {', '.join(missing)}")
    if made.name != context.name:
        raise _broken(entry, f"calls itself {made.name!r}: a vendor's name is the source of all that it says")
    return made


def _broken(entry: EntryPoint, what: str) -> ConfigError:
    return ConfigError(f"the vendor {entry.name} of the package {_packages([entry])} {what}")


def _packages(entries: Iterable[EntryPoint]) -> str:
    return ", ".join(sorted(entry.dist.name if entry.dist is not None else "?" for entry in entries))
