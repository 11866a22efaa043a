"""Vendors as the plant sees them, and the one place that sends them requests.

`port` is the interface of a vendor, `registry` lists the installed ones. `scheduler` decides which vendor is asked and
when: it debits `rate_limits` before a request, it obeys `circuit_breaker`, `rejections` and `comparison`. These are
pure. `account` is the stored state of one vendor; `state_store` keeps it on the event log.
"""
