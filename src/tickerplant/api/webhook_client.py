"""Where webhooks may go: one POST, without redirects, proxies or cookies, and only to public addresses if so set."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from typing import Any, Final

import httpx

from tickerplant.core.errors import TickerplantError

SIGNATURE: Final = "X-Tickerplant-Signature"
ALERT_ID: Final = "X-Tickerplant-Alert-Id"
MAX_CONNECTIONS: Final = 32
GONE: Final = 410


class PostFailed(TickerplantError):
    """A webhook was not taken. `gone`: the receiver says that it never will be."""

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone


def signature(secret: str, body: bytes, now_s: int) -> str:
    """Return `t=…,v1=…`: the time, and HMAC-SHA256 of `t.body` under the secret, in hexadecimal."""
    digest = hmac.new(secret.encode(), f"{now_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={now_s},v1={digest}"


class _PublicOnly(httpx.AsyncHTTPTransport):
    """Connects to the very address that it has looked at, so that a name cannot be another one a moment later."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        loop = asyncio.get_running_loop()
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpx.ConnectError(f"{host} has no address: {error}", request=request) from error
        public = [str(entry[4][0]) for entry in found if _is_public(str(entry[4][0]))]
        if not public:
            raise PostFailed(f"{host} is no public address, and alerts.private_webhooks is off")
        request.extensions = {**request.extensions, "sni_hostname": host}
        request.url = request.url.copy_with(host=public[0])  # the Host header names the host still
        return await super().handle_async_request(request)


def _is_public(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_global and not found.is_multicast


class Receivers:
    """Posts to receivers. Belongs to one event loop."""

    def __init__(self, *, timeout_s: float, private: bool, agent: str) -> None:
        self._timeout_s = timeout_s
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=8, keepalive_expiry=5.0)
        kind = httpx.AsyncHTTPTransport if private else _PublicOnly
        # A transport of our own takes no proxy from the environment, which may reach what we may not.
        self._client = httpx.AsyncClient(
            transport=kind(limits=limits, retries=0),
            timeout=timeout_s,
            follow_redirects=False,
            headers={"User-Agent": agent, "Accept": "*/*"},
        )

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> None:
        """Post, and return when the receiver has said 2xx. Raises PostFailed with a reason that names no secret."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),  # in all: a receiver that drips would never time out otherwise
                self._client.stream("POST", url, content=body, headers=headers) as answer,
            ):
                status = answer.status_code
        except TimeoutError:
            raise PostFailed(f"no answer in {self._timeout_s:g} s") from None
        except httpx.TimeoutException:
            raise PostFailed(f"no answer in {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise PostFailed(f"{type(error).__name__}: {_short(error)}") from None
        if not 200 <= status < 300:
            raise PostFailed(f"it answered {status}", gone=status == GONE)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _short(error: Any) -> str:
    return str(error)[:200]
