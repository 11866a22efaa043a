"""The desk: the only one who asks vendors. Which one, whether its quota allows it, and what was learnt of it.

`budget`, `breaker`, `refusals` and `comparison` are pure; `account` is what is known of one vendor, as kept state;
`desk` asks; `keeping` keeps it on the event log.
"""
