"""What the API's parts share while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from tickerplant.api import metrics
from tickerplant.api.reading import Source
from tickerplant.api.websockets.endpoint import Stream
from tickerplant.api.websockets.tail import Tail
from tickerplant.log.port import EventLog

STATIC = Path(__file__).parent / "static"


@dataclass
class ApiState:
    """The log, the store, and (once the tail runs) the stream. `health` returns
    `{"parts": [{"name", "state": ok | degraded | failed, "sentence", …}]}`.
    """

    log: EventLog
    source: Source
    health: Callable[[], Mapping[str, Any]] | None = None
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    api_key: str | None = None
    static: Path = STATIC
    stream: Stream | None = None
    tail: Tail | None = None

    def stream_numbers(self) -> dict[metrics.Spec, float]:
        """Return the stream's numbers for the metrics."""
        if self.stream is None:
            return {}
        counts = self.stream.hub.counts
        return {
            metrics.CLIENTS: len(self.stream.connections),
            metrics.FRAMES: counts.frames,
            metrics.CONFLATED: counts.conflated_rows,
            metrics.DROPPED: counts.dropped,
            metrics.RESYNCS: counts.resyncs,
            metrics.UNREADABLE: counts.unreadable,
            metrics.LAG: self.tail.lag_s if self.tail is not None else 0.0,
        }
