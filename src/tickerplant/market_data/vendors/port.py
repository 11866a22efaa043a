"""The provider port: what a vendor is to the plant. A package adds one by an entry point.

The group is `tickerplant.providers`, the entry point a factory, `Callable[[ProviderContext], Provider]`; its name is
the vendor's, as settings say it:

    [project.entry-points."tickerplant.providers"]
    acme = "acme_tickerplant:provider"

A provider asks the vendor and understands the answer, nothing more: it keeps no quota, does not retry, does not choose.
That is the desk's (`market_data.vendors`), which debits the budget before it asks, and the backfill manager's. Methods
raise the classes of `vendors.errors` and nothing else; keys stand in no message and no log.
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
from tickerplant.market_data.feed.writer import DeadRow
from tickerplant.market_data.vendors.errors import VendorError
from tickerplant.system_clock import SystemClock

ENTRY_POINTS: Final = "tickerplant.providers"

STREAM, INTRADAY, DAILY, ACTIONS = "stream", "intraday", "daily", "actions"
KINDS: Final = (STREAM, INTRADAY, DAILY, ACTIONS)
"""Kinds of data, for each of which there is an order of vendors."""


def kind_of(interval: str) -> str:
    """Return the kind of data that bars of an interval are: INTRADAY or DAILY."""
    return DAILY if interval in ("1d", "1w") else INTRADAY


# What it offers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BarsOffer:
    """The bars of one interval that a vendor gives.

    `page_bars`: at most so many a symbol in one answer; `page_us`: and of no longer a stretch (None: any).
    `lookback_us`: no further back than this from now (None: no limit is known). `symbols`: in one request.
    """

    interval: str
    page_bars: int
    page_us: int | None = None
    lookback_us: int | None = None
    symbols: int = 1


@dataclass(frozen=True, slots=True)
class Offer:
    """All that a vendor offers. `quotas`: by its free plan, unless settings say otherwise.

    `pace_s`: the least time between two requests. `actions`: splits and dividends can be asked for, for
    `actions_credits` a symbol. `stream`: it has one. `markets`: shell patterns of symbols that it may know (a crypto
    exchange knows no `AAPL`).
    """

    bars: tuple[BarsOffer, ...] = ()
    quotas: tuple[Quota, ...] = ()
    pace_s: float = 0.0
    actions: bool = False
    stream: bool = False
    markets: tuple[str, ...] = ("*",)
    actions_credits: int = 1

    def of(self, interval: str) -> BarsOffer | None:
        """Return the offer of an interval's bars, or None."""
        return next((offer for offer in self.bars if offer.interval == interval), None)


# Bars and corporate actions ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BarsRequest:
    """Bars of `[from_us, to_us)` (starts of bars) of some symbols; within what the offer allows."""

    symbols: Sequence[str]
    interval: str
    from_us: int
    to_us: int


@dataclass(frozen=True, slots=True)
class Credits:
    """What an answer's headers say of the quota, of the minute unless `daily`; None where they say nothing."""

    used: int | None = None
    left: int | None = None
    daily: bool = False


@dataclass(frozen=True, slots=True)
class BarsAnswer:
    """What a vendor answered.

    `found`: by symbol asked, bars (`schemas.VENDOR_BARS`, as traded, stamped at the start, oldest first, none of an
    interval that is not over by the vendor's clock, none outside of what was asked), or the error of that symbol.
    `covers`: the stretch that the answer speaks for, where that is not all that was asked (a page that was full, a plan
    that reaches less far back). The rest is asked for again; a vendor that speaks of nothing that was missing is left
    alone for an hour, so say what is true, be it an empty stretch.
    `splits`, `dividends`: those that came along (`schemas.SPLITS`, `DIVIDENDS`).
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
    """A connection is up, the subscription is sent."""

    at_us: int


@dataclass(frozen=True, slots=True)
class Received:
    """Messages that came together, as they came, and when by our clock."""

    texts: list[str | bytes]
    at_us: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone, or mute since `since_us`."""

    since_us: int
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The vendor turned the key away: trying goes on, at the longest pause."""

    reason: str


StreamEvent: TypeAlias = Connected | Received | Lost | Refused


@dataclass(slots=True)
class Said:
    """What messages said: prints (`schemas.TICKS`), what could not be read, symbols that the vendor does not bring.

    `notes`: what a person should know. `messages`: how many there were. `hole`: prints of `[from, to)` were missed
    though the connection lives, by their times; the prints said here come after it.
    """

    ticks: pa.RecordBatch | None = None
    dead: list[DeadRow] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    messages: int = 0
    hole: tuple[int, int] | None = None


class TickStream(Protocol):
    """One stream of prints, kept up."""

    async def run(self, out: asyncio.Queue[StreamEvent]) -> None:
        """Connect, subscribe, listen, and again, until cancelled. Never raises for what network or vendor do.

        `out` is bounded: while it is full nothing more is read.
        """
        ...

    def read(self, event: Received) -> Said:
        """Return what messages say. Whole columns; keeps what it needs of a connection (volumes so far)."""
        ...

    def reconnected(self) -> None:
        """Forget what belonged to the connection before."""
        ...


# The port ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProviderContext:
    """What a factory is given. `key`: "" if none is set. `options`: the vendor's part of the settings, as text.

    `url`, `stream_url`: where to ask instead of at the vendor's own address ("" for that): a sandbox, a proxy.
    `rules`: by their calendars a stream knows when prices can be expected.
    """

    name: str
    key: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    stream_url: str = ""
    clock: Clock = field(default_factory=SystemClock)
    rules: Rules = DEFAULT_RULES


class Provider(Protocol):
    """A vendor. `name` is the `source` of all it says."""

    name: str
    offer: Offer

    def cost(self, request: BarsRequest) -> int:
        """Return how many credits the request will take, by what the vendor says of it."""
        ...

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        """Ask for bars; one request. Raises VendorError for what concerns all of it."""
        ...

    async def actions(self, symbol: str, from_us: int, to_us: int) -> ActionsAnswer:
        """Ask for splits and dividends; one request. Raises VendorError (BadRequest where there is no such offer)."""
        ...

    def stream(self, symbols: Sequence[str]) -> TickStream | None:
        """Return a stream of these symbols' prints, or None where there is no such offer."""
        ...

    async def close(self) -> None:
        """Close the connections. Harmless twice."""
        ...
