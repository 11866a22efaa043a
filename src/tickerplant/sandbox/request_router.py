"""Routes each request to its vendor's protocol after checks of faults, keys and quotas. Pure.

`admit` checks a vendor's request in this order: the fault `down`, the key, the faults `premium` and `429`, quotas.
`AdmittedRequest.respond` returns the protocol's response, and `finish` applies faults to it. `control` responds to the
sandbox's own routes. Time is an argument; the server owns the sockets.
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
    Request,
    Response,
    RestProtocol,
    json_response,
)
from tickerplant.protocols.twelvedata.rest import TwelveData
from tickerplant.protocols.yahoo.chart import Yahoo
from tickerplant.sandbox.corporate_actions import ScheduledSplit, TradedMarket
from tickerplant.sandbox.fault_injector import FaultyResponse, malform
from tickerplant.sandbox.fault_script import Fault, FaultSchedule, merge_plans, parse_fault
from tickerplant.sandbox.market_view import MarketView
from tickerplant.sandbox.model import MarketSettings
from tickerplant.sandbox.quotas import QuotaTracker
from tickerplant.system_clock import SystemClock

CONTROL: Final = "/sandbox/"
SLOW_ROUTES: Final = (f"{CONTROL}bars", f"{CONTROL}actions")
"""Control routes that may need seconds. They read the market and no quotas, so another thread may respond to them."""
FAULT_ROUTES: Final = (f"{CONTROL}faults", f"{CONTROL}orders")
"""Route of faults, and its old name."""
_BARS: Final = {"1m": MINUTE_US, "5m": 5 * MINUTE_US, "15m": 15 * MINUTE_US, "30m": 30 * MINUTE_US,
                "1h": 60 * MINUTE_US, "1d": DAY_US, "1w": WEEK_US}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """The sandbox's market and behaviour.

    `stamp` adds `sent_ns` (the clock at sending) to each message of Twelve Data's stream. `quotas`: quotas of each
    vendor. `credits_per_minute`: one more quota of Twelve Data; 0 adds none. `pace_s`: minimum seconds between two
    requests of a key, by vendor. `errors_200`: Twelve Data's errors have HTTP status 200, as some errors of the real
    vendor do.

    `connections`: maximum open streams of a vendor; a further stream closes the oldest. `max_symbols`: maximum
    subscriptions of one connection to Twelve Data, 0 means no limit. `clock`: the sandbox's time. `fault_script`: pairs
    of seconds after the start and a fault. `fault_seed`: the seed of random faults; None disables them. `splits`:
    splits that the scenario adds.
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
    fault_script: Sequence[tuple[float, str]] = ()
    fault_seed: int | None = None
    splits: Sequence[ScheduledSplit] = ()

    def all_quotas(self) -> dict[str, Sequence[Quota]]:
        """Return the quotas by vendor, `credits_per_minute` included."""
        quotas = dict(self.quotas)
        if self.credits_per_minute:
            quotas["twelvedata"] = (*quotas.get("twelvedata", ()), Quota(self.credits_per_minute, MINUTE_US))
        return quotas


@dataclass(frozen=True, slots=True)
class AdmittedRequest:
    """A request that passed the checks of faults, keys and quotas, with its protocol and market."""

    protocol: RestProtocol
    request: Request
    market: MarketView
    credits: int

    def respond(self) -> Response:
        """Return the protocol's response. May need seconds; changes no state."""
        return self.protocol.respond(self.request, self.market)


def key_is_valid(key: str) -> bool:
    """Return True if the key is not empty and does not begin with `bad`."""
    return bool(key) and not key.startswith("bad")


class RequestRouter:
    """Quotas, faults and protocols of a sandbox. Not thread-safe."""

    def __init__(self, settings: SandboxSettings, market: TradedMarket, now_us: int) -> None:
        self.market = market
        self.quotas = QuotaTracker(settings.all_quotas(), settings.pace_s)
        plan = [(seconds, parse_fault(text)) for seconds, text in settings.fault_script]
        script: Iterator[tuple[float, Fault]] = merge_plans(plan, settings.fault_seed)
        self.faults = FaultSchedule(now_us, script)
        self._clock = settings.clock
        self._errors_200 = settings.errors_200
        self._protocols: tuple[RestProtocol, ...] = (
            TwelveData(plan="sandbox"), AlphaVantage(), Yahoo("A3=d=sandbox", "sandbox.crumb"), Binance(),
        )  # fmt: skip

    # Vendors ---------------------------------------------------------------------------------------------------------

    def admit(self, request: Request, now_us: int) -> AdmittedRequest | FaultyResponse:
        """Spend the request's credits; return the admitted request, or the response to a refused request."""
        protocol = next((protocol for protocol in self._protocols if protocol.matches(request)), None)
        if protocol is None:
            message = f"The requested resource {request.path} was not found."
            return _plain(json_response({"code": 404, "message": message, "status": "error"}, 404))
        vendor = protocol.name
        if down := self.faults.active("down", vendor, now_us):
            return self._down(protocol, down, request, now_us)
        key = protocol.api_key(request)
        if key is not None and not key_is_valid(key):
            return self._refused(protocol, protocol.key_error(), request, now_us)
        key, credits = key or "", protocol.cost(request)
        refusal = self._fault_refusal(vendor, credits, now_us) or self.quotas.spend(vendor, key, credits, now_us)
        used, limit = self.quotas.minute(vendor, key, now_us)
        if refusal is not None:
            response = protocol.refuse(refusal, request)
            response = replace(response, headers={**protocol.quota_headers(used, limit), **response.headers})
            return self._refused(protocol, response, request, now_us)
        market = MarketView(self.market, now_us, self.hidden(vendor, now_us))
        return AdmittedRequest(protocol, replace(request, credits_used=used, credit_limit=limit), market, credits)

    def finish(self, admitted: AdmittedRequest, response: Response, now_us: int) -> FaultyResponse:
        """Apply quota headers and faults to a protocol's response, and record the request."""
        protocol, request = admitted.protocol, admitted.request
        headers = {**protocol.quota_headers(request.credits_used, request.credit_limit), **response.headers}
        faulty = self._with_status(protocol, replace(response, headers=headers))
        if slow := self.faults.active("slow", protocol.name, now_us):
            faulty = replace(faulty, delay_s=slow.number("by"))
        if fault := self.faults.active("malformed", protocol.name, now_us):
            how = fault.choice("how")
            faulty = replace(faulty, truncated=True) if how == "truncated" else replace(
                faulty, body=malform(faulty.body, how)
            )  # fmt: skip
        self.quotas.record(now_us, protocol.name, request, faulty.status, admitted.credits, refused=False)
        return faulty

    def hidden(self, vendor: str, now_us: int) -> set[str]:
        """Return the symbols that faults hide from a vendor's API; an empty set if there are none."""
        return {fault.options["symbol"] for fault in self.faults.all_active("unknown", vendor, now_us)}

    def _with_status(self, protocol: RestProtocol, response: Response) -> FaultyResponse:
        """Return the response; if `errors_200` is set, an error of Twelve Data has status 200."""
        is_error = response.status >= 400 and response.content_type == "application/json"
        if self._errors_200 and is_error and protocol.name == "twelvedata":
            response = replace(response, status=200)
        return _plain(response)

    def _down(self, protocol: RestProtocol, fault: Fault, request: Request, now_us: int) -> FaultyResponse:
        if fault.choice("how") == "reset":
            self.quotas.record(now_us, protocol.name, request, 0, 0, refused=True)
            return FaultyResponse(0, reset=True)
        response = protocol.refuse(Refusal(DOWN, status=int(fault.number("status"))), request)
        return self._refused(protocol, response, request, now_us)

    def _fault_refusal(self, vendor: str, credits: int, now_us: int) -> Refusal | None:
        if not credits:
            return None
        if self.faults.active("premium", vendor, now_us):
            return Refusal(PREMIUM)
        fault = self.faults.active("429", vendor, now_us)
        if fault is None:
            return None
        return Refusal({"minute": MINUTE, "day": DAY, "burst": BURST}[fault.choice("kind")], retry_after_s=1)

    def _refused(self, protocol: RestProtocol, response: Response, request: Request, now_us: int) -> FaultyResponse:
        faulty = self._with_status(protocol, response)
        self.quotas.record(now_us, protocol.name, request, faulty.status, 0, refused=True)
        return faulty

    # Control routes --------------------------------------------------------------------------------------------------

    def apply(self, fault: Fault, now_us: int) -> None:
        """Apply a fault. The server applies it to open connections."""
        self.faults.apply(fault, now_us)
        if fault.do == "split":
            tomorrow = datetime_of(now_us + DAY_US).date()
            self.market.add(ScheduledSplit(fault.options.get("symbol", ""), tomorrow, *fault.ratio()))

    def control(self, request: Request, now_us: int, streams: Mapping[str, Any]) -> Response:
        """Respond to `/sandbox/...`, except to requests that apply a fault. `streams`: counters of the streams."""
        query, market = request.query, self.market
        try:
            match request.path.removeprefix(CONTROL):
                case "clock":
                    clock = self._clock
                    body: Any = {
                        "origin_us": clock.origin_us, "epoch_us": clock.epoch_us, "speed": clock.speed,
                        "now_us": now_us,
                    }  # fmt: skip
                case "faults" | "orders":
                    body = {"in_force": self.faults.shown(now_us), "taken": self.faults.taken}
                case "counts":
                    body = {"now_us": now_us, "vendors": self.quotas.counts(), "streams": streams}
                case "requests":
                    body = {"requests": self.quotas.requests(query.get("vendor", ""))}
                case "bars":
                    body = self._bars(query, now_us)
                case "actions":
                    symbol = self._symbol(query)
                    body = {
                        "symbol": symbol,
                        "splits": [split._asdict() for split in market.splits(symbol, 0, now_us)],
                        "dividends": [paid._asdict() for paid in market.dividends(symbol, 0, now_us)],
                    }
                case _:
                    return json_response({"error": f"no route {request.path}; see docs/sandbox.md"}, 404)
        except (BadInput, ValueError) as error:
            return json_response({"error": str(error)}, 400)
        return json_response(body)

    def _symbol(self, query: Mapping[str, str]) -> str:
        symbol = query.get("symbol", "")
        if symbol not in self.market.model.code:
            example = self.market.model.symbols[0]
            raise BadInput(f"the sandbox has no symbol {symbol!r}; use a simulated symbol, such as {example}")
        return symbol

    def _bars(self, query: Mapping[str, str], now_us: int) -> dict[str, Any]:
        """Return the market's bars as traded, the reference for comparisons with the vendors' responses."""
        symbol, name = self._symbol(query), intervals.parse(query.get("interval", "1m")).name
        if name not in _BARS:
            raise BadInput(f"the sandbox has no bars of {name}; use one of {', '.join(_BARS)}")
        end_us = int(query.get("to_us", str(now_us)))
        start_us = int(query.get("from_us", str(end_us - 60 * _BARS[name])))
        bars = self.market.bars(symbol, start_us, end_us, _BARS[name], now_us)
        return {
            "symbol": symbol, "interval": name, "now_us": now_us, "time_us": bars.starts_us.tolist(),
            "open": bars.open.tolist(), "high": bars.high.tolist(), "low": bars.low.tolist(),
            "close": bars.close.tolist(), "volume": bars.volume.tolist(),
        }  # fmt: skip


def _plain(response: Response) -> FaultyResponse:
    """Return the response without faults."""
    return FaultyResponse(response.status, response.body, response.content_type, response.headers)
