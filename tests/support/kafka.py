"""A real Kafka broker for a test; see `tools/kafka/broker.py`, which the command `tools/kafka/kafka` shares."""

from tools.kafka.broker import KafkaBroker, KafkaError, get_jars

__all__ = ["KafkaBroker", "KafkaError", "get_jars"]
