"""The vendors' port, and the request scheduler that all requests to vendors pass.

In: requests for bars, splits and dividends from the backfill. Out: answers of vendors, or the reason why none can be
asked now. No more than the quotas allow is ever spent, also over kills.

Begin with `port`, the interface of a vendor, and `scheduler.RequestScheduler`, which chooses a vendor and sends the
request. It obeys `rate_limits`, `circuit_breaker`, `rejections` and `comparison`, all pure. `account` is the stored
state of one vendor; `state_store` stores it in the event log. `registry` lists the installed vendors.
"""
