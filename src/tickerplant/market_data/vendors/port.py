"""The plug-in port: a vendor's offer, requests and answers. A package adds a vendor by an entry point.

The group is `tickerplant.providers`. The entry point is a factory, `Callable[[ProviderContext], Provider]`; its name is
the name of the vendor in the settings:

    [project.entry-points."tickerplant.providers"]
    acme = "acme_tickerplant:provider"

A provider sends requests and parses answers. It counts no quota, repeats no request and chooses no data. The request
scheduler (`vendors.scheduler`) debits the quota before each request, and the backfill plans the requests. Methods raise
only the classes of `vendors.errors`. A key is never part of a message or a log line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import pyarrow as pa

from tickerplant.core.clock import Clock
from tickerplant.core.quota import Quota as Quota
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.market_data.feed.dead_letters import DeadRow
from tickerplant.market_data.vendors.errors import VendorError
from tickerplant.market_data.vendors.renamed import renamed_fields
from tickerplant.system_clock import SystemClock

ENTRY_POINTS: Final = "tickerplant.providers"
"""Group of the entry points of vendors."""

STREAM, INTRADAY, DAILY, ACTIONS = "stream", "intraday", "daily", "actions"
KINDS: Final = (STREAM, INTRADAY, DAILY, ACTIONS)
"""Kinds of data; the settings have an order of vendors for each."""


def kind_of(interval: str) -> str:
    """Return the kind of data of an interval's bars: INTRADAY or DAILY."""
    return DAILY if interval in ("1d", "1w") else INTRADAY


# Offer ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BarsOffer:
    """The bars of one interval that a vendor offers.

    `page_bars`: maximum bars of a symbol in one answer. `page_us`: maximum range of one answer; None if there is no
    limit. `lookback_us`: maximum age; None if no limit is known. `symbols`: maximum symbols of one request.
    """

    interval: str
    page_bars: int
    page_us: int | None = None
    lookback_us: int | None = None
    symbols: int = 1


@dataclass(frozen=True, slots=True)
class Offer:
    """Everything that a vendor offers. `quotas`: quotas of its free plan; the settings may replace them.

    `pace_s`: minimum seconds between two requests. `actions`: splits and dividends are offered, for `actions_credits`
    credits per symbol. `stream`: a live stream is offered. `markets`: shell patterns of the symbols that the vendor may
    have; a crypto exchange has no `AAPL`.
    """

    bars: tuple[BarsOffer, ...] = ()
    quotas: tuple[Quota, ...] = ()
    pace_s: float = 0.0
    actions: bool = False
    stream: bool = False
    markets: tuple[str, ...] = ("*",)
    actions_credits: int = 1

    def of(self, interval: str) -> BarsOffer | None:
        """Return the offer of an interval's bars; None if they are not offered."""
        return next((offer for offer in self.bars if offer.interval == interval), None)


# Bars and corporate actions ------------------------------------------------------------------------------------------


@renamed_fields(from_us="start_us", to_us="end_us")
@dataclass(frozen=True, slots=True)
class BarsRequest:
    """A request for bars of some symbols that start in `[start_us, end_us)`, within the limits of the offer."""

    symbols: Sequence[str]
    interval: str
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class Credits:
    """The credits in an answer's headers: of the minute, or of the day if `daily`.

    `used`, `left`: None if the header is missing or invalid.
    `problem`: a note about an invalid header, which the vendor's status shows; "" if there is none.
    """

    used: int | None = None
    left: int | None = None
    daily: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class BarsAnswer:
    """The answer to a request for bars.

    `found`: for each symbol of the request its bars or its error. Bars are `schemas.VENDOR_BARS`, as traded, stamped at
    the start, oldest first. All are within the request and closed by the vendor's clock. `covers`: for each symbol the
    range that the answer completes, if shorter than the request. Causes are a full page, and a plan with a shorter
    history. The other part is requested again. Set the true range even if it has no bars. A vendor whose answer covers
    none of the missing bars gets no request for that series for an hour. `splits`, `dividends`: the actions that the
    answer contained (`schemas.SPLITS`, `DIVIDENDS`).
    """

    found: Mapping[str, pa.RecordBatch | VendorError]
    covers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    credits: Credits = Credits()
    splits: pa.RecordBatch | None = None
    dividends: pa.RecordBatch | None = None


@dataclass(frozen=True, slots=True)
class ActionsAnswer:
    """Splits (`schemas.SPLITS`) and dividends (`schemas.DIVIDENDS`) of one symbol; batches may be empty."""

    splits: pa.RecordBatch
    dividends: pa.RecordBatch
    credits: Credits = Credits()


# Streams -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection is open and its subscription is sent."""

    at_us: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is closed, or has delivered nothing since `since_us`."""

    since_us: int
    reason: str


@dataclass(frozen=True, slots=True)
class KeyRejected:
    """The vendor rejected the key. The stream tries again, each time after its longest pause."""

    reason: str


@dataclass(slots=True)
class Ticks:
    """Messages that arrived together, parsed. `received_us`: the time of arrival by our clock.

    `batch`: ticks (`schemas.TICKS`); None if there are none. `dead`: messages that could not be parsed. `rejected`:
    symbols that the vendor does not deliver, with the reason. `notes`: warnings for the log. `messages`: count of all
    messages. `gap`: range `[start, end)` whose ticks were missed on a live connection, before `batch`; None if there
    was none. `unwanted`: count of messages of symbols that were not requested; they are not in `batch`. `control`:
    count of messages without a tick, such as heartbeats; set it only if the vendor sends few of them. `waited_s`: time
    for which the first message has waited for the others, in seconds of the machine's clock.
    """

    received_us: int
    batch: pa.RecordBatch | None = None
    dead: list[DeadRow] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    messages: int = 0
    gap: tuple[int, int] | None = None
    unwanted: int = 0
    control: int = 0
    waited_s: float = 0.0


StreamEvent: TypeAlias = Connected | Ticks | Disconnected | KeyRejected


class TickStream(Protocol):
    """One live stream of ticks that reconnects by itself."""

    async def run(self, out: asyncio.Queue[StreamEvent]) -> None:
        """Connect, subscribe and put events on `out`, again and again, until cancelled.

        Never raises for errors of the network or the vendor. `out` is bounded: while it is full, the stream reads
        nothing more. An event contains whole columns; only the parser may create an object per tick.
        """
        ...


# The port ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProviderContext:
    """The arguments of a factory. `key`: "" if none is set. `options`: the vendor's options from the settings, as text.

    `url`, `stream_url`: addresses to use instead of the vendor's own (a sandbox, a proxy); "" for the vendor's own.
    `rules`: the rules, whose calendars define when a stream expects prices. `gather_s`: time for which a stream may
    gather messages before it parses them, in seconds of the machine's clock, while few arrive.
    """

    name: str
    key: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    stream_url: str = ""
    clock: Clock = field(default_factory=SystemClock)
    rules: Rules = DEFAULT_RULES
    gather_s: float = 0.0


class Provider(Protocol):
    """A vendor. `name` is the `source` of all its rows."""

    name: str
    offer: Offer

    def cost(self, request: BarsRequest) -> int:
        """Return the credits that the vendor charges for the request."""
        ...

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        """Send one request for bars. Raises VendorError for an error of the whole request."""
        ...

    async def actions(self, symbol: str, start_us: int, end_us: int) -> ActionsAnswer:
        """Send one request for splits and dividends. Raises VendorError; NotEntitled if they are not offered."""
        ...

    def stream(self, symbols: Sequence[str]) -> TickStream | None:
        """Return a stream of these symbols' ticks, or None if the vendor offers no stream."""
        ...

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        ...
