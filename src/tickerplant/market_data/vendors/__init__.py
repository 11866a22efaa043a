"""The vendors' port, and the request scheduler, which decides which vendor gets a request, and when.

In: requests for bars, splits and dividends from the backfill. Out: answers of vendors, or the reason why no vendor can
get a request now. The scheduler never spends more than the quotas allow, even after a kill.

Begin with `port`, the interface of a vendor, and `scheduler.RequestScheduler`, which chooses a vendor and sends the
request. It applies `rate_limits` (with `quota_windows`), `circuit_breaker`, `rejections` and `comparison`, all pure.
`account` contains the state of one vendor; `state_store` stores it in the event log. `registry` lists the installed
vendors. `columns`, `http_body`, `bounds` and `errors` are the tools of the clients; `gathering` merges the events of a
slow stream. `legacy_streams` and `renamed` accept the earlier form of the port.
"""
