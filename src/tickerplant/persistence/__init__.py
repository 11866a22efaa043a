"""Persistence writes the records of the event log to the tables of the store.

No other package writes market data there.

Start at `service`, which lists the effects in order. `batching` collects consumed records per partition (pure).
`write_batch` is one database transaction.
"""
