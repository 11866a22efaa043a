"""The API service: REST from the store, and a WebSocket stream from the log.

In: requests of users, the tables of the store, and new records of the log. Out: JSON and CSV answers with the log
position of the read, stream messages, the dashboard's files and metrics. Changed alert rules go to the store and the
log.

Begin reading at `service.Api`. `main` assembles the application, `routers` has one module per kind of data, `http` the
parts that routes share, and `websockets` the stream. `store_reader` reads the store; `alert_rules` stores and publishes
alert rules. The package `alerts` delivers webhooks.
"""
