"""The PostgreSQL/TimescaleDB store: migrations, repositories, pool, embedded server."""

from tickerplant.store.pool import Store

__all__ = ["Store"]
