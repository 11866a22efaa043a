"""One exchange of ccxt, with our addresses, clock and errors.

ccxt is an extra of the package (`tickerplant[ccxt]`). Its import takes seconds and happens only when an exchange is
created. Its errors are converted according to their class in `ccxt.base.errors` and the HTTP status.
"""

from __future__ import annotations

import importlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

from tickerplant.core.clock import Clock
from tickerplant.core.errors import ConfigError, MissingExtra
from tickerplant.market_data.vendors.bounds import retry_after
from tickerplant.market_data.vendors.errors import (
    BadKey,
    BadRequest,
    Burst,
    Malformed,
    NotEntitled,
    QuotaSpent,
    UnknownSymbol,
    VendorDown,
    VendorError,
)
from tickerplant.market_data.vendors.http_body import BodyCollector

T = TypeVar("T")

MAX_BYTES: Final = 64 << 20
"""Maximum bytes of an answer: the list of markets of a large exchange has 20 MB."""
_TIMEOUT_S: Final = 30.0
_LEAST_TIMEOUT_S: Final = 10.0  # by the machine's clock: a fast clock does not make the network faster
_BURST_S: Final = 60.0  # a requested wait up to this length counts as a burst, not as a spent quota
_BANNED_S: Final = 600.0
_TOO_FAST_S: Final = 10.0
_MARKETS_FOR_S: Final = 6 * 3_600.0


class Exchange:
    """One exchange. `spot_alone`: markets at other addresses than the spot market's are not loaded.

    Raises ConfigError if ccxt is not installed or has no such exchange.
    """

    def __init__(self, name: str, clock: Clock, url: str = "", *, spot_alone: bool = True) -> None:
        self.id = name
        self._clock = clock
        self._library = _import()
        if name not in self._library.exchanges:
            raise ConfigError(f"ccxt has no exchange {name!r}; use one of `ccxt.exchanges`")
        timeout_s = max(clock.real_s(_TIMEOUT_S), _LEAST_TIMEOUT_S)
        made = _subclass(getattr(self._library, name), self._library.BadResponse)
        self.own: Any = made({"enableRateLimit": True, "timeout": int(1_000 * timeout_s)})
        if clock.speed != 1.0:
            self.own.rateLimit = clock.real_s(self.own.rateLimit)
            self.own.rollingWindowSize = clock.real_s(self.own.rollingWindowSize)
            self.own.tokenBucket = None
            self.own.init_rest_rate_limiter()
        if url:
            self.own.urls["api"] = _redirected(self.own.urls["api"], url)
            if url.startswith("http:"):
                self.own.timeout_on_exit = 0  # plain HTTP needs no wait for the end of TLS connections
        if spot_alone and "fetchMarkets" in self.own.options:
            self.own.options["fetchMarkets"] = {"types": ["spot"]}
        self._markets_s = 0.0
        self._closed = False

    async def ask(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Return the result of `work`, which is called with ccxt's exchange. Raises only VendorError.

        If a symbol is unknown and the markets were loaded over six hours ago, they are loaded again. `work` is then
        called again.
        """
        if self._closed:
            raise VendorDown("the provider is closed")
        try:
            return await self._ask(work)
        except UnknownSymbol:
            if self._clock.monotonic() - self._markets_s < _MARKETS_FOR_S:
                raise
            await self._ask(self._load)
            return await self._ask(work)

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        self._closed = True
        await self.own.close()

    async def _load(self, own: Any) -> None:
        await own.load_markets(True)
        self._markets_s = self._clock.monotonic()

    async def _ask(self, work: Callable[[Any], Awaitable[T]]) -> T:
        own = self.own
        own.last_status, own.last_response_headers = 0, {}
        try:
            if not own.markets:
                await self._load(own)
            return await work(own)
        except VendorError:
            raise
        except self._library.BaseError as error:
            raise self.error_of(error) from None
        except OSError as error:
            raise VendorDown(f"{self.id}: {type(error).__name__}: {error}") from None
        except Exception as error:  # a library may raise any error for an answer of unknown form
            raise Malformed(f"ccxt cannot read the answer of {self.id}: {type(error).__name__}: {error}") from None

    def error_of(self, error: Exception) -> VendorError:
        """Return the VendorError for an error of ccxt."""
        known, status = self._library, self.own.last_status
        text = f"{type(error).__name__}: {str(error)[:300]}"
        if isinstance(error, known.DDoSProtection | known.RateLimitExceeded):
            return self._too_fast(text, banned=status == 418)
        if isinstance(error, known.BadSymbol):
            return UnknownSymbol(text)
        if status == 451 or isinstance(error, known.PermissionDenied | known.RestrictedLocation):
            return NotEntitled(text)
        if isinstance(error, known.AuthenticationError):
            return BadKey(text)
        if isinstance(error, known.BadResponse):
            return Malformed(text)
        if isinstance(error, known.OperationFailed) and status not in (400, 404, 405):
            return VendorDown(text)
        if isinstance(error, known.BadRequest | known.NotSupported | known.ArgumentsRequired) or 400 <= status < 500:
            return BadRequest(text)
        return Malformed(text)

    def _too_fast(self, text: str, *, banned: bool) -> VendorError:
        headers = {str(name).lower(): value for name, value in (self.own.last_response_headers or {}).items()}
        asked_s, note = retry_after({"retry-after": str(headers.get("retry-after", ""))}, self._clock.now_us())
        wait_s = asked_s if asked_s is not None else _BANNED_S if banned else _TOO_FAST_S
        refused = Burst(text, wait_s) if wait_s <= _BURST_S else QuotaSpent(text, wait_s)
        refused.with_note(note)
        return refused


def _import() -> Any:
    try:
        return importlib.import_module("ccxt.async_support")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ccxt":
            raise
        raise MissingExtra("a crypto exchange", "ccxt") from None


def _subclass(base: Any, malformed: type[Exception]) -> Any:
    """Return a class of the exchange that stores the last HTTP status and rejects answers with invalid JSON."""

    class StatusExchange(base):  # type: ignore[misc]
        last_status = 0
        last_text: Any = None
        session: Any

        def open(self) -> None:
            import aiohttp

            if self.session is None:  # ccxt's own session uses an option that newer versions of aiohttp deprecate
                context = ssl.create_default_context(cafile=self.cafile)
                connector = aiohttp.TCPConnector(ssl=context)
                self.session = aiohttp.ClientSession(connector=connector, response_class=_bounded_response())
            super().open()

        def on_rest_response(self, code: Any, *args: Any, **options: Any) -> Any:
            self.last_status = code
            self.last_text = super().on_rest_response(code, *args, **options)
            return self.last_text

        def parse_json(self, text: Any) -> Any:
            found = super().parse_json(text)
            if found is None and text is self.last_text and 200 <= self.last_status < 300:
                # Some parsers convert invalid JSON to an empty list, which would mean that there is no data.
                raise malformed(f"{self.id} answers with invalid JSON: {str(text)[:100]!r}")
            return found

    return StatusExchange


def _bounded_response() -> Any:
    """Return a class of aiohttp's answers that reads at most `MAX_BYTES` after decoding.

    A longer answer raises Malformed. aiohttp decodes only one encoding, so a body with several encodings is not valid
    JSON.
    """
    import aiohttp

    class BoundedResponse(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            if self._body is None:
                body = BodyCollector(MAX_BYTES)
                try:
                    async for part in self.content.iter_any():
                        body.add(part)
                except BaseException:
                    self.close()
                    raise
                self._body = body.content()
            return await super().read()

    return BoundedResponse


def _redirected(addresses: Any, url: str) -> Any:
    """Return the addresses of an exchange with the scheme and host of `url`, and its path as a prefix."""
    if isinstance(addresses, dict):
        return {name: _redirected(address, url) for name, address in addresses.items()}
    if not isinstance(addresses, str):
        return addresses
    target, own = urlsplit(url), urlsplit(addresses)
    path = target.path.rstrip("/") + own.path
    return urlunsplit(own._replace(scheme=target.scheme, netloc=target.netloc, path=path))
