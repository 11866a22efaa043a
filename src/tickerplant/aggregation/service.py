"""The aggregation service: `market.prices.raw` in; `market.prices.ohlcv`, `market.status` and dead letters out."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tickerplant.aggregation.stage import AggregationStageFactory
from tickerplant.core import schemas
from tickerplant.log.port import EventLog
from tickerplant.log.processor import SNAPSHOT_RECORDS, Processor, ProcessorCounters

GROUP = "aggregation"


class Aggregation:
    """Aggregates the partitions that its consumer group assigns. Only the thread that calls `run` may use an instance.

    `metrics` is called after each batch with the counters of the processor.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        instance: str = "0",
        snapshot_interval_records: int = SNAPSHOT_RECORDS,
        metrics: Callable[[ProcessorCounters], None] | None = None,
    ) -> None:
        self.processor = Processor(
            log,
            GROUP,
            [schemas.RAW],
            schemas.STATE_AGGREGATION,
            AggregationStageFactory(log.identity().generation),
            instance=instance,
            outputs=(schemas.OHLCV, schemas.STATUS),
            snapshot_interval_records=snapshot_interval_records,
            on_batch=metrics,
        )

    def run(self, stop: threading.Event) -> None:
        """Process records until `stop` is set. Raises the errors of `Processor.run`."""
        self.processor.run(stop)
