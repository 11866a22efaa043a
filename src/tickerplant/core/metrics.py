"""The description of one metric: name, kind, labels, and the remedy for a bad value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. `help` states the counted or measured quantity. `advice` states the remedy for a bad value."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    advice: str
    labels: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Return the help text of a scrape: the meaning of the metric, then the advice."""
        return f"{self.help} {self.advice}"
