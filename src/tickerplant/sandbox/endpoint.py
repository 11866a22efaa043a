"""Where a sandbox answers and by what clock, and how that is told from one process to another."""

from __future__ import annotations

import datetime as dt
import time
from typing import NamedTuple

import msgspec

from tickerplant.core.times import micros_of
from tickerplant.system_clock import SystemClock, starting_at


class _Numbers(msgspec.Struct):
    origin_us: int
    epoch_us: int
    speed: float


class _Greeting(msgspec.Struct):
    url: str
    stream_url: str
    clock: _Numbers


class SandboxPlace(NamedTuple):
    """Where a running sandbox answers, and by what clock. Any key but one that begins with `bad` is good.

    `stream_url` is Twelve Data's; `yahoo_stream_url` the other one.
    """

    url: str
    stream_url: str
    symbols: tuple[str, ...]
    clock: SystemClock = SystemClock()

    @property
    def yahoo_stream_url(self) -> str:
        """Return the address of Yahoo's stream."""
        return f"ws://{self.url.removeprefix('http://')}/?version=2"

    def greeting(self) -> str:
        """Return the line of JSON that `place_of` reads."""
        clock = _Numbers(self.clock.origin_us, self.clock.epoch_us, self.clock.speed)
        return msgspec.json.encode(_Greeting(self.url, self.stream_url, clock)).decode()


def place_of(greeting: str | bytes, symbols: tuple[str, ...]) -> SandboxPlace:
    """Return the place that a sandbox's greeting tells. Raises ValueError for what is none."""
    said = msgspec.json.decode(greeting, type=_Greeting)
    clock = SystemClock(said.clock.origin_us, said.clock.epoch_us, said.clock.speed)
    return SandboxPlace(said.url, said.stream_url, symbols, clock)


def clock_of(start: str, speed: float) -> SystemClock:
    """Return the clock that says `start` now ("" for the machine's time). Raises ValueError for what is no time."""
    if not start and speed == 1.0:
        return SystemClock()
    if not start:
        return starting_at(time.time_ns() // 1_000, speed)
    moment = dt.datetime.fromisoformat(start)
    return starting_at(micros_of(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)), speed)


def clock_text(clock: SystemClock) -> str:
    """Return the clock as `ORIGIN:EPOCH:SPEED`, which `clock_from` reads."""
    return f"{clock.origin_us}:{clock.epoch_us}:{clock.speed!r}"


def clock_from(text: str) -> SystemClock:
    """Return the clock of `clock_text`. Raises ValueError."""
    origin, epoch, speed = text.split(":")
    return SystemClock(int(origin), int(epoch), float(speed))
