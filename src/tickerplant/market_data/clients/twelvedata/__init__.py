"""Twelve Data: bars and corporate actions over REST, ticks over one WebSocket.

REST: `client` sends requests, `messages` parses answers (pure). Stream: `stream` keeps one `connection` open; `session`
is the state that outlives a connection. `quotes` and `day_volume` turn messages into ticks (pure), `parser` adds the
detection of gaps, and `subscriptions` stores the symbols.
"""
