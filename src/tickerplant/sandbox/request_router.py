"""The sandbox's counter: which vendor a request is for, whether it is let in, and what orders make of the answer.

Pure: time is an argument, sockets are the server's. What concerns no vendor, `/sandbox/…`, is answered here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tickerplant.core import interval as intervals
from tickerplant.core.errors import BadInput
from tickerplant.core.quota import Quota
from tickerplant.core.times import DAY_US, MINUTE_US, WEEK_US, datetime_of
from tickerplant.protocols.alphavantage.rest import AlphaVantage
from tickerplant.protocols.binance.rest import Binance
from tickerplant.protocols.http_types import (
    BURST,
    DAY,
    DOWN,
    MINUTE,
    PREMIUM,
    Refusal,
    Reply,
    Request,
    Vendor,
    json_reply,
)
from tickerplant.protocols.twelvedata.rest import TwelveData
from tickerplant.protocols.yahoo.chart import Yahoo
from tickerplant.sandbox.corporate_actions import NewSplit, Tape
from tickerplant.sandbox.fault_injector import malformed
from tickerplant.sandbox.fault_script import Order, Orders, planned, read_order
from tickerplant.sandbox.model import MarketSettings
from tickerplant.sandbox.quotas import Books
from tickerplant.system_clock import SystemClock

CONTROL: Final = "/sandbox/"
SLOW: Final = (f"{CONTROL}bars", f"{CONTROL}actions")
"""What may take long, and reads nothing that requests change: it may be answered in another thread."""
_BARS: Final = {"1m": MINUTE_US, "5m": 5 * MINUTE_US, "15m": 15 * MINUTE_US, "30m": 30 * MINUTE_US,
                "1h": 60 * MINUTE_US, "1d": DAY_US, "1w": WEEK_US}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """The sandbox's market and manners. `stamp` adds `sent_ns` (the clock at sending) to each message of the stream.

    `credits_per_minute`: Twelve Data's, 0 means no limit; `quotas` says it for every vendor, and `pace_s` the least
    time between two requests of a key. `errors_200`: Twelve Data's errors come with HTTP 200, as they sometimes do.
    `connections`: streams of a vendor that may be open; one more closes the oldest. `max_symbols`: of one connection to
    Twelve Data; 0: no limit. `clock`: the sandbox's own time. `script`: orders (see `sandbox.orders`) by seconds after
    the start; `chaos`: a seed of made-up troubles.
    """

    market: MarketSettings = field(default_factory=MarketSettings)
    stamp: bool = False
    credits_per_minute: int = 0
    errors_200: bool = False
    connections: int = 3
    max_symbols: int = 0
    clock: SystemClock = field(default_factory=SystemClock)
    quotas: Mapping[str, Sequence[Quota]] = field(default_factory=dict)
    pace_s: Mapping[str, float] = field(default_factory=dict)
    script: Sequence[tuple[float, str]] = ()
    chaos: int | None = None
    splits: Sequence[NewSplit] = ()

    def all_quotas(self) -> dict[str, Sequence[Quota]]:
        """Return the quotas by vendor, `credits_per_minute` among them."""
        quotas = dict(self.quotas)
        if self.credits_per_minute:
            quotas["twelvedata"] = (*quotas.get("twelvedata", ()), Quota(self.credits_per_minute, MINUTE_US))
        return quotas


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that was let in: what is to be answered, by whom, from what."""

    vendor: Vendor
    request: Request
    tape: Tape
    credits: int
    now_us: int

    def answer(self) -> Reply:
        """Return the vendor's answer. May take long; touches nothing that others change."""
        return self.vendor.answer(self.request, self.tape, self.now_us)


class Front:
    """Books, orders and vendors of a sandbox. To be used by one thread."""

    def __init__(self, settings: SandboxSettings, tape: Tape, now_us: int) -> None:
        self.tape = tape
        self.books = Books(settings.all_quotas(), settings.pace_s)
        plan = [(seconds, read_order(text)) for seconds, text in settings.script]
        script: Iterator[tuple[float, Order]] = planned(plan, settings.chaos)
        self.orders = Orders(now_us, script)
        self._clock = settings.clock
        self._vendors: tuple[Vendor, ...] = (
            TwelveData(errors_200=settings.errors_200), AlphaVantage(), Yahoo(), Binance(),
        )  # fmt: skip

    # Vendors ---------------------------------------------------------------------------------------------------------

    def admit(self, request: Request, now_us: int) -> Admitted | Reply:
        """Return the request let in, or the answer to one that was not. Takes credits."""
        vendor = next((vendor for vendor in self._vendors if vendor.speaks(request)), None)
        if vendor is None:
            message = f"The requested resource {request.path} was not found."
            return json_reply({"code": 404, "message": message, "status": "error"}, 404)
        if down := self.orders.active("down", vendor.name, now_us):
            return self._down(vendor, down, request, now_us)
        if bad := vendor.bad_key(request):
            return self._refused(vendor, bad, request, now_us)
        key, credits = vendor.key(request), vendor.cost(request)
        refusal = self._ordered(vendor, credits, now_us) or self.books.take(vendor.name, key, credits, now_us)
        used, limit = self.books.minute(vendor.name, key, now_us)
        if refusal is not None:
            reply = vendor.refuse(refusal, request)
            reply = replace(reply, headers={**vendor.credit_headers(used, limit), **reply.headers})
            return self._refused(vendor, reply, request, now_us)
        tape, hidden = self.tape, self.unknown(vendor.name, now_us)
        if hidden:
            tape = tape.without(hidden)
        return Admitted(vendor, replace(request, used=used, limit=limit), tape, credits, now_us)

    def finish(self, admitted: Admitted, reply: Reply, now_us: int) -> Reply:
        """Return the answer as it goes out, and write it into the books."""
        vendor, request = admitted.vendor, admitted.request
        headers = {**vendor.credit_headers(request.used, request.limit), **reply.headers}
        reply = replace(reply, headers=headers)
        if slow := self.orders.active("slow", vendor.name, now_us):
            reply = replace(reply, wait_s=slow.number("by"))
        if spoiled := self.orders.active("malformed", vendor.name, now_us):
            how = spoiled.choice("how")
            reply = replace(reply, cut=True) if how == "truncated" else replace(reply, body=malformed(reply.body, how))
        self.books.note(now_us, vendor.name, request, reply.status, admitted.credits, refused=False)
        return reply

    def unknown(self, vendor: str, now_us: int) -> set[str]:
        """Return the symbols that a vendor is ordered not to know."""
        return {order.options["symbol"] for order in self.orders.all_active("unknown", vendor, now_us)}

    def _down(self, vendor: Vendor, order: Order, request: Request, now_us: int) -> Reply:
        if order.choice("how") == "reset":
            return self._refused(vendor, Reply(0, reset=True), request, now_us)
        reply = vendor.refuse(Refusal(DOWN, status=int(order.number("status"))), request)
        return self._refused(vendor, reply, request, now_us)

    def _ordered(self, vendor: Vendor, credits: int, now_us: int) -> Refusal | None:
        if not credits:
            return None
        if self.orders.active("premium", vendor.name, now_us):
            return Refusal(PREMIUM)
        order = self.orders.active("429", vendor.name, now_us)
        if order is None:
            return None
        return Refusal({"minute": MINUTE, "day": DAY, "burst": BURST}[order.choice("kind")], again_s=1)

    def _refused(self, vendor: Vendor, reply: Reply, request: Request, now_us: int) -> Reply:
        self.books.note(now_us, vendor.name, request, reply.status, 0, refused=True)
        return reply

    # The sandbox itself ----------------------------------------------------------------------------------------------

    def take(self, order: Order, now_us: int) -> None:
        """Take an order; what it does to connections is the server's part."""
        self.orders.take(order, now_us)
        if order.do == "split":
            numerator, _, denominator = order.options.get("ratio", "2").partition(":")
            tomorrow = datetime_of(now_us + DAY_US).date()
            self.tape.add(NewSplit(order.options.get("symbol", ""), tomorrow, int(numerator), int(denominator or 1)))

    def control(self, request: Request, now_us: int, streams: Mapping[str, Any]) -> Reply:
        """Answer `/sandbox/…`, but for orders that are given. `streams`: what the server counted of its streams."""
        query = request.query
        try:
            match request.path.removeprefix(CONTROL):
                case "clock":
                    clock = self._clock
                    body: Any = {
                        "origin_us": clock.origin_us, "epoch_us": clock.epoch_us, "speed": clock.speed,
                        "now_us": now_us,
                    }  # fmt: skip
                case "orders":
                    body = {"in_force": self.orders.shown(now_us), "taken": self.orders.taken}
                case "counts":
                    body = {"now_us": now_us, "vendors": self.books.counts(), "streams": streams}
                case "requests":
                    body = {"requests": self.books.requests(query.get("vendor", ""))}
                case "bars":
                    body = self._bars(query, now_us)
                case "actions":
                    symbol = self._symbol(query)
                    body = {
                        "symbol": symbol,
                        "splits": [split._asdict() for split in self.tape.splits(symbol, 0, now_us)],
                        "dividends": [paid._asdict() for paid in self.tape.dividends(symbol, 0, now_us)],
                    }
                case _:
                    return json_reply({"error": "the sandbox has no such page"}, 404)
        except (BadInput, ValueError) as error:
            return json_reply({"error": str(error)}, 400)
        return json_reply(body)

    def _symbol(self, query: Mapping[str, str]) -> str:
        symbol = query.get("symbol", "")
        if symbol not in self.tape.market.code:
            raise BadInput(f"the sandbox has no symbol {symbol!r}")
        return symbol

    def _bars(self, query: Mapping[str, str], now_us: int) -> dict[str, Any]:
        """Return bars of the market as traded: the truth."""
        symbol, name = self._symbol(query), intervals.parse(query.get("interval", "1m")).name
        if name not in _BARS:
            raise BadInput(f"the sandbox has no bars of {name}; there are {', '.join(_BARS)}")
        to_us = int(query.get("to_us", str(now_us)))
        from_us_ = int(query.get("from_us", str(to_us - 60 * _BARS[name])))
        bars = self.tape.bars(symbol, from_us_, to_us, _BARS[name], now_us)
        return {
            "symbol": symbol, "interval": name, "now_us": now_us, "time_us": bars.starts_us.tolist(),
            "open": bars.open.tolist(), "high": bars.high.tolist(), "low": bars.low.tolist(),
            "close": bars.close.tolist(), "volume": bars.volume.tolist(),
        }  # fmt: skip
