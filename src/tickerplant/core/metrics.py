"""The description of one metric: name, kind, labels, and what an operator does about a bad value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. `help` states what it counts or measures, `advice` what to do about a bad value."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    advice: str
    labels: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Return the help text that a scrape shows: what the metric means, then the advice."""
        return f"{self.help} {self.advice}"
