"""The extras of the package: which are installed, and which vendors of the settings need a missing extra."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from tickerplant.app.component import DEGRADED, OK, ComponentHealth
from tickerplant.core.errors import EXTRAS, MissingExtra

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings

VENDOR_EXTRAS: Final = {"ccxt": "ccxt", "yahoo": "yahoo"}
"""The extra that a vendor's provider needs, by vendor."""


def is_installed(extra: str) -> bool:
    """Return True if the packages of an extra are installed. Imports none of them."""
    return find_spec(EXTRAS[extra]) is not None


def without_extra(names: Iterable[str]) -> dict[str, MissingExtra]:
    """Return the vendors among `names` whose extra is missing, with the error that their use would raise."""
    needs = {name: VENDOR_EXTRAS[name] for name in names if name in VENDOR_EXTRAS}
    return {name: MissingExtra(f"the vendor {name}", extra) for name, extra in needs.items() if not is_installed(extra)}


def vendors_health(settings: Settings, orders: Mapping[str, Iterable[str]]) -> Iterable[ComponentHealth]:
    """Yield each vendor of `orders` that the plant skips because its extra is missing.

    Such a vendor is degraded if a setting names it. A vendor that is a fallback by default is ok.
    """
    chosen = settings.vendors
    named = {*chosen.stream, *chosen.intraday, *chosen.daily, *chosen.actions, *settings.sandbox.vendors}
    missing = without_extra(dict.fromkeys(name for names in orders.values() for name in names))
    for name, error in missing.items():
        state = DEGRADED if name in named else OK
        yield ComponentHealth(f"vendor {name}", state, f"skipped: {error}", {"extra": error.extra})
