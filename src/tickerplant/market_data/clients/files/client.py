"""A folder of files as a provider: the backfill fills gaps from the user's own bars."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import structlog

from tickerplant.core import interval as intervals
from tickerplant.core.errors import BadInput, ConfigError
from tickerplant.core.time_column import check_zone
from tickerplant.market_data.files.bar_folder import BarFolder, FoundBars, IndexedFile
from tickerplant.market_data.files.numbers import DECIMALS
from tickerplant.market_data.files.options import INTERVAL_NAMES, INTERVALS, ReadOptions
from tickerplant.market_data.vendors.errors import (
    BadRequest,
    NoData,
    NotEntitled,
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
    TickStream,
)

log = structlog.get_logger(__name__)

PAGE_BARS: Final = 50_000
MAX_SYMBOLS: Final = 20
"""Maximum symbols per request: at most a million bars (PAGE_BARS each), 100 MB. The symbols of a request share one
read of each file."""
_SCAN_EVERY_S: Final = 5.0
"""Minimum seconds between two scans of the folder for new or changed files."""
_OPTIONS: Final = ("path", "interval", "tz", "date_order", "columns", "decimal", "force_interval")


def provider(context: ProviderContext) -> FilesProvider:
    """Return the provider.

    Option `path`: a folder or a file of CSV, Parquet or DBN. Options `interval` (1m, 5m, 1d), `tz` and `date_order`
    (mdy, dmy): values for files without their own. Option `columns`: `close=Settle, clock=Hora`, for columns of other
    names. Option `decimal`: `point` or `comma`. Option `force_interval` (true, false): read bars whose times do not fit
    their interval. Raises ConfigError for an unknown, missing or invalid option.
    """
    unknown = sorted(set(context.options) - set(_OPTIONS))
    if unknown:
        raise ConfigError(f"the vendor {context.name} has no option {unknown[0]!r}; use one of {', '.join(_OPTIONS)}")
    return FilesProvider(context)


class FilesProvider:
    """The vendor; see `vendors.port.Provider`. The first request scans the files, in a thread.

    A file that cannot be read is logged once, with the reason, and again after it has changed.
    """

    offer = Offer(bars=tuple(BarsOffer(length.name, page_bars=PAGE_BARS, symbols=MAX_SYMBOLS) for length in INTERVALS))

    def __init__(self, context: ProviderContext) -> None:
        self.name = context.name
        self._clock = context.clock
        path, options, force_interval = _folder_arguments(context)
        self._folder = BarFolder(path, options, force_interval=force_interval)
        self._scanned_s: float | None = None
        self._lock = asyncio.Lock()

    def cost(self, request: BarsRequest) -> int:
        """Return 0: there is no quota."""
        return 0

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        """Return the bars of the files. Raises VendorError for an error of the whole request."""
        if not request.symbols or self.offer.of(request.interval) is None or request.end_us <= request.start_us:
            raise BadRequest(f"a request needs symbols, a non-empty range and one of {INTERVAL_NAMES}")
        async with self._lock:
            try:
                return await asyncio.to_thread(self._answer, request, self._clock.now_us())
            except OSError as error:
                raise VendorDown(f"the files cannot be read: {error}") from None

    async def actions(self, symbol: str, start_us: int, end_us: int) -> ActionsAnswer:
        """Raise NotEntitled: files contain no splits or dividends."""
        raise NotEntitled("files have no splits or dividends")

    def stream(self, symbols: Sequence[str]) -> TickStream | None:
        """Return None: files have no stream."""
        return None

    async def close(self) -> None:
        """Return at once: files are open only while they are read."""

    # In a thread -----------------------------------------------------------------------------------------------------

    def _answer(self, request: BarsRequest, now_us: int) -> BarsAnswer:
        now_s = self._clock.monotonic()
        if self._scanned_s is None or now_s - self._scanned_s >= _SCAN_EVERY_S:
            self._log_problems(self._folder.scan())
            self._scanned_s = now_s
        length_us = intervals.parse(request.interval).us
        finished_us = now_us - now_us % length_us
        end_us = min(request.end_us, finished_us)  # closed bars only
        found, failed = self._folder.bars(request.symbols, request.interval, request.start_us, end_us, self.name)
        self._log_problems(failed)
        for symbol, one in found.items():
            if one.conflict is not None:
                log.warning(
                    "a bar has several rows with different values; keep one of them",
                    vendor=self.name,
                    symbol=symbol,
                    reason=one.conflict,
                )
        known = self._folder.symbols
        answers = {symbol: self._found(found, symbol, known) for symbol in request.symbols}
        covers = {symbol: (one.start_us, one.end_us) for symbol, one in found.items()}
        return BarsAnswer(answers, covers)

    def _found(self, found: Mapping[str, FoundBars], symbol: str, known: set[str]) -> pa.RecordBatch | VendorError:
        one = found.get(symbol)
        if one is not None and one.bars is not None and one.bars.num_rows:
            return one.bars
        if symbol in known:
            return NoData(f"no file has bars of {symbol} in the range")
        return UnknownSymbol(f"no file has bars of {symbol}")

    def _log_problems(self, files: Sequence[IndexedFile]) -> None:
        for file in files:
            if file.error is not None:
                log.warning(
                    "a file cannot be read; correct it or remove it from the folder",
                    vendor=self.name,
                    file=str(file.path),
                    reason=_as_option(file.error),
                )
            elif file.broken:
                first = _as_option(file.first_reason)
                log.warning(
                    "rows of a file cannot be read; correct or delete them",
                    vendor=self.name,
                    file=str(file.path),
                    rows=file.broken,
                    first=first,
                )
            for choice in file.choices if file.error is None else ():
                log.info(
                    "a file has two readings, and one was chosen", vendor=self.name, file=str(file.path), choice=choice
                )


def _folder_arguments(context: ProviderContext) -> tuple[Path, ReadOptions, bool]:
    """Return the path, the options for reading, and True if the interval is forced. Raises ConfigError."""
    options = context.options
    if not options.get("path"):
        raise ConfigError(f"the vendor {context.name} needs the option path: a folder or a file of bars")
    path = Path(options["path"]).expanduser()
    if not path.exists():
        raise ConfigError(f"the vendor {context.name} has the path {path}, which does not exist; correct it")
    interval, order = options.get("interval"), options.get("date_order")
    try:
        length = intervals.parse(interval) if interval else None
        if length is not None and length not in INTERVALS:
            raise BadInput(f"the option interval is {length}; use one of {INTERVAL_NAMES}")
        if order not in (None, "mdy", "dmy"):
            raise BadInput(f"the option date_order is {order!r}; use mdy or dmy")
        if options.get("decimal") not in (None, *DECIMALS):
            raise BadInput(f"the option decimal is {options['decimal']!r}; use {' or '.join(DECIMALS)}")
        force = options.get("force_interval", "false").lower()
        if force not in ("true", "false"):
            raise BadInput(f"the option force_interval is {options['force_interval']!r}; use true or false")
        columns = _columns(options.get("columns", ""))
        tz = check_zone(options["tz"]) if options.get("tz") else None
    except BadInput as error:
        raise ConfigError(f"the vendor {context.name}: {error}") from None
    read_options = ReadOptions(
        interval=length.name if length is not None else None,
        tz=tz,
        date_order=order,
        columns=columns,
        decimal=options.get("decimal"),
    )
    return path, read_options, force == "true"


def _columns(text: str) -> tuple[tuple[str, str], ...]:
    """Return the pairs of role and column of the option `columns`. Raises BadInput for a text of another form."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(role.strip() and name.strip() for role, _, name in pairs):
        raise BadInput(f"the option columns is {text!r}; use pairs such as close=Settle, separated by commas")
    return tuple((role.strip().lower(), name.strip()) for role, _, name in pairs)


def _as_option(reason: str) -> str:
    """Return a reason with the vendor's options in place of the options of the command line.

    >>> _as_option("set it with --date-order")
    'set it with the option date_order'
    """
    reason = reason.replace("--column ", "--columns ")
    return re.sub(r"--([a-z]+)(?:-([a-z]+))?", lambda m: "the option " + "_".join(filter(None, m.groups())), reason)
