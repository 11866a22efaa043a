"""Alpha Vantage's API, server side."""
