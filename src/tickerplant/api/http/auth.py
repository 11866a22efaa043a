"""The optional API key of REST and the stream: header `X-API-Key` or parameter `apikey`. No key is set by default.

These paths need no key: `/health` (probes have no key), the dashboard's files, and the documentation. Browsers cannot
set headers on a WebSocket, so the stream accepts the parameter.
"""

from __future__ import annotations

import hmac
from typing import Final
from urllib.parse import parse_qs

from tickerplant.api.http.asgi import App, Receive, Scope, Send
from tickerplant.api.http.errors import error_response

KEY_PARAMETER: Final = "apikey"
PROTECTED: Final = ("/v1/", "/metrics")
CLOSE_KEY: Final = 4001
"""Code with which a WebSocket without a valid key is closed."""
HINT: Final = "send the key in the header X-API-Key, or as ?apikey= if you cannot set headers"


class RequireKey:
    """Middleware that refuses protected paths without the key. It runs once per request or connection."""

    def __init__(self, app: App, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, or refuse the request (401) or connection (close code 4001)."""
        if scope["type"] == "lifespan" or not scope["path"].startswith(PROTECTED) or self._has_key(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            # The socket is accepted first: a browser receives a refused handshake as code 1006 without a reason.
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": CLOSE_KEY, "reason": f"no valid API key; {HINT}"[:123]})
        else:
            response = error_response(401, "no_key", "missing or invalid API key", HINT)
            await response(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"x-api-key" and hmac.compare_digest(value, self._key):
                return True
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get(KEY_PARAMETER, [])
        return any(hmac.compare_digest(value.encode(), self._key) for value in given)
