"""The store: PostgreSQL, with TimescaleDB where the extension is installed. It accepts and returns Arrow tables.

Start at `pool` (connections, write and read sessions). `repositories` contains the statements, and `migrations`
contains the schema. `maintenance` runs the scheduled jobs, and `server` runs the embedded PostgreSQL.
"""

from tickerplant.store.pool import Store

__all__ = ["Store"]
