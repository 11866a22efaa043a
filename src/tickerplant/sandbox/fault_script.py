"""Orders that make the sandbox misbehave: read, kept for as long as they last, planned, and made up by chance. Pure.

An order is a query string, `do=429&vendor=twelvedata&kind=day&seconds=600`, over HTTP (`/sandbox/orders?…`), in a
script (`60 do=mute&seconds=30`: a minute after the start), or by chaos, which is a script without end made of a seed.
All times are of the sandbox's clock. `docs/sandbox.md` has the table.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from tickerplant.core.errors import BadInput
from tickerplant.core.times import SECOND_US

VENDORS: Final = ("twelvedata", "alphavantage", "yahoo", "binance")
DEFAULT_SECONDS: Final = 10.0

ONCE: Final[Mapping[str, Mapping[str, tuple[str, ...] | None]]] = {
    "disconnect": {},
    "garbage": {},
    "split": {"symbol": None, "ratio": None},
    "clear": {},
}
"""Orders that are done when they are given, with their options: the values allowed, or None for any."""
LASTING: Final[Mapping[str, Mapping[str, tuple[str, ...] | None]]] = {
    "429": {"kind": ("minute", "day", "burst")},
    "down": {"how": ("status", "reset"), "status": None},
    "slow": {"by": None},
    "malformed": {"how": ("json", "types", "truncated")},
    "premium": {},
    "unknown": {"symbol": None},
    "mute": {"heartbeats": ("no", "yes")},
    "refuse": {},
    "duplicate": {"share": None},
    "reorder": {"share": None, "by": None},
    "late": {"share": None, "by": None},
    "volume": {"how": ("absent", "reset", "back", "jump"), "share": None},
    "skew": {"by": None},
}
"""Orders that last for `seconds`."""
_NUMBERS: Final = {"by": 1.0, "share": 0.1, "status": 503.0, "ratio": 2.0}


@dataclass(frozen=True, slots=True)
class Order:
    """An order. `vendor`: one of VENDORS, or "*" for all."""

    do: str
    vendor: str = "*"
    seconds: float = DEFAULT_SECONDS
    options: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number among the options, or what it is unless given."""
        return float(self.options.get(name, _NUMBERS[name] if default is None else default))

    def choice(self, name: str) -> str:
        """Return the option of a few values; the first of them unless given."""
        allowed = (ONCE | LASTING)[self.do][name] or ("",)  # type: ignore[operator]
        return self.options.get(name, allowed[0])

    def of(self, vendor: str) -> bool:
        """Whether it concerns the vendor."""
        return self.vendor in ("*", vendor)


def read_order(query: str | Mapping[str, str]) -> Order:
    """Return the order of a query string. Raises BadInput that says what can be ordered."""
    values = dict(parse_qsl(query)) if isinstance(query, str) else dict(query)
    do, vendor = values.pop("do", ""), values.pop("vendor", "*")
    options = {**ONCE, **LASTING}.get(do)
    if do == "cancel":
        raise BadInput("none of the sandbox's protocols can say that a trade was cancelled")
    if options is None:
        raise BadInput(f"no order {do!r}; there are {', '.join([*ONCE, *LASTING])}")
    if vendor not in ("*", *VENDORS):
        raise BadInput(f"no vendor {vendor!r}; there are {', '.join(VENDORS)}, and * for all")
    numbers = {name: values[name] for name in ("seconds", *_NUMBERS) if name in values}
    try:
        for text in numbers.values():
            float(text)
    except ValueError:
        raise BadInput(f"no number: {numbers}") from None
    seconds = float(values.pop("seconds", DEFAULT_SECONDS))
    for name, value in values.items():
        allowed = options.get(name, ())
        if allowed is not None and value not in allowed:
            known = ", ".join(options) if name not in options else ", ".join(allowed)
            raise BadInput(f"{do} has no {name}={value}; it takes {known or 'nothing'}")
    return Order(do, vendor, seconds, values)


def read_lines(lines: str) -> list[tuple[float, str]]:
    """Return the plan of a script: one order a line, `SECONDS ORDER`; empty lines and `#` are passed over.

    >>> read_lines("# troubles" + chr(10) + "60 do=mute&seconds=30")
    [(60.0, 'do=mute&seconds=30')]
    """
    plan = []
    for line in lines.splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        at, _, order = text.partition(" ")
        try:
            seconds = float(at)
        except ValueError:
            raise BadInput(f"{text!r}: a line of a script is SECONDS ORDER, as in 60 do=mute&seconds=30") from None
        read_order(order.strip())
        plan.append((seconds, order.strip()))
    return plan


class Orders:
    """The orders in force, and those that are planned for a time after `start_us`."""

    def __init__(self, start_us: int, script: Iterator[tuple[float, Order]]) -> None:
        self._start_us = start_us
        self._script = script
        self._next = next(script, None)
        self._lasting: list[tuple[int, Order]] = []
        self.taken: dict[str, int] = {}
        """How many orders of each kind were taken."""

    def take(self, order: Order, now_us: int) -> None:
        """Keep an order that lasts for as long as it does; a newer one of the same kind and vendor replaces it."""
        self.taken[order.do] = self.taken.get(order.do, 0) + 1
        if order.do == "clear":
            self._lasting.clear()
        elif order.do in LASTING:
            same = (order.do, order.vendor, order.options.get("symbol"))
            self._lasting = [
                (until, old) for until, old in self._lasting
                if until > now_us and (old.do, old.vendor, old.options.get("symbol")) != same
            ]  # fmt: skip
            self._lasting.append((now_us + int(order.seconds * SECOND_US), order))

    def due(self, now_us: int) -> list[Order]:
        """Return the planned orders whose time has come since the last call."""
        found = []
        while self._next is not None and self._start_us + self._next[0] * SECOND_US <= now_us:
            found.append(self._next[1])
            self._next = next(self._script, None)
        return found

    def active(self, do: str, vendor: str, now_us: int) -> Order | None:
        """Return the order of a kind that is in force for a vendor, the last given."""
        for until_us, order in reversed(self._lasting):
            if order.do == do and now_us < until_us and order.of(vendor):
                return order
        return None

    def all_active(self, do: str, vendor: str, now_us: int) -> list[Order]:
        """Return all orders of a kind that are in force for a vendor."""
        return [order for until_us, order in self._lasting if order.do == do and now_us < until_us and order.of(vendor)]

    def shown(self, now_us: int) -> list[dict[str, object]]:
        """Return the orders in force, for people."""
        return [
            {"do": order.do, "vendor": order.vendor, **order.options, "until_us": until_us}
            for until_us, order in self._lasting
            if now_us < until_us
        ]


def planned(script: list[tuple[float, Order]], chaos: int | None) -> Iterator[tuple[float, Order]]:
    """Return the orders of a script and of chaos, in the order of time."""
    plans = [iter(sorted(script, key=lambda entry: entry[0]))]
    if chaos is not None:
        plans.append(chaos_of(chaos))
    return heapq.merge(*plans, key=lambda entry: entry[0])


_CHAOS: Final = (
    # (mean minutes between two, order, the least and the most seconds that it lasts)
    (4, "do=disconnect", 0, 0),
    (7, "do=mute", 20, 90),
    (9, "do=mute&heartbeats=yes", 20, 90),
    (6, "do=429&kind=minute", 20, 90),
    (45, "do=429&kind=day", 300, 1_200),
    (8, "do=429&kind=burst", 3, 15),
    (12, "do=down", 10, 120),
    (15, "do=down&how=reset", 5, 60),
    (10, "do=slow&by=3", 20, 60),
    (9, "do=malformed", 3, 20),
    (13, "do=malformed&how=types", 3, 20),
    (11, "do=malformed&how=truncated", 3, 20),
    (10, "do=duplicate&share=0.05", 20, 60),
    (10, "do=reorder&share=0.2&by=1", 20, 60),
    (14, "do=late&share=0.02&by=5", 20, 60),
    (20, "do=volume&how=back&share=0.05", 10, 30),
    (30, "do=garbage", 0, 0),
)


def chaos_of(seed: int) -> Iterator[tuple[float, Order]]:
    """Yield orders without end: troubles of every kind, each coming every few minutes by chance, for some vendor.

    The same seed gives the same troubles.
    """
    dice = random.Random(seed)
    queue = [(dice.expovariate(1 / (minutes * 60)), at) for at, (minutes, *_) in enumerate(_CHAOS)]
    heapq.heapify(queue)
    while True:
        seconds, at = heapq.heappop(queue)
        minutes, text, least, most = _CHAOS[at]
        vendor = dice.choice(("*", *VENDORS))
        yield seconds, read_order(f"{text}&vendor={vendor}&seconds={dice.uniform(least, most):.1f}")
        heapq.heappush(queue, (seconds + dice.expovariate(1 / (minutes * 60)), at))
