"""Twelve Data: bars over REST, prices over WebSocket."""
