"""Yahoo as a provider, through yfinance: bars, with the splits and dividends that come along. No key.

yfinance is a library for one user in a notebook: its session, cookies, caches and the switch for exceptions are the
process's. So all of our calls go one after the other, in a thread that is marked as ours; each provider has a data
object of its own (its session, cookie and crumb), and the exceptions are hidden again after each call. What another
user of yfinance in this process may notice is that switch, if he calls at the same moment, and, unless he was there
first, the folder of the caches.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from tickerplant.core.times import DAY_US, HOUR_US, SECOND_US, Float64Array, Int64Array
from tickerplant.market_data.clients.columns import no_bars
from tickerplant.market_data.clients.yahoo.messages import (
    DELAY_US,
    INTERVAL_NAMES,
    MARKETS,
    NOTHING,
    Columns,
    Splits,
    raise_refusal,
    read_actions,
    read_columns,
    refusal_of,
    yahoo_symbol,
)
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

QUOTAS: Final = (Quota(2_000, HOUR_US),)
"""Nothing is documented; this is where users report refusals to begin."""

_LOOKBACK_DAYS: Final = {"1m": 8, "5m": 60, "15m": 60, "30m": 60, "1h": 730}
_MINUTES_AT_ONCE_US: Final = 7 * DAY_US
_SPLITS_BACK_US: Final = 740 * DAY_US  # further than any intraday bar
_SPLITS_FOR_S: Final = 3 * 3_600.0
_REFUSED_S: Final = 600.0
_BURST_S: Final = 60.0  # what the vendor asks to wait for no longer than this is haste
_TIMEOUT_S: Final = 30.0
_LEAST_TIMEOUT_S: Final = 10.0  # by the machine's clock: a network is no faster because a clock is
_CHART: Final = "/v8/finance/chart/"

_library = threading.Lock()
"""Held by whoever is inside yfinance."""
_ours = threading.local()


def provider(context: ProviderContext) -> YahooProvider:
    """Return the provider. Option `cache`: the folder of yfinance's caches (default: one that goes with the process).

    Of several providers in a process the first says where the caches are.
    """
    return YahooProvider(context)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A symbol's splits of late, and when by the clock they were asked for."""

    splits: Splits
    at_us: int


class YahooProvider:
    """The vendor; see `vendors.port.Provider`. yfinance is imported with the first request (it takes a second)."""

    offer = Offer(
        bars=(
            *(
                BarsOffer(
                    name,
                    page_bars=100_000,
                    page_us=_MINUTES_AT_ONCE_US if name == "1m" else None,
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
        self._splits: dict[str, _Kept] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="yahoo")
        self._door: _Door | None = None
        self._closed = False

    def cost(self, request: BarsRequest) -> int:
        """Return one credit, and one for the splits since, where they are not known of late."""
        if request.interval == "1d":
            return 1
        now_us = self._clock.now_us()
        return 1 + sum(self._kept(symbol, now_us) is None for symbol in request.symbols)

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        """Ask for bars of one symbol. Raises VendorError for what concerns all of it."""
        name = INTERVAL_NAMES.get(request.interval)
        if len(request.symbols) != 1 or request.end_us <= request.start_us or name is None:
            raise BadRequest(f"one symbol and a stretch of {', '.join(INTERVAL_NAMES)} are asked for at a time")
        symbol, now_us = request.symbols[0], self._clock.now_us()
        from_us, to_us = request.start_us, request.end_us
        try:
            if name == "1d":
                # To the present day, for the splits since; and a day more at both ends, whatever the zone.
                columns = await self._ask(symbol, name, from_us - DAY_US, max(to_us, now_us) + DAY_US)
                splits = self._learn(symbol, columns, from_us, now_us)
            else:
                since = await self._splits_since(symbol, now_us)
                columns = await self._ask(symbol, name, from_us, to_us)
                splits = since.with_those_of(columns)
            said = read_columns(columns, symbol, request.interval, from_us, to_us, now_us, splits, self.name)
        except VendorError as error:
            if error.about_vendor or isinstance(error, BadRequest):
                raise
            settled_us = max(from_us, now_us - DELAY_US)
            if isinstance(error, NoData) and name != "1d" and to_us > settled_us:
                # Of an exchange whose quotes come late there may be something yet.
                return BarsAnswer({symbol: no_bars(symbol, name, self.name)}, {symbol: (from_us, settled_us)})
            return BarsAnswer({symbol: error})
        return BarsAnswer(
            {symbol: said.bars}, {symbol: (from_us, said.until_us)}, splits=said.splits, dividends=said.dividends
        )

    async def actions(self, symbol: str, from_us: int, to_us: int) -> ActionsAnswer:
        """Ask for splits and dividends, which come with days up to the present. Raises VendorError."""
        now_us = self._clock.now_us()
        try:
            columns = await self._ask(symbol, "1d", from_us - DAY_US, max(to_us, now_us) + DAY_US)
        except NoData:
            columns = NOTHING
        splits = self._learn(symbol, columns, from_us, now_us)
        return ActionsAnswer(*read_actions(columns, symbol, from_us, to_us, splits, self.name))

    def stream(self, symbols: Sequence[str]) -> TickStream | None:
        """Return None: its stream is not offered here."""
        return None

    async def close(self) -> None:
        """Close the connections, after the request that may be under way. Harmless twice."""
        if not self._closed:
            self._closed = True
            self._thread.submit(self._close)
            self._thread.shutdown(wait=False)

    def _kept(self, symbol: str, now_us: int) -> Splits | None:
        kept = self._splits.get(symbol)
        return kept.splits if kept and 0 <= now_us - kept.at_us < _SPLITS_FOR_S * SECOND_US else None

    def _learn(self, symbol: str, columns: Columns, from_us: int, now_us: int) -> Splits:
        """Return the splits of days up to now, and keep them if they reach back far enough for intraday bars."""
        splits = Splits().with_those_of(columns)
        if from_us <= now_us - _SPLITS_BACK_US:
            self._splits[symbol] = _Kept(splits, now_us)
        return splits

    async def _splits_since(self, symbol: str, now_us: int) -> Splits:
        kept = self._kept(symbol, now_us)
        if kept is not None:
            return kept
        from_us = now_us - _SPLITS_BACK_US
        columns = await self._ask(symbol, "1d", from_us - DAY_US, now_us + DAY_US)
        return self._learn(symbol, columns, from_us, now_us)

    async def _ask(self, symbol: str, name: str, from_us: int, to_us: int) -> Columns:
        if self._closed:
            raise VendorDown("the provider is closed")
        ask = partial(self._history, yahoo_symbol(symbol), name, from_us // SECOND_US, -(-to_us // SECOND_US))
        return await asyncio.get_running_loop().run_in_executor(self._thread, ask)

    # In the thread -------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        if self._door is not None:
            self._door.close()

    def _history(self, name: str, interval: str, from_s: int, to_s: int) -> Columns:
        """Return what `Ticker.history` says, its exceptions as ours."""
        with _library:
            _ours.here = True
            try:
                library = _import(self._cache)
                if self._door is None:
                    self._door = _Door(library, self._url)
            except (ImportError, AttributeError, OSError) as error:
                raise VendorDown(f"yfinance cannot be used: {type(error).__name__}: {error}") from error
            return self._door.history(
                name,
                interval=interval,
                start=from_s or 1,  # 0 is none to it
                end=to_s,
                prepost=False,
                auto_adjust=False,
                timeout=self._timeout_s,
            )


class _Door:
    """Our way into yfinance: a session and a data object that no other user of it has. Used with `_library` held."""

    def __init__(self, library: Any, url: str) -> None:
        self.session = _session(url)
        kind = library.data.YfData
        # Its metaclass hands out one object for the whole process: this is one beside it, for cookie and crumb.
        self._data = type.__call__(kind, session=self.session)
        # Its own cache keeps answers by their address, failures too, and goes by the machine's clock.
        self._data.cache_get = self._data.get
        self._library = library

    def history(self, name: str, **options: Any) -> Columns:
        """Return what `Ticker.history` says, with exceptions un-hidden meanwhile. Raises VendorError, nothing else."""
        debug = self._library.config.debug
        hidden = debug.hide_exceptions
        self.session.chart_status, self.session.retry_after = 0, ""
        debug.hide_exceptions = False
        try:
            ticker = self._library.Ticker(name)
            if not hasattr(ticker, "_data") or not hasattr(getattr(ticker, "_quote", None), "_data"):
                raise Malformed("this version of yfinance keeps its connection where it is not known")
            ticker._data = ticker._quote._data = self._data
            return columns_of(ticker.history(**options), ticker.history_metadata)
        except VendorError:
            raise
        except Exception as error:  # whatever a library meets in an answer of no known shape
            raise self._error_of(error) from None
        finally:
            debug.hide_exceptions = hidden

    def close(self) -> None:
        """Close the connections."""
        self.session.close()

    def _error_of(self, error: Exception) -> VendorError:
        """Return the error of ours: by the status of the last chart, then by the kind of exception."""
        known = self._library.exceptions
        status: int = self.session.chart_status
        text = f"{type(error).__name__}: {str(error)[:300]}"
        if status == 429 or isinstance(error, known.YFRateLimitError):
            return self._rate_limit(text)
        if status >= 500 or status in (401, 403, 408):
            return VendorDown(f"HTTP {status}: {text}")
        if isinstance(error, known.YFPricesMissingError):
            return refusal_of(error.yahoo_reason or "")
        if isinstance(error, known.YFTzMissingError):
            return UnknownSymbol(text)
        if isinstance(error, known.YFInvalidPeriodError):
            return BadRequest(text)
        if isinstance(error, known.YFDataException):
            return VendorDown(text)
        if isinstance(error, OSError):  # what both of its backends raise for a network
            return VendorDown(text)
        return Malformed(f"yfinance cannot read the answer: {text}")

    def _rate_limit(self, text: str) -> VendorError:
        told = self.session.retry_after
        wait_s = float(told) if told.isdecimal() and len(told) < 7 else _REFUSED_S
        return Burst(text, wait_s) if wait_s <= _BURST_S else QuotaSpent(text, wait_s)


def _session(elsewhere: str) -> Any:
    """Return a session of the kind that yfinance uses; with `elsewhere` it asks there, and says that Yahoo answered.

    It keeps the status of the last chart, and the last wish to wait (`Retry-After`). It raises what a refused chart
    says: yfinance would ask for another cookie, then once more, and of an unknown symbol two other addresses.
    """
    from yfinance import _http as http

    place = urlsplit(elsewhere) if elsewhere else None
    plain = http.new_session()
    base: Any = type(plain)

    class Session(base):  # type: ignore[misc]
        chart_status = 0
        retry_after = ""

        def request(self, method: Any, url: str, *args: Any, **options: Any) -> Any:
            parts = urlsplit(url)
            there = url
            if place is not None:
                path = place.path.rstrip("/") + parts.path
                there = urlunsplit(parts._replace(scheme=place.scheme, netloc=place.netloc, path=path))
            answer = super().request(method, there, *args, **options)
            if place is not None:
                answer.url = url
            self.retry_after = answer.headers.get("retry-after") or self.retry_after
            if parts.path.startswith(_CHART):
                self.chart_status = answer.status_code
                if answer.status_code in (400, 404, 422):
                    raise_refusal(answer.status_code, answer.content)
            return answer

    if place is None and http.HAS_CURL_CFFI:
        session = Session(impersonate="chrome")
    else:
        session = Session()
        session.headers.update(plain.headers)
    plain.close()
    return session


def columns_of(frame: Any, meta: Any) -> Columns:
    """Return a frame of yfinance and its metadata as columns. Raises what pandas raises for an odd one."""
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
    )


def _import(cache: str) -> Any:
    """Return yfinance. The first time, if no one else has brought it in, its caches get a folder, and it is quiet."""
    there_before = "yfinance" in sys.modules
    import yfinance
    import yfinance.data
    import yfinance.exceptions

    if not getattr(yfinance, _MARK, False):
        setattr(yfinance, _MARK, True)
        for name in ("yfinance", "peewee"):
            logging.getLogger(name).addFilter(_not_ours)
        if cache or not there_before:
            yfinance.set_tz_cache_location(cache or _temporary())
        if not there_before:
            # It shows deprecations of pandas in its own code to everybody.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="^yfinance")
    return yfinance


_MARK: Final = "_tickerplant_was_here"


def _not_ours(record: logging.LogRecord) -> bool:
    """Whether a line of yfinance's or of its caches' log is not about our calls: those raise what they have to say."""
    return not getattr(_ours, "here", False)


def _temporary() -> str:
    folder = tempfile.mkdtemp(prefix="tickerplant-yfinance-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
