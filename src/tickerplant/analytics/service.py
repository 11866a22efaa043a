"""The analytics service: `market.prices.ohlcv` in, `market.analytics` and dead letters out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from tickerplant.analytics import plugins
from tickerplant.analytics.stage import FORMAT, AnalyticsStage
from tickerplant.core import schemas
from tickerplant.log.port import Delivery, EventLog
from tickerplant.log.processor import SNAPSHOT_RECORDS, Counts, Output, Past, Processor, Stage

GROUP = "analytics"

logger = logging.getLogger(__name__)


class _Stage(Stage):
    """The pure stage as the processor wants it: its outputs are the log's."""

    def __init__(self, pure: AnalyticsStage) -> None:
        self._pure = pure

    def step(self, delivery: Delivery, past: Past) -> Sequence[Output]:
        return [Output(*produced) for produced in self._pure.step(delivery)]

    def snapshot(self) -> bytes:
        return self._pure.snapshot()

    def keep_label(self) -> str | None:
        return self._pure.keep_label()


class _Factory:
    """Makes stages."""

    format = FORMAT

    def __call__(self, partition: int, snapshot: bytes | None) -> Stage:
        return _Stage(AnalyticsStage(snapshot))


class Analytics:
    """Computes indicators for the partitions that its group gives it. Belongs to the thread that calls `run`.

    `metrics` is called after each batch with what the processor has counted. The indicators of plug-ins are known from
    here on; a plug-in that is broken is logged, and what it declares is not there.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        instance: str = "0",
        snapshot_records: int = SNAPSHOT_RECORDS,
        metrics: Callable[[Counts], None] | None = None,
    ) -> None:
        for broken in plugins.load():
            logger.error("%s", broken)
        self.processor = Processor(
            log,
            GROUP,
            [schemas.OHLCV],
            schemas.STATE_ANALYTICS,
            _Factory(),
            instance=instance,
            snapshot_records=snapshot_records,
            on_batch=metrics,
        )

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. Raises what `Processor.run` does."""
        self.processor.run(stop)
