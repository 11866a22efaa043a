"""The HTTP client of webhooks: one POST without redirects, proxies or cookies, optionally to public addresses only."""

from __future__ import annotations

import asyncio
import socket
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx

from tickerplant.alerts.errors import PostFailed
from tickerplant.core.web_address import is_public, parse_address

MAX_CONNECTIONS: Final = 32
GONE: Final = 410


class _PublicOnlyTransport(httpx.AsyncHTTPTransport):
    """Resolves the host itself and connects to the address that it has checked.

    A name that resolves to another address a moment later therefore cannot bypass the check.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host.strip("[]")
        loop = asyncio.get_running_loop()
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpx.ConnectError(f"cannot resolve {host}: {error}", request=request) from error
        public = [str(entry[4][0]) for entry in found if is_public(str(entry[4][0]))]
        if not public:
            raise PostFailed(
                f"{host} is not a public address; use a public address, or set alerts.private_webhooks to true"
            )
        request.extensions = {**request.extensions, "sni_hostname": host}
        request.url = request.url.copy_with(host=public[0])  # the Host header still contains the host's name
        return await super().handle_async_request(request)


class WebhookClient:
    """Posts webhooks. Belongs to one event loop. `private` allows receivers with addresses that are not public."""

    def __init__(self, *, timeout_s: float, private: bool, agent: str) -> None:
        self._timeout_s = timeout_s
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=8, keepalive_expiry=5.0)
        kind = httpx.AsyncHTTPTransport if private else _PublicOnlyTransport
        # An explicit transport makes httpx ignore proxies of the environment, which could reach private addresses.
        self._client = httpx.AsyncClient(
            transport=kind(limits=limits, retries=0),
            timeout=timeout_s,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # keeps no cookie of any receiver
            headers={"User-Agent": agent, "Accept": "*/*"},
        )

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> None:
        """Post one webhook, and return when the receiver has answered 2xx.

        Raises PostFailed for every other result. The reason contains no secret.
        """
        address = parse_address(url)
        if address is None:
            raise PostFailed("the webhook's address is invalid; change it in the rule")
        # The parts are given one by one, so that no second parser reads the text.
        parts = httpx.URL(
            scheme=address.scheme, host=address.host, port=address.port, raw_path=(address.target or "/").encode()
        )
        try:
            async with (
                asyncio.timeout(self._timeout_s),  # for the entire attempt: httpx restarts its timeout at every byte
                self._client.stream("POST", parts, content=body, headers=headers) as answer,
            ):
                status = answer.status_code
        except TimeoutError:
            raise PostFailed(f"the receiver did not answer within {self._timeout_s:g} s") from None
        except httpx.TimeoutException:
            raise PostFailed(f"the receiver did not answer within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise PostFailed(f"{type(error).__name__}: {_short(error)}") from None
        if not 200 <= status < 300:
            raise PostFailed(f"the receiver answered {status}", gone=status == GONE)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _short(error: Any) -> str:
    return str(error)[:200]
