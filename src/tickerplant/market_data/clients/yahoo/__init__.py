"""Yahoo through yfinance: `messages` converts answers (pure), `client` sends requests."""
