"""Yahoo's API, server side: requests and a `Market` in, responses and frames out. Pure.

Start at `chart`; `stream` is the WebSocket.
"""
