"""The store: PostgreSQL, with TimescaleDB where the extension is installed. Arrow tables in, Arrow tables out.

Start at `pool` (connections, write and read sessions). `repositories` contains the statements, `migrations` the
schema, `maintenance` the scheduled jobs, `server` the embedded PostgreSQL.
"""

from tickerplant.store.pool import Store

__all__ = ["Store"]
