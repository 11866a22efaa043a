"""The event log on Apache Kafka, for a cluster: `KafkaLog(bootstrap)`."""

from tickerplant.log.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
