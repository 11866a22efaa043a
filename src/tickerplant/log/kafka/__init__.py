"""The event log on Apache Kafka, for a cluster: `KafkaLog(bootstrap)`.

`log` implements the port; `context` is the state that its readers and writers share. Begin reading at `writer._commit`
for a transaction, and at `reader._on_assign` for a rebalance. `state` reads and writes the values of state topics, such
as snapshots.
"""

from tickerplant.log.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
