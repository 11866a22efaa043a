"""The API service: REST from the store, and a WebSocket stream from the log.

In: requests of users, the tables of the store, and new records of the log. Out: JSON and CSV answers with the log
position of the read, stream messages, the dashboard's files and metrics. The service also writes changed alert rules to
the store and to the log.

Begin reading at `service.Api`. `main` assembles the application. `routers` contains one module per kind of data, `http`
contains code that routes share, and `websockets` contains the stream. `store_reader` reads the store. `alert_rules`
stores and publishes alert rules. The package `alerts` delivers webhooks. `state` contains the objects that routes
share. `request_lanes` runs requests in lanes; most lanes have a thread and an event loop of their own. `blocking` has
the pools of threads. `load` counts refusals and delays.
"""
