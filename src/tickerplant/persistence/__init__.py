"""Persistence: topics of the event log in, tables of the store out. The only writer of market data in the store.

Start at `service`, which lists the effects in order. `batching` collects consumed records per partition (pure).
`write_batch` is one database transaction.
"""
