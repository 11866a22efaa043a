"""The health of one component of the plant: a state and one sentence. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from tickerplant.core.errors import TickerplantError

OK: Final = "ok"
DEGRADED: Final = "degraded"
"""State of a component that works and needs attention: a feed is down, a group lags, a job failed."""
FAILED: Final = "failed"
"""State of a component that does not work, or that cannot be checked."""


@dataclass(frozen=True)
class ComponentHealth:
    """One component's health. `/health` and `tickerplant health --json` return these fields."""

    name: str
    state: str
    sentence: str
    details: dict[str, Any] = field(default_factory=dict)


def check(name: str, components: Callable[[], Iterable[ComponentHealth]]) -> list[ComponentHealth]:
    """Return the components that `components` yields; if it raises, one failed component with the reason."""
    try:
        return list(components())
    except TickerplantError as error:
        return [ComponentHealth(name, FAILED, str(error))]
    except Exception as error:  # a health check must always answer
        return [ComponentHealth(name, FAILED, f"cannot be checked: {type(error).__name__}: {error}")]
