"""The event log in one SQLite file, for one machine: `EmbeddedLog(path)`.

Beside `market.log` stand SQLite's `market.log-wal` and `market.log-shm`, and a folder `market.log.d` with what lives
only while processes do: the writers' lock, the checkpointer's lock, a locked file for each member of a group, and a
datagram socket (the doorbell) for each reader. The folder may be deleted when no process runs.
"""

from tickerplant.log.embedded.log import EmbeddedLog

__all__ = ["EmbeddedLog"]
