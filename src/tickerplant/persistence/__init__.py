"""Persistence writes the records of the event log to the tables of the store.

No other service writes market data to the store.

Start at `service`, which lists the effects in order. `gathering` polls the log, `batching` collects the records per
partition (pure), and `write_batch` is one database transaction. `one_by_one` finds a record that the database refuses.
`reporter` and `status` report outages and refusals.
"""
