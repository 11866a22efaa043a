"""Real parts for tests: a Kafka broker, a TimescaleDB."""
