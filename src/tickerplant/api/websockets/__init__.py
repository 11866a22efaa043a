"""The WebSocket stream: log records in, JSON messages to clients out.

- `tail` reads new log records, and `rows` decodes them
- `hub` groups clients and holds the newest state (`latest`)
- `outbox` bounds the queue of each client
- `protocol` parses commands and selects rows
- `endpoint` connects the sockets to the hub
- `server_protocol` limits the memory that one connection can occupy
- `stored_state` reads the newest rows from the store

`rows`, `latest`, `protocol`, `outbox` and `hub` are pure. Begin reading at `hub`.
"""
