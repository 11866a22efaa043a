"""The installed providers of all packages, including this package, by their entry points (`port.ENTRY_POINTS`).

A provider is imported only when its vendor is used, so a broken plug-in does not affect the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from tickerplant.core.errors import ConfigError
from tickerplant.market_data.vendors.port import ENTRY_POINTS, Provider, ProviderContext

_MEMBERS: Final = ("name", "offer", "cost", "bars", "actions", "stream", "close")


def names() -> list[str]:
    """Return the names of all vendors that have an installed provider, sorted. No provider is imported."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)})


def factory(name: str) -> Callable[[ProviderContext], Provider]:
    """Import the provider of a vendor and return its factory.

    Raises ConfigError unless exactly one package has the name. Also raises ConfigError if the plug-in cannot be
    imported, or if its entry point is not callable.
    """
    found = {entry.value: entry for entry in entry_points(group=ENTRY_POINTS, name=name)}
    if not found:
        remedy = f"use one of {', '.join(names())}" if names() else "install a package with its provider"
        raise ConfigError(f"there is no vendor {name!r}; {remedy}")
    if len(found) > 1:
        raise ConfigError(
            f"the vendor {name!r} is in several packages: {_packages(found.values())}; uninstall all but one"
        )
    entry = next(iter(found.values()))
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:  # an import of a foreign module may raise any error
        raise _broken(entry, f"cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(loaded):
        raise _broken(entry, f"is not a factory: {entry.value} cannot be called")
    made: Callable[[ProviderContext], Provider] = loaded
    return made


def provider(context: ProviderContext) -> Provider:
    """Return the provider of the vendor `context.name`, created with this context.

    Raises ConfigError as `factory` does, and if the provider rejects the context (a missing key) or its factory fails.
    Also raises ConfigError if the result lacks a member of `Provider`, or if its name is different.
    """
    make = factory(context.name)
    entry = next(iter(entry_points(group=ENTRY_POINTS, name=context.name)))
    try:
        made = make(context)
    except ConfigError:
        raise
    except Exception as error:  # only the type: the text may contain the key
        raise _broken(entry, f"cannot be created: {type(error).__name__}") from error
    missing = [name for name in _MEMBERS if not hasattr(made, name)]
    if missing:
        raise _broken(entry, f"is not a provider: it lacks {', '.join(missing)}")
    if made.name != context.name:
        raise _broken(entry, f"has the name {made.name!r}: a vendor's name is the source of its rows")
    return made


def _broken(entry: EntryPoint, what: str) -> ConfigError:
    return ConfigError(f"the vendor {entry.name} of the package {_packages([entry])} {what}; update or uninstall it")


def _packages(entries: Iterable[EntryPoint]) -> str:
    return ", ".join(sorted(entry.dist.name if entry.dist is not None else "?" for entry in entries))
