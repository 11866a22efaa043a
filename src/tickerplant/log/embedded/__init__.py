"""The event log in one SQLite file, for one machine: `EmbeddedLog(path)`.

`log` implements the port; `context` is what its readers and writers share. Begin reading at `writer._commit`.

Besides `market.log` there are SQLite's `market.log-wal` and `market.log-shm`, and a folder `market.log.d` with what
exists only while processes run: the writers' lock, the checkpointer's lock, a locked file for each group member, and a
datagram socket for each reader. The folder may be deleted when no process runs.
"""

from tickerplant.log.embedded.log import EmbeddedLog

__all__ = ["EmbeddedLog"]
