"""Twelve Data's API, server side: `rest` and `stream`."""
