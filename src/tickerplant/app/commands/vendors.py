"""`tickerplant vendors`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from tickerplant.app.commands.common import emit, say, table

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded
    from tickerplant.market_data.vendors.account import VendorStatus


def vendors(
    loaded: Loaded,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Say whom the plant asks for what, what is left of each quota, and how each vendor does.

    By what is kept on the log, whether the plant runs or not.
    """
    from tickerplant.app.runtime.memory_tuning import lean
    from tickerplant.app.wiring import vendors as all_of
    from tickerplant.market_data.vendors import registry

    lean()
    rows = all_of.status(loaded.settings)
    if json:
        for row in rows:
            emit(row.as_dict())
        return
    if rows:
        headings = ("vendor", "asked for", "quota", "used", "left", "for history", "resets", "requests", "state")
        table(headings, (cells for row in rows for cells in _cells(row)))
    others = sorted({*registry.names(), all_of.SANDBOX} - {row.vendor for row in rows})
    say(f"not asked: {', '.join(others)}; the settings vendors.* name whom to ask, see docs/vendors.md")


def _cells(row: VendorStatus) -> Iterator[tuple[object, ...]]:
    """Yield a line for each quota, the first with all that concerns the vendor."""
    kinds = ", ".join(f"{kind} {place}" for kind, place in row.kinds.items())
    windows = [
        (str(w.quota), f"{w.used:,}", f"{w.left:,}", f"{w.history_left:,}", _time(w.resets_us)) for w in row.windows
    ]
    first = windows[0] if windows else ("none", "", "", "", "")
    yield row.vendor, kinds, *first, f"{row.requests:,}", state_of(row)
    for window in windows[1:]:
        yield "", "", *window, "", ""


def state_of(row: VendorStatus) -> str:
    """Return in a few words how a vendor does."""
    if row.until_us is not None:
        return f"left in peace until {_time(row.until_us)}: {row.last_error}"
    if row.blocked_us is not None:
        return f"wants nothing until {_time(row.blocked_us)}: {row.blocked_by}"
    if row.breaker != "closed":
        return f"tried again next: {row.last_error}"
    if row.last_error_us is not None:
        return f"fine; last refusal {_time(row.last_error_us)}: {row.last_error}"
    return "fine" if row.requests else "not asked yet"


def _time(us: int) -> str:
    from tickerplant.core.times import SECOND_US, iso

    return iso(us - us % SECOND_US)
