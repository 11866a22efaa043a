"""Faults that the sandbox simulates: parsing, the faults in force, scripts, and random faults. Pure.

A fault is a query string: `do=429&vendor=twelvedata&kind=day&seconds=600`. Faults are given by an HTTP request
(`/sandbox/faults?do=...`), a script (`60 do=mute&seconds=30`: one minute after the start), or a seed that generates an
endless script. All times are times of the sandbox's clock. `docs/sandbox.md` lists the faults.
"""

from __future__ import annotations

import heapq
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from tickerplant.core.digits import parse_float
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
"""Options of the faults that act once. An option has a list of allowed values, default first; None allows any."""
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
"""Options of the faults that last for `seconds`, in the format of `ONCE`."""
_DEFAULTS: Final = {"by": 1.0, "share": 0.1, "status": 503.0}
_RATIO: Final = re.compile(r"([1-9][0-9]{0,5})(?::([1-9][0-9]{0,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault. `vendor`: one of VENDORS, or "*" for all. `seconds`: its duration."""

    do: str
    vendor: str = "*"
    seconds: float = DEFAULT_SECONDS
    options: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str, default: float | None = None) -> float:
        """Return a numeric option, or its default if the fault does not contain it."""
        return float(self.options.get(name, _DEFAULTS[name] if default is None else default))

    def choice(self, name: str) -> str:
        """Return an option with a fixed set of values; the default is the first value."""
        allowed = (ONCE | LASTING)[self.do][name] or ("",)  # type: ignore[operator]
        return self.options.get(name, allowed[0])

    def ratio(self) -> tuple[int, int]:
        """Return numerator and denominator of a split; 2:1 by default."""
        found = _RATIO.fullmatch(self.options.get("ratio", "2"))
        assert found is not None, "checked by `parse_fault`"
        return int(found[1]), int(found[2] or 1)

    def affects(self, vendor: str) -> bool:
        """Return True if the fault affects the vendor."""
        return self.vendor in ("*", vendor)


def parse_fault(query: str | Mapping[str, str]) -> Fault:
    """Parse a query string. Raises BadInput for unknown names and values, and for malformed numbers and ratios."""
    values = dict(parse_qsl(query)) if isinstance(query, str) else dict(query)
    do, vendor = values.pop("do", ""), values.pop("vendor", "*")
    options = {**ONCE, **LASTING}.get(do)
    if do == "cancel":
        raise BadInput("none of the sandbox's protocols can report a cancelled trade; use another fault")
    if options is None:
        raise BadInput(f"no fault {do!r}; use one of {', '.join([*ONCE, *LASTING])}")
    if vendor not in ("*", *VENDORS):
        raise BadInput(f"no vendor {vendor!r}; use one of {', '.join(VENDORS)}, or * for all")
    numbers = {name: values[name] for name in ("seconds", *_DEFAULTS) if name in values}
    try:
        for text in numbers.values():
            parse_float(text)
    except ValueError:
        given = ", ".join(f"{name}={text}" for name, text in numbers.items())
        raise BadInput(f"each of these options must be a number: {given}") from None
    if not _RATIO.fullmatch(values.get("ratio", "2")):
        raise BadInput(f"ratio={values['ratio']} is no split ratio; write new shares for old, such as 2 or 3:2")
    seconds = float(values.pop("seconds", DEFAULT_SECONDS))
    for name, value in values.items():
        allowed = options.get(name, ())
        if allowed is not None and value not in allowed:
            known = ", ".join(options) if name not in options else ", ".join(allowed)
            raise BadInput(f"{do} does not accept {name}={value}; it accepts {known or 'no option'}")
    return Fault(do, vendor, seconds, values)


def parse_script(lines: str) -> list[tuple[float, str]]:
    """Parse a script of lines `SECONDS FAULT`; empty lines and lines that begin with `#` are ignored.

    >>> parse_script("# comment" + chr(10) + "60 do=mute&seconds=30")
    [(60.0, 'do=mute&seconds=30')]
    """
    plan = []
    for line in lines.splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        at, _, fault = text.partition(" ")
        try:
            seconds = float(at)
        except ValueError:
            raise BadInput(f"{text!r}: a line of a script is SECONDS FAULT, as in 60 do=mute&seconds=30") from None
        parse_fault(fault.strip())
        plan.append((seconds, fault.strip()))
    return plan


class FaultSchedule:
    """The faults in force and the planned faults.

    `script` contains seconds after `start_us` and faults, in time order.
    """

    def __init__(self, start_us: int, script: Iterator[tuple[float, Fault]]) -> None:
        self._start_us = start_us
        self._script = script
        self._next = next(script, None)
        self._lasting: list[tuple[int, Fault]] = []
        self.taken: dict[str, int] = {}
        """Number of faults applied, by kind."""

    def apply(self, fault: Fault, now_us: int) -> None:
        """Apply a fault. `clear` ends all faults.

        A lasting fault replaces an earlier fault of the same kind, vendor and symbol.
        """
        self.taken[fault.do] = self.taken.get(fault.do, 0) + 1
        if fault.do == "clear":
            self._lasting.clear()
        elif fault.do in LASTING:
            same = (fault.do, fault.vendor, fault.options.get("symbol"))
            self._lasting = [
                (until, old) for until, old in self._lasting
                if until > now_us and (old.do, old.vendor, old.options.get("symbol")) != same
            ]  # fmt: skip
            self._lasting.append((now_us + int(fault.seconds * SECOND_US), fault))

    def due(self, now_us: int) -> list[Fault]:
        """Return the planned faults that have become due since the last call."""
        found = []
        while self._next is not None and self._start_us + self._next[0] * SECOND_US <= now_us:
            found.append(self._next[1])
            self._next = next(self._script, None)
        return found

    def active(self, do: str, vendor: str, now_us: int) -> Fault | None:
        """Return the newest fault of a kind in force for a vendor; None if there is none."""
        for until_us, fault in reversed(self._lasting):
            if fault.do == do and now_us < until_us and fault.affects(vendor):
                return fault
        return None

    def all_active(self, do: str, vendor: str, now_us: int) -> list[Fault]:
        """Return all faults of a kind in force for a vendor."""
        return [
            fault for until_us, fault in self._lasting if fault.do == do and now_us < until_us and fault.affects(vendor)
        ]

    def shown(self, now_us: int) -> list[dict[str, object]]:
        """Return the faults in force as JSON values."""
        return [
            {"do": fault.do, "vendor": fault.vendor, **fault.options, "until_us": until_us}
            for until_us, fault in self._lasting
            if now_us < until_us
        ]


def merge_plans(script: list[tuple[float, Fault]], fault_seed: int | None) -> Iterator[tuple[float, Fault]]:
    """Return seconds and faults in time order: the faults of the script, and random faults if a seed is given."""
    plans = [iter(sorted(script, key=lambda entry: entry[0]))]
    if fault_seed is not None:
        plans.append(random_faults(fault_seed))
    return heapq.merge(*plans, key=lambda entry: entry[0])


_RANDOM_FAULTS: Final = (
    # (mean minutes between two such faults, fault, minimum and maximum duration in seconds)
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


def random_faults(seed: int) -> Iterator[tuple[float, Fault]]:
    """Yield an endless sequence of seconds and faults, in time order.

    Faults of a kind occur at random times with the kind's mean interval, for a random vendor. The same seed produces
    the same faults.
    """
    rng = random.Random(seed)
    queue = [(rng.expovariate(1 / (minutes * 60)), at) for at, (minutes, *_) in enumerate(_RANDOM_FAULTS)]
    heapq.heapify(queue)
    while True:
        seconds, at = heapq.heappop(queue)
        minutes, text, least, most = _RANDOM_FAULTS[at]
        vendor = rng.choice(("*", *VENDORS))
        yield seconds, parse_fault(f"{text}&vendor={vendor}&seconds={rng.uniform(least, most):.1f}")
        heapq.heappush(queue, (seconds + rng.expovariate(1 / (minutes * 60)), at))
