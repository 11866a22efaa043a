"""Topics to tables: the only writer of market data in the store."""
