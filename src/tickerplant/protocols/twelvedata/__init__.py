"""Twelve Data's API, server side: requests and a `Market` in, responses and frames out. Pure.

Start at `rest`; `stream` is the WebSocket.
"""
