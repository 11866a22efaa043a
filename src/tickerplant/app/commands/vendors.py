"""`tickerplant vendors`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from tickerplant.app.commands.common import emit, notify, table

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.market_data.vendors.account import VendorStatus


def vendors(
    loaded: Loaded,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Print which vendor serves which kind of data, the remaining quotas, and the status of each vendor.

    Reads the state in the log, whether or not the plant runs.
    """
    from tickerplant.app.wiring import vendors as vendors_wiring
    from tickerplant.market_data.vendors import registry

    rows = vendors_wiring.status(loaded.settings)
    for part in vendors_wiring.skipped_health(loaded.settings):
        notify(f"{part.name}: {part.sentence}")
    if json:
        for row in rows:
            emit(row.as_dict())
        return
    if rows:
        headings = ("vendor", "serves", "quota", "used", "left", "for history", "resets", "requests", "state")
        table(headings, (cells for row in rows for cells in _cells(row)))
    others = sorted({*registry.names(), vendors_wiring.SANDBOX} - {row.vendor for row in rows})
    notify(f"vendors not in use: {', '.join(others)}; choose vendors with the settings vendors.*, see docs/vendors.md")


def _cells(row: VendorStatus) -> Iterator[tuple[object, ...]]:
    """Yield a row for each quota of a vendor. Only the first row contains the vendor's own columns."""
    from tickerplant.app.wiring.vendors import state_of, time_text

    kinds = ", ".join(f"{kind} {rank}" for kind, rank in row.kinds.items())
    windows = [
        (str(w.quota), f"{w.used:,}", f"{w.left:,}", f"{w.history_left:,}", time_text(w.resets_us)) for w in row.windows
    ]
    first = windows[0] if windows else ("none", "", "", "", "")
    yield row.vendor, kinds, *first, f"{row.requests:,}", state_of(row)
    for window in windows[1:]:
        yield "", "", *window, "", ""
