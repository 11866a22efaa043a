"""The event log: durable topics between the services, on Kafka or in one SQLite file, and the loop that processes them.

In: records to append, state values, positions. Out: committed records, in order by partition.

`port` is the interface; `open` returns a log by its address. `embedded` and `kafka` are its two adapters. `processor`
runs the stages of `core.streams` exactly once; `snapshots` stores their state, and `snapshot_retention` drops old
snapshots. Begin reading at `port`, then `processor._commit`.
"""
