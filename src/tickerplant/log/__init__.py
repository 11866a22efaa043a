"""The event log: durable topics between the services, on Kafka or in one SQLite file, and the loop that processes them.

Writers append records, and store state values and positions. Readers receive committed records, in order by partition.

`port` is the interface; `open` returns a log by its address. `embedded` and `kafka` are its two adapters. `processor`
runs the stages of `core.streams` exactly once; `snapshots` stores their state, and `snapshot_retention` drops old
snapshots. `rules_in_force` reads the rules, and `trouble_reports` stores repeating errors. `topic_policy` contains
settings of topics. Begin reading at `port`, then `processor._commit`.
"""
