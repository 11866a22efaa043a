"""What users reach: REST from the store, WebSocket from the log."""
