"""Yahoo as a provider, through yfinance: bars with their splits and dividends. No key is used.

yfinance is written for one user in a notebook: its session, cookies, caches and the switch for exceptions are global.
All our calls therefore run one at a time, in a thread of each provider. Each provider has its own data object (session,
cookie and crumb), and the switch is reset after each call. A call affects other code that uses yfinance in this
process: the switch is set during the call. The folder of the caches affects such code too, unless it imported yfinance
first and the option `cache` is not set.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from tickerplant.core.clock import Clock
from tickerplant.core.times import DAY_US, HOUR_US, SECOND_US, Float64Array, Int64Array
from tickerplant.market_data.clients.yahoo.messages import (
    DELAY_US,
    INTERVAL_NAMES,
    MARKETS,
    NOTHING,
    Columns,
    Splits,
    dividend_currencies,
    error_of,
    raise_error,
    read_actions,
    read_columns,
    yahoo_symbol,
)
from tickerplant.market_data.vendors.bounds import SHOWN_CHARS, is_same_symbol, retry_after, shortened
from tickerplant.market_data.vendors.columns import no_bars
from tickerplant.market_data.vendors.errors import (
    BadRequest,
    Burst,
    Malformed,
    NoData,
    QuotaSpent,
    UnknownSymbol,
    VendorDown,
    VendorError,
)
from tickerplant.market_data.vendors.http_body import MAX_ANSWER_BYTES, BodyCollector, check_encoding
from tickerplant.market_data.vendors.port import (
    ActionsAnswer,
    BarsAnswer,
    BarsOffer,
    BarsRequest,
    Offer,
    ProviderContext,
    Quota,
    TickStream,
)
from tickerplant.system_clock import SystemClock

QUOTAS: Final = (Quota(2_000, HOUR_US),)
"""Assumed quota. Yahoo documents none, and users report rejections above this number."""

_LOOKBACK_DAYS: Final = {"1m": 8, "5m": 60, "15m": 60, "30m": 60, "1h": 730}
_MINUTES_PAGE_US: Final = 7 * DAY_US
_SPLITS_BACK_US: Final = 740 * DAY_US  # longer than the history of intraday bars
_SPLITS_FOR_S: Final = 3 * 3_600.0
_REJECTED_S: Final = 600.0
_BURST_S: Final = 60.0  # a requested wait up to this length counts as a burst, not as a spent quota
_TIMEOUT_S: Final = 30.0
_LEAST_TIMEOUT_S: Final = 10.0  # by the machine's clock: a fast clock does not make the network faster
_CHART: Final = "/v8/finance/chart/"

_library = threading.Lock()
"""Lock that is held during every call of yfinance."""
_ours = threading.local()


def provider(context: ProviderContext) -> YahooProvider:
    """Return the provider.

    Option `cache`: the folder of yfinance's caches (default: a temporary folder of the process, unless other code
    imported yfinance first). The first provider of a process sets the folder.
    """
    return YahooProvider(context)


@dataclass(frozen=True, slots=True)
class _CachedSplits:
    """The splits of a symbol, and the time of their request."""

    splits: Splits
    at_us: int


class YahooProvider:
    """The vendor; see `vendors.port.Provider`. The first request imports yfinance; the import takes a second."""

    offer = Offer(
        bars=(
            *(
                BarsOffer(
                    name,
                    page_bars=100_000,
                    page_us=_MINUTES_PAGE_US if name == "1m" else None,
                    lookback_us=days * DAY_US,
                )
                for name, days in _LOOKBACK_DAYS.items()
            ),
            BarsOffer("1d", page_bars=100_000),
        ),
        quotas=QUOTAS,
        pace_s=0.5,
        actions=True,
        markets=MARKETS,
    )

    def __init__(self, context: ProviderContext) -> None:
        self.name = context.name
        self._clock = context.clock
        self._url = context.url
        self._cache = context.options.get("cache", "")
        self._timeout_s = max(self._clock.real_s(_TIMEOUT_S), _LEAST_TIMEOUT_S)
        self._splits: dict[str, _CachedSplits] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="yahoo")
        self._yfinance: _Yfinance | None = None
        self._closed = False

    def cost(self, request: BarsRequest) -> int:
        """Return the credits: 1, and for intraday bars 1 more for each symbol whose splits are not cached."""
        if request.interval == "1d":
            return 1
        now_us = self._clock.now_us()
        return 1 + sum(self._cached_splits(symbol, now_us) is None for symbol in request.symbols)

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        """Request bars of one symbol. Raises VendorError for an error of the whole request."""
        name = INTERVAL_NAMES.get(request.interval)
        if len(request.symbols) != 1 or request.end_us <= request.start_us or name is None:
            raise BadRequest(f"a request needs one symbol, a non-empty range and one of {', '.join(INTERVAL_NAMES)}")
        symbol, now_us = request.symbols[0], self._clock.now_us()
        start_us, end_us = request.start_us, request.end_us
        try:
            if name == "1d":
                # The range ends today, to include later splits; it is a day longer at both ends, for any zone.
                columns = await self._ask(symbol, name, start_us - DAY_US, max(end_us, now_us) + DAY_US)
                splits = self._splits_of(symbol, columns, start_us, now_us)
            else:
                since = await self._splits_since(symbol, now_us)
                columns = await self._ask(symbol, name, start_us, end_us)
                splits = since.merged_with(columns)
            found = read_columns(columns, request, now_us, splits, self.name)
        except VendorError as error:
            if error.about_vendor or isinstance(error, BadRequest):
                raise
            settled_us = max(start_us, now_us - DELAY_US)
            if isinstance(error, NoData) and name != "1d" and end_us > settled_us:
                # Quotes of some exchanges are delayed: bars may still arrive.
                return BarsAnswer({symbol: no_bars(symbol, name, self.name)}, {symbol: (start_us, settled_us)})
            return BarsAnswer({symbol: error})
        return BarsAnswer(
            {symbol: found.bars}, {symbol: (start_us, found.until_us)}, splits=found.splits, dividends=found.dividends
        )

    async def actions(self, symbol: str, start_us: int, end_us: int) -> ActionsAnswer:
        """Request splits and dividends, which are part of daily bars up to now. Raises VendorError."""
        now_us = self._clock.now_us()
        try:
            columns = await self._ask(symbol, "1d", start_us - DAY_US, max(end_us, now_us) + DAY_US)
        except NoData:
            columns = NOTHING
        splits = self._splits_of(symbol, columns, start_us, now_us)
        return ActionsAnswer(*read_actions(columns, symbol, start_us, end_us, splits, self.name))

    def stream(self, symbols: Sequence[str]) -> TickStream | None:
        """Return None: Yahoo's stream is not supported."""
        return None

    async def close(self) -> None:
        """Close the connections after the current request. May be called twice."""
        if not self._closed:
            self._closed = True
            self._thread.submit(self._close)
            self._thread.shutdown(wait=False)

    def _cached_splits(self, symbol: str, now_us: int) -> Splits | None:
        cached = self._splits.get(symbol)
        return cached.splits if cached and 0 <= now_us - cached.at_us < _SPLITS_FOR_S * SECOND_US else None

    def _splits_of(self, symbol: str, columns: Columns, start_us: int, now_us: int) -> Splits:
        """Return the splits of daily columns up to now; cache them if they reach back far enough for intraday bars."""
        splits = Splits().merged_with(columns)
        if start_us <= now_us - _SPLITS_BACK_US:
            self._splits[symbol] = _CachedSplits(splits, now_us)
        return splits

    async def _splits_since(self, symbol: str, now_us: int) -> Splits:
        cached = self._cached_splits(symbol, now_us)
        if cached is not None:
            return cached
        start_us = now_us - _SPLITS_BACK_US
        columns = await self._ask(symbol, "1d", start_us - DAY_US, now_us + DAY_US)
        return self._splits_of(symbol, columns, start_us, now_us)

    async def _ask(self, symbol: str, name: str, start_us: int, end_us: int) -> Columns:
        if self._closed:
            raise VendorDown("the provider is closed")
        ask = partial(self._history, yahoo_symbol(symbol), name, start_us // SECOND_US, -(-end_us // SECOND_US))
        return await asyncio.get_running_loop().run_in_executor(self._thread, ask)

    # In the thread -------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        if self._yfinance is not None:
            self._yfinance.close()

    def _history(self, name: str, interval: str, start_s: int, end_s: int) -> Columns:
        """Return the result of `Ticker.history`. Raises VendorError."""
        with _library:
            _ours.here = True
            try:
                library = _import(self._cache)
                if self._yfinance is None:
                    self._yfinance = _Yfinance(library, self._url, self._clock)
            except (ImportError, AttributeError, OSError) as error:
                raise VendorDown(f"yfinance cannot be used: {type(error).__name__}: {error}") from error
            return self._yfinance.history(
                name,
                interval=interval,
                start=start_s or 1,  # yfinance treats 0 as None
                end=end_s,
                prepost=False,
                auto_adjust=False,
                timeout=self._timeout_s,
            )


class _Yfinance:
    """yfinance with a session and a data object of our own. Callers must hold the lock `_library`."""

    def __init__(self, library: Any, url: str, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self.session = _session(url)
        kind = library.data.YfData
        # The metaclass returns one object per process. This call makes another object, with its own cookie and crumb.
        self._data = type.__call__(kind, session=self.session)
        # The library's cache stores answers and failures by address, and uses the machine's clock.
        self._data.cache_get = self._data.get
        self._library = library

    def history(self, name: str, **options: Any) -> Columns:
        """Return the result of `Ticker.history`, with exceptions enabled during the call. Raises VendorError only."""
        debug = self._library.config.debug
        hidden = debug.hide_exceptions
        self.session.chart_status, self.session.retry_after, self.session.paid_in = 0, "", {}
        debug.hide_exceptions = False
        try:
            ticker = self._library.Ticker(name)
            if not hasattr(ticker, "_data") or not hasattr(getattr(ticker, "_quote", None), "_data"):
                raise Malformed("this version of yfinance has no known attribute for its connection")
            ticker._data = ticker._quote._data = self._data
            frame, meta = ticker.history(**options), ticker.history_metadata
            answered = meta.get("symbol")
            if isinstance(answered, str) and not is_same_symbol(name, answered):
                raise Malformed(f"the answer is for {shortened(answered, SHOWN_CHARS)!r} instead of {name}")
            return columns_of(frame, meta, self.session.paid_in)
        except VendorError:
            raise
        except Exception as error:  # a library may raise any error for an answer of unknown form
            raise self._error_of(error, self._clock.now_us()) from None
        finally:
            debug.hide_exceptions = hidden

    def close(self) -> None:
        """Close the connections."""
        self.session.close()

    def _error_of(self, error: Exception, now_us: int) -> VendorError:
        """Return the VendorError by the status of the last chart, or by the type of the exception."""
        known = self._library.exceptions
        status: int = self.session.chart_status
        text = f"{type(error).__name__}: {str(error)[:300]}"
        if status == 429 or isinstance(error, known.YFRateLimitError):
            return self._rate_limit(text, now_us)
        if status >= 500 or status in (401, 403, 408):
            return VendorDown(f"HTTP {status}: {text}")
        if isinstance(error, known.YFPricesMissingError):
            return error_of(error.yahoo_reason or "")
        if isinstance(error, known.YFTzMissingError):
            return UnknownSymbol(text)
        if isinstance(error, known.YFInvalidPeriodError):
            return BadRequest(text)
        if isinstance(error, known.YFDataException):
            return VendorDown(text)
        if isinstance(error, OSError):  # both backends of yfinance raise it for network errors
            return VendorDown(text)
        return Malformed(f"yfinance cannot read the answer: {text}")

    def _rate_limit(self, text: str, now_us: int) -> VendorError:
        asked_s, note = retry_after({"retry-after": self.session.retry_after}, now_us)
        wait_s = _REJECTED_S if asked_s is None else asked_s
        error = Burst(text, wait_s) if wait_s <= _BURST_S else QuotaSpent(text, wait_s)
        error.with_note(note)
        return error


def _session(url: str) -> Any:
    """Return a session for yfinance. If `url` is set, requests are sent there, and answers contain Yahoo's address.

    The session stores the status of the last chart, and the last `Retry-After`. It raises the error of a rejected
    chart; otherwise yfinance would retry with another cookie, and try two other addresses for an unknown symbol.
    """
    from yfinance import _http as http

    target = urlsplit(url) if url else None
    bounded = _bounded_curl if http.HAS_CURL_CFFI else _bounded_requests
    plain = http.new_session()
    base: Any = type(plain)

    class Session(base):  # type: ignore[misc]
        chart_status = 0
        retry_after = ""
        paid_in: Mapping[int, str] = {}

        def request(self, method: Any, url: str, *args: Any, **options: Any) -> Any:
            parts = urlsplit(url)
            address = url
            if target is not None:
                path = target.path.rstrip("/") + parts.path
                address = urlunsplit(parts._replace(scheme=target.scheme, netloc=target.netloc, path=path))
            answer = bounded(super().request, method, address, *args, **options)
            if target is not None:
                answer.url = url
            self.retry_after = answer.headers.get("retry-after") or self.retry_after
            if parts.path.startswith(_CHART):
                self.chart_status = answer.status_code
                if answer.status_code in (400, 404, 422):
                    raise_error(answer.status_code, answer.content)
                # yfinance drops the currencies of dividends, and would read an amount in USD as one in GBp.
                self.paid_in = dividend_currencies(answer.content)
            return answer

    if target is None and http.HAS_CURL_CFFI:
        session = Session(impersonate="chrome")
    else:
        session = Session()
        session.headers.update(plain.headers)
    plain.close()
    return session


def _bounded_curl(request: Any, *args: Any, **options: Any) -> Any:
    """Return the answer of a request by curl, with at most `MAX_ANSWER_BYTES` after decoding. Raises Malformed."""
    body, refused = BodyCollector(MAX_ANSWER_BYTES), []

    def add(part: bytes) -> int:
        try:
            return body.add(part)
        except Malformed as error:  # curl reports only that the write failed
            refused.append(error)
            return -1

    try:
        answer = request(*args, **options, content_callback=add)
    except Exception:
        if refused:
            raise refused[0] from None
        raise
    if refused:
        raise refused[0]
    check_encoding(answer.headers.get("content-encoding") or "")
    answer.content = body.content()
    return answer


def _bounded_requests(request: Any, *args: Any, **options: Any) -> Any:
    """Return the answer of the library `requests`, with at most `MAX_ANSWER_BYTES` after decoding. Raises Malformed."""
    answer = request(*args, **{**options, "stream": True})
    body = BodyCollector(MAX_ANSWER_BYTES)
    try:
        check_encoding(answer.headers.get("content-encoding") or "")
        for part in answer.iter_content(64 << 10):
            body.add(part)
    finally:
        answer.close()
    answer._content, answer._content_consumed = body.content(), True
    return answer


def columns_of(frame: Any, meta: Any, paid_in: Mapping[int, str] | None = None) -> Columns:
    """Return a frame of yfinance, its metadata and its dividends' currencies as columns.

    Raises errors of pandas for an invalid frame.
    """
    if not len(frame):
        return NOTHING

    def column(name: str) -> Float64Array:
        values: Float64Array = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        return values

    def us(index: Any) -> Int64Array:
        times: Int64Array = index.as_unit("us").asi8
        return times

    market, currency = meta.get("regularMarketTime"), meta.get("currency")
    seconds = market.timestamp() if hasattr(market, "timestamp") else market
    return Columns(
        time=us(frame.index.tz_convert("UTC")),
        local=us(frame.index.tz_localize(None)),
        open=column("Open"),
        high=column("High"),
        low=column("Low"),
        close=column("Close"),
        volume=column("Volume"),
        splits=column("Stock Splits"),
        dividends=column("Dividends"),
        currency=currency if isinstance(currency, str) else "",
        market_us=int(seconds * SECOND_US) if isinstance(seconds, int | float) else None,
        paid_in=paid_in or {},
    )


def _import(cache: str) -> Any:
    """Import and return yfinance.

    The first call in the process sets the folder of yfinance's caches, and hides the log lines of our calls.
    """
    was_imported = "yfinance" in sys.modules
    import yfinance
    import yfinance.data
    import yfinance.exceptions

    if not getattr(yfinance, _MARK, False):
        setattr(yfinance, _MARK, True)
        for name in ("yfinance", "peewee"):
            logging.getLogger(name).addFilter(_not_ours)
        if cache or not was_imported:
            yfinance.set_tz_cache_location(cache or _temporary())
        if not was_imported:
            # yfinance shows deprecation warnings of pandas for its own code.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="^yfinance")
    return yfinance


_MARK: Final = "_tickerplant_was_here"


def _not_ours(record: logging.LogRecord) -> bool:
    """Return False for log lines of our calls, by yfinance or its caches: the errors of these calls are raised."""
    return not getattr(_ours, "here", False)


def _temporary() -> str:
    folder = tempfile.mkdtemp(prefix="tickerplant-yfinance-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
