"""The event log in one SQLite file, for one machine: `EmbeddedLog(path)`.

`log` implements the port; `context` is the state that its readers and writers share. Begin reading at `writer._commit`.
`compression` reduces small records to a tenth of their size.

SQLite also creates `market.log-wal` and `market.log-shm`. The folder `market.log.d` contains the locks of the writers,
the checkpointer and the leaders. While processes run, it also contains a locked file for each group member and a
datagram socket for each reader. If the path is too long for a socket, the sockets are in the temporary directory. The
folder may be deleted while no process uses the log.
"""

from tickerplant.log.embedded.log import EmbeddedLog

__all__ = ["EmbeddedLog"]
