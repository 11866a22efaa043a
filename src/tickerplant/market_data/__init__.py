"""Market data: vendors and files in, records of `market.prices.raw` out.

- `feed`: the only way into the raw topic. `feed/writer.py` appends records and commits a feed's cursor with them.
- `vendors`: the interface of a vendor (`port`), and the scheduler that sends all requests within quotas.
- `clients`: one package per vendor: pure parsing, requests, streams.
- `files`: readers for CSV, Parquet and DBN, and the replay of a file.
- `backfill`: finds gaps in the store and fills them.
- `disk_pause`, `flood_control`: stop a feed while the disk is almost full, or after a flood of unusable messages.

Begin with `service.py`, which runs a live feed beside the backfill. `providers` is an earlier import path, and
`sandbox.py` is an earlier command. Both work for one more version.
"""
