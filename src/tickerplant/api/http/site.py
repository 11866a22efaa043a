"""The pages that may use the API from a browser, and the headers that confine its answers.

A browser sends requests for every page that it shows, and may send them to this machine. Two headers identify the page:

- `Host` contains the name in the address. After DNS rebinding, it contains the name of the foreign page. A plant
  without an API key therefore answers only to its own names.
- `Origin` is the origin of the page. A browser sends it with every WebSocket and every writing request. Other programs
  send no `Origin`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Final

from tickerplant.api.http.asgi import App, Message, Receive, Scope, Send
from tickerplant.api.http.errors import error_response
from tickerplant.core.web_address import DEFAULT_PORTS, Authority, parse_authority, parse_host, parse_origin

LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts that are always allowed. No foreign page can have such a host, because DNS does not resolve it."""
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
POLICY: Final = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "connect-src 'self'", "img-src 'self' data:",
        "font-src 'self' data:",
        "style-src 'self' 'unsafe-inline'",  # the chart library and Swagger UI insert style elements
        "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip
"""Content security policy of every answer: the dashboard loads nothing from other hosts and is in no frame."""
HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
MAX_SHOWN: Final = 100
"""Maximum characters of a refused header in an error."""

HOST, ORIGIN = "host", "origin"


class ConfineAnswers:
    """Middleware that adds `HEADERS` to every HTTP answer."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application and add the headers that its answer does not have."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                message["headers"] = given + [header for header in HEADERS if header[0] not in names]
            await send(message)

        await self._app(scope, receive, add)


class CheckSite:
    """Middleware that refuses requests of foreign pages (403). It runs once per request or connection.

    `hosts` are the hosts to which a plant without a key answers, besides `LOCAL_NAMES` and the address of the
    connection. `hosts` None disables the check of `Host`. `origins` are the allowed origins besides the plant's own.
    `refused` is called with the name of the header that caused a refusal.
    """

    def __init__(
        self, app: App, hosts: Iterable[str] | None, origins: Iterable[str] = (),
        refused: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self._app = app
        self._hosts = None if hosts is None else LOCAL_NAMES | set(hosts)
        self._origins = {parse_origin(origin) for origin in origins} - {None}
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, or refuse the request. A refused WebSocket is closed before it is accepted."""
        refusal = None if scope["type"] == "lifespan" else self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        header, message, hint = refusal
        if self._refused is not None:
            self._refused(header)
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})  # before it is accepted: the server answers 403
        else:
            await error_response(403, f"foreign_{header}", message, hint)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[str, str, str] | None:
        """Return (header, message, hint) if the request is refused, otherwise None."""
        given = _texts(scope, b"host")
        authorities = [parse_authority(text) for text in given]
        if self._hosts is not None and not all(map(self._is_own, authorities, [scope] * len(given))):
            return (
                HOST, f"this plant does not answer to the host {_shown(given)}",
                "use localhost, or add the host to the setting api.hosts, or set api.key",
            )  # fmt: skip
        origins = _texts(scope, b"origin")
        writes = scope["type"] == "websocket" or scope["method"] not in READING
        own = authorities[0] if len(authorities) == 1 else None
        if writes and not all(self._is_allowed(text, own) for text in origins):
            return (
                ORIGIN, f"a page of {_shown(origins)} must not use this plant",
                "open the dashboard of this plant, or add the page's origin to the setting api.origins",
            )  # fmt: skip
        return None

    def _is_own(self, authority: Authority | None, scope: Scope) -> bool:
        assert self._hosts is not None
        return authority is not None and (authority.host in self._hosts or authority.host == _local_address(scope))

    def _is_allowed(self, text: str, own: Authority | None) -> bool:
        origin = parse_origin(text)
        if origin is None:
            return False
        if own is not None and (own.host, own.port or DEFAULT_PORTS[origin.scheme]) == (origin.host, origin.port):
            return True
        return origin in self._origins


def own_hosts(bound: str, extra: Iterable[str]) -> list[str]:
    """Return the hosts of a plant: the bound address, unless it means all addresses, and the extra hosts."""
    found = [parse_host(f"[{host}]" if ":" in host else host) for host in (bound, *extra)]
    return [host for host in found if host not in (None, "0.0.0.0", "::")]  # noqa: S104


def _local_address(scope: MutableMapping[str, Any]) -> str | None:
    """Return the address of this machine that the client has connected to; None if it is unknown."""
    server = scope.get("server")
    try:
        address = ipaddress.ip_address(str(server[0]).partition("%")[0]) if server else None
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return None if address is None else str(mapped or address)


def _texts(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key.lower() == name]


def _shown(texts: list[str]) -> str:
    return ", ".join(text[:MAX_SHOWN] for text in texts[:3]) or "an unknown name"
