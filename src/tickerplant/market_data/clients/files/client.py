"""A folder of files as a provider: bars that the user has already, for the backfill to fill gaps from."""

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
from tickerplant.market_data.files.archive import Archive, Found, Held
from tickerplant.market_data.files.rows import KEPT, Reading
from tickerplant.market_data.files.times import zone
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
"""In one request, so that a file of many symbols is read less often: a million bars, 100 MB, at worst."""
_LOOK_S: Final = 5.0
"""So often the folder is looked at for files that are new or changed."""
_OPTIONS: Final = ("path", "interval", "tz", "date_order")


def provider(context: ProviderContext) -> FilesProvider:
    """Return the provider.

    Options: `path`, a folder or a file of CSV, Parquet or DBN; `interval` (1m, 5m, 1d), `tz` and `date_order` (mdy,
    dmy) for files that do not say theirs. Raises ConfigError for others, and without a path that is there.
    """
    unknown = sorted(set(context.options) - set(_OPTIONS))
    if unknown:
        raise ConfigError(f"the vendor {context.name} has no option {unknown[0]!r}; it has {', '.join(_OPTIONS)}")
    return FilesProvider(context)


class FilesProvider:
    """The vendor; see `vendors.port.Provider`. Files are looked at with the first request, in a thread.

    A file that cannot be read is told in one line of the log, with the reason, and again when it has changed.
    """

    offer = Offer(bars=tuple(BarsOffer(length.name, page_bars=PAGE_BARS, symbols=MAX_SYMBOLS) for length in KEPT))

    def __init__(self, context: ProviderContext) -> None:
        self.name = context.name
        self._clock = context.clock
        self._archive = Archive(*_place_of(context))
        self._looked_s: float | None = None
        self._lock = asyncio.Lock()

    def cost(self, request: BarsRequest) -> int:
        """Return 0: there is no quota."""
        return 0

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        """Return what the files have. Raises VendorError for what concerns all of it."""
        if not request.symbols or self.offer.of(request.interval) is None or request.end_us <= request.start_us:
            raise BadRequest(f"symbols and a stretch of {', '.join(length.name for length in KEPT)} are asked for")
        async with self._lock:
            try:
                return await asyncio.to_thread(self._answer, request, self._clock.now_us())
            except OSError as error:
                raise VendorDown(f"the files cannot be read: {error}") from None

    async def actions(self, symbol: str, from_us: int, to_us: int) -> ActionsAnswer:
        """Raise NotEntitled: files have no splits and dividends."""
        raise NotEntitled("files have no splits and dividends")

    def stream(self, symbols: Sequence[str]) -> TickStream | None:
        """Return None: there is no such offer."""
        return None

    async def close(self) -> None:
        """Do nothing: files are open only while they are read."""

    # In a thread -----------------------------------------------------------------------------------------------------

    def _answer(self, request: BarsRequest, now_us: int) -> BarsAnswer:
        now_s = self._clock.monotonic()
        if self._looked_s is None or now_s - self._looked_s >= _LOOK_S:
            self._tell(self._archive.look())
            self._looked_s = now_s
        length_us = intervals.parse(request.interval).us
        over_us = now_us - now_us % length_us
        to_us = min(request.end_us, over_us)  # no bar that is not over
        found, failed = self._archive.bars(request.symbols, request.interval, request.start_us, to_us, self.name)
        self._tell(failed)
        known = self._archive.symbols
        answers = {symbol: self._found(found, symbol, known) for symbol in request.symbols}
        covers = {symbol: (one.from_us, one.to_us) for symbol, one in found.items()}
        return BarsAnswer(answers, covers)

    def _found(self, found: Mapping[str, Found], symbol: str, known: set[str]) -> pa.RecordBatch | VendorError:
        one = found.get(symbol)
        if one is not None and one.bars is not None and one.bars.num_rows:
            return one.bars
        if symbol in known:
            return NoData(f"no file has bars of {symbol} there")
        return UnknownSymbol(f"no file has bars of {symbol}")

    def _tell(self, looked: Sequence[Held]) -> None:
        for held in looked:
            if held.why_not is not None:
                log.warning("file not read", vendor=self.name, file=str(held.path), reason=_as_option(held.why_not))
            elif held.broken:
                log.warning("rows of a file not read", vendor=self.name, file=str(held.path), rows=held.broken)


def _place_of(context: ProviderContext) -> tuple[Path, Reading]:
    options = context.options
    if not options.get("path"):
        raise ConfigError(f"the vendor {context.name} needs the option path: a folder or a file of bars")
    path = Path(options["path"]).expanduser()
    if not path.exists():
        raise ConfigError(f"the vendor {context.name} has the path {path}, where nothing is")
    interval, order = options.get("interval"), options.get("date_order")
    try:
        length = intervals.parse(interval) if interval else None
        if length is not None and length not in KEPT:
            raise BadInput(f"the plant keeps bars of {', '.join(kept.name for kept in KEPT)}, not of {length}")
        if order not in (None, "mdy", "dmy"):
            raise BadInput(f"a date_order is mdy or dmy, not {order!r}")
        tz = zone(options["tz"]) if options.get("tz") else None
    except BadInput as error:
        raise ConfigError(f"the vendor {context.name}: {error}") from None
    return path, Reading(interval=length.name if length is not None else None, tz=tz, date_order=order)


def _as_option(reason: str) -> str:
    """Return a reason that names options of a command with those of the vendor.

    >>> _as_option("say which with --date-order")
    'say which with the option date_order'
    """
    return re.sub(r"--([a-z]+)(?:-([a-z]+))?", lambda m: "the option " + "_".join(filter(None, m.groups())), reason)
