"""A sandbox's addresses and clock, and their text formats for other processes."""

from __future__ import annotations

import datetime as dt
import time
from typing import NamedTuple

import msgspec

from tickerplant.core.errors import BadInput
from tickerplant.system_clock import SystemClock, starting_at


class _ClockNumbers(msgspec.Struct):
    origin_us: int
    epoch_us: int
    speed: float


class _Greeting(msgspec.Struct):
    url: str
    stream_url: str
    clock: _ClockNumbers


class SandboxEndpoint(NamedTuple):
    """Addresses, symbols and clock of a running sandbox. A key is valid unless it is empty or begins with `bad`.

    `stream_url` is the address of Twelve Data's stream.
    """

    url: str
    stream_url: str
    symbols: tuple[str, ...]
    clock: SystemClock = SystemClock()

    def greeting(self) -> str:
        """Return the line of JSON that `parse_greeting` reads."""
        clock = _ClockNumbers(self.clock.origin_us, self.clock.epoch_us, self.clock.speed)
        return msgspec.json.encode(_Greeting(self.url, self.stream_url, clock)).decode()


def parse_greeting(greeting: str | bytes, symbols: tuple[str, ...]) -> SandboxEndpoint:
    """Parse a sandbox's greeting. Raises ValueError if the greeting is malformed."""
    found = msgspec.json.decode(greeting, type=_Greeting)
    clock = SystemClock(found.clock.origin_us, found.clock.epoch_us, found.clock.speed)
    return SandboxEndpoint(found.url, found.stream_url, symbols, clock)


def make_clock(start: str, speed: float) -> SystemClock:
    """Return a clock that shows `start` now, or the machine's time if `start` is "".

    Raises ValueError if `start` is malformed.
    """
    if not start and speed == 1.0:
        return SystemClock()
    if not start:
        return starting_at(time.time_ns() // 1_000, speed)
    from tickerplant.core.time_column import parse_instant  # loads Arrow, which needs 35 MB

    try:
        return starting_at(parse_instant(start, dt.UTC), speed)
    except (BadInput, OverflowError) as error:
        raise ValueError(str(error)) from None


def format_clock(clock: SystemClock) -> str:
    """Return the clock as `ORIGIN:EPOCH:SPEED`, which `parse_clock` reads."""
    return f"{clock.origin_us}:{clock.epoch_us}:{clock.speed!r}"


def parse_clock(text: str) -> SystemClock:
    """Parse the result of `format_clock`. Raises ValueError if `text` is malformed."""
    origin, epoch, speed = text.split(":")
    return SystemClock(int(origin), int(epoch), float(speed))
