"""The aggregation service: `market.prices.raw` in, `market.prices.ohlcv`, `market.status` and dead letters out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from tickerplant.aggregation.stage import FORMAT, AggregationStage
from tickerplant.core import schemas
from tickerplant.log.port import Delivery, EventLog
from tickerplant.log.processor import SNAPSHOT_RECORDS, Counts, Output, Past, Processor, Stage, StageFactory

GROUP = "aggregation"


class _Stage(Stage):
    """The pure stage as the processor wants it: its outputs are the log's."""

    def __init__(self, pure: AggregationStage) -> None:
        self._pure = pure

    def step(self, delivery: Delivery, past: Past) -> Sequence[Output]:
        return [Output(*produced) for produced in self._pure.step(delivery, past)]

    def snapshot(self) -> bytes:
        return self._pure.snapshot()

    def keep_label(self) -> str | None:
        return self._pure.keep_label()

    def oldest_offset(self) -> int | None:
        return self._pure.oldest_offset()


class _Factory:
    """Makes stages for one log generation."""

    format = FORMAT

    def __init__(self, generation: int) -> None:
        self._generation = generation

    def __call__(self, partition: int, snapshot: bytes | None) -> Stage:
        return _Stage(AggregationStage(self._generation, snapshot))


def stages(generation: int) -> StageFactory:
    """Return what makes the stages of a log of that generation: those that the service runs, and `verify` again."""
    return _Factory(generation)


class Aggregation:
    """Aggregates the partitions that its group gives it. Belongs to the thread that calls `run`.

    `metrics` is called after each batch with what the processor has counted.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        instance: str = "0",
        snapshot_records: int = SNAPSHOT_RECORDS,
        metrics: Callable[[Counts], None] | None = None,
    ) -> None:
        self.processor = Processor(
            log,
            GROUP,
            [schemas.RAW],
            schemas.STATE_AGGREGATION,
            stages(log.identity().generation),
            instance=instance,
            snapshot_records=snapshot_records,
            on_batch=metrics,
        )

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. Raises what `Processor.run` does."""
        self.processor.run(stop)
