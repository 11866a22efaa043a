"""What clients say on the stream and what they are answered: pure, text in and objects out. See docs/stream.md.

A subscription is a set of (channel, symbol) pairs. Channels are `ticks`, `bars`, `analytics`, `alerts`, `status`;
`bars.1m` and `analytics.5m` take one interval only, which may be one by activity (`bars.100t`). The symbol `*` is every
symbol; `status` has no symbols and is kept as `*`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from tickerplant.api.positions import Position, parse_position
from tickerplant.api.websockets.rows import ANALYTICS, BARS, KINDS, STATUS, Part
from tickerplant.core.errors import BadInput
from tickerplant.core.interval import INTERVALS, parse
from tickerplant.core.symbols import check_symbol

EVERY: Final = "*"
DEFAULT_CHANNELS: Final = ("ticks", "bars", "analytics")
CHANNELS: Final = (*KINDS, *(f"{kind}.{interval}" for kind in (BARS, ANALYTICS) for interval in INTERVALS))
MAX_SYMBOLS: Final = 1_000
"""Symbols by name in one connection's subscription; who wants more subscribes to `*`."""
MAX_MESSAGE_BYTES: Final = 256 * 1024
"""1,000 symbols of 32 characters with a position of 16 partitions are 40 KB."""

CLOSE_SLOW: Final = 4008
CLOSE_FULL: Final = 4006
CLOSE_KEY: Final = 4001

Pair: TypeAlias = tuple[str, str]
Subscription: TypeAlias = frozenset[Pair]
NOTHING: Final[Subscription] = frozenset()


class Refusal(Exception):
    """What a client asked for cannot be done; the connection goes on. `code` is one word for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Add these pairs; with `since`, go on from there instead of beginning with a snapshot."""

    pairs: Subscription
    since: Position | None = None
    id: Any = None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Take these away: symbols and channels, None for all of them."""

    symbols: frozenset[str] | None
    channels: frozenset[str] | None
    id: Any = None

    def left(self, subscription: Subscription) -> Subscription:
        """Return what is left of a subscription; taking `bars` takes `bars.1m` too."""
        return frozenset(pair for pair in subscription if not self._takes(pair))

    def _takes(self, pair: Pair) -> bool:
        channel, symbol = pair
        by_channel = self.channels is None or channel in self.channels or channel.split(".")[0] in self.channels
        by_symbol = self.symbols is None or symbol in self.symbols or (channel == STATUS and self.channels is not None)
        return by_channel and by_symbol


@dataclass(frozen=True, slots=True)
class Ping:
    """Answered with `pong` and the same `id`."""

    id: Any = None


Command: TypeAlias = Subscribe | Unsubscribe | Ping


def parse_command(text: str | bytes) -> Command:
    """Return what the client asks for. Raises Refusal with a code and a sentence that says what to send instead."""
    try:
        message = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("bad_json", f"the message is no JSON ({error}); send one JSON object in each message") from None
    if not isinstance(message, dict):
        raise Refusal("bad_json", 'send a JSON object, for example {"action":"subscribe","symbols":["AAPL"]}')
    action, tag = message.get("action"), message.get("id")
    if action == "ping":
        return Ping(tag)
    if action == "subscribe":
        channels = _channels(message, DEFAULT_CHANNELS)
        symbols = _symbols(message)
        if symbols is None and channels != (STATUS,):
            raise Refusal("no_symbols", 'say which symbols: "symbols":["AAPL","EUR/USD"], or ["*"] for all')
        since = message.get("since")
        try:
            position = None if since is None else parse_position(since)
        except BadInput as error:
            raise Refusal("bad_since", str(error)) from None
        return Subscribe(pairs_of(channels, symbols or ()), position, tag)
    if action == "unsubscribe":
        symbols = _symbols(message)
        named = _channels(message, ()) if "channels" in message else None
        return Unsubscribe(
            None if symbols is None else frozenset(symbols), None if named is None else frozenset(named), tag
        )
    raise Refusal("unknown_action", f"unknown action {action!r}; use subscribe, unsubscribe or ping")


def _channels(message: dict[str, Any], default: tuple[str, ...]) -> tuple[str, ...]:
    value = message.get("channels", default)
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise Refusal("bad_channels", '"channels" is a list of names, for example ["ticks","bars.1m"]')
    for name in value:
        if name not in CHANNELS and not _is_by_activity(name):
            raise Refusal(
                "unknown_channel",
                f"unknown channel {name!r}; use some of {', '.join(CHANNELS)}, or bars and analytics of an interval by "
                "activity, such as bars.100t, bars.10000v or bars.1000000d",
            )
    if not value and not default:
        return ()
    if not value:
        raise Refusal("bad_channels", f'"channels" is empty; leave it out for {", ".join(default)}')
    return tuple(value)


def _is_by_activity(channel: str) -> bool:
    kind, _, interval = channel.partition(".")
    try:
        return kind in (BARS, ANALYTICS) and parse(interval).is_activity
    except BadInput:
        return False


def _symbols(message: dict[str, Any]) -> tuple[str, ...] | None:
    value = message.get("symbols")
    if value is None:
        return None
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise Refusal("bad_symbols", '"symbols" is a list of texts, for example ["AAPL","EUR/USD"] or ["*"]')
    if not value:
        return None
    if len(value) > MAX_SYMBOLS:
        raise Refusal("too_many_symbols", f'{len(value)} symbols, at most {MAX_SYMBOLS} by name; subscribe to ["*"]')
    try:
        return tuple(EVERY if name.strip() == EVERY else check_symbol(name) for name in value)
    except BadInput as error:
        raise Refusal("bad_symbols", str(error)) from None


def pairs_of(channels: Iterable[str], symbols: Iterable[str]) -> Subscription:
    """Return the pairs of every channel with every symbol; `status` goes with `*`."""
    symbols = tuple(symbols)
    return frozenset(
        (channel, symbol) for channel in channels for symbol in ((EVERY,) if channel == STATUS else symbols)
    )


def check_size(subscription: Subscription) -> None:
    """Raise Refusal when the subscription names more symbols than a connection may."""
    symbols = {symbol for _, symbol in subscription}
    if len(symbols) > MAX_SYMBOLS:
        raise Refusal(
            "too_many_symbols",
            f'{len(symbols)} symbols in all, at most {MAX_SYMBOLS} by name; subscribe to ["*"]',
        )


def describe(subscription: Subscription) -> dict[str, list[str]]:
    """Return the whole subscription as the server says it: symbols by channel, sorted."""
    state: dict[str, list[str]] = {}
    for channel, symbol in sorted(subscription):
        state.setdefault(channel, []).append(symbol)
    return state


class Filter:
    """A subscription made ready to choose rows by columns; `without` takes out what another one already has."""

    def __init__(self, subscription: Subscription, without: Subscription = NOTHING) -> None:
        self.subscription = subscription
        self._kinds = {kind: _Wanted(kind, subscription) for kind in KINDS}
        self._without = {kind: _Wanted(kind, without) for kind in KINDS} if without else None

    def wants(self, kind: str) -> bool:
        """Whether any row of this kind may be wanted."""
        return bool(self._kinds[kind].by_interval)

    def every(self, kind: str) -> bool:
        """Whether all symbols of this kind are wanted."""
        return any(symbols is None for symbols in self._kinds[kind].by_interval.values())

    def named(self) -> set[str]:
        """Return the symbols that are wanted by name."""
        return {symbol for _, symbol in self.subscription if symbol != EVERY}

    def keys(self, kind: str) -> list[tuple[str, str | None]]:
        """Return the (symbol, interval or None for all) that are wanted by name in this kind."""
        return [
            (symbol, interval)
            for interval, symbols in self._kinds[kind].by_interval.items()
            for symbol in sorted(symbols or ())
        ]

    def rows(self, part: Part) -> npt.NDArray[np.bool_] | bool:
        """Return which rows of a part are wanted: a mask, True for all, False for none."""
        mask = self._kinds[part.kind].mask(part)
        if mask is False or self._without is None:
            return mask
        known = self._without[part.kind].mask(part)
        if known is False:
            return mask
        if known is True:
            return False
        chosen: npt.NDArray[np.bool_] = ~known if mask is True else mask & ~known
        return chosen if chosen.any() else False

    def status(self) -> bool:
        """Whether status events are wanted and not already had."""
        return self.wants(STATUS) and not (self._without and self._without[STATUS].by_interval)


MAX_MASKS: Final = 256


class _Wanted:
    """Which symbols (None: all) are wanted at which interval (None: any) of one kind."""

    def __init__(self, kind: str, subscription: Subscription) -> None:
        self.by_interval: dict[str | None, frozenset[str] | None] = {}
        self._masks: dict[tuple[int, str | None], tuple[list[str], npt.NDArray[np.bool_]]] = {}
        names: dict[str | None, set[str]] = {}
        for channel, symbol in subscription:
            head, _, interval = channel.partition(".")
            if head == kind:
                names.setdefault(interval or None, set()).add(symbol)
        for interval_name, symbols in names.items():
            self.by_interval[interval_name] = None if EVERY in symbols else frozenset(symbols)

    def _known(self, words: list[str], interval: str | None, symbols: frozenset[str]) -> npt.NDArray[np.bool_]:
        """Return which words are among the symbols. A feed's records share one list of words, so it is kept."""
        kept = self._masks.get((id(words), interval))
        if kept is None or kept[0] is not words:
            if len(self._masks) >= MAX_MASKS:
                self._masks.clear()
            wanted = np.fromiter((name in symbols for name in words), dtype=bool, count=len(words))
            kept = self._masks[id(words), interval] = (words, wanted)
        return kept[1]

    def mask(self, part: Part) -> npt.NDArray[np.bool_] | bool:
        if not self.by_interval:
            return False
        if None in self.by_interval and self.by_interval[None] is None:
            return True
        chosen: npt.NDArray[np.bool_] | None = None
        for interval, symbols in self.by_interval.items():
            if symbols is None:
                rows = np.ones(len(part), dtype=bool)
            else:
                rows = self._known(part.symbols, interval, symbols)[part.codes]
            if interval is not None:
                rows = rows & (part.columns["interval"] == interval)
            chosen = rows if chosen is None else chosen | rows
        return chosen if chosen is not None and chosen.any() else False
