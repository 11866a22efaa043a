"""Alpha Vantage: `messages` parses answers (pure), `client` sends requests."""
