"""The vendors' port, and the request scheduler, which decides which vendor gets a request, and when.

In: requests for bars, splits and dividends from the backfill. Out: answers of vendors, or the reason why no vendor can
get a request now. The scheduler never spends more than the quotas allow, even after a kill.

Begin with `port`, the interface of a vendor, and `scheduler.RequestScheduler`, which chooses a vendor and sends the
request. It applies `rate_limits`, `circuit_breaker`, `rejections` and `comparison`, all pure. `account` contains the
state of one vendor; `state_store` stores it in the event log. `registry` lists the installed vendors.
"""
