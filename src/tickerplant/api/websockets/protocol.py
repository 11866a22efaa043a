"""Commands of stream clients, and subscriptions. Pure: text in, objects out. See docs/stream.md.

A subscription is a set of (channel, symbol) pairs. Channels are `ticks`, `bars`, `analytics`, `alerts`, `status`.
`bars.1m` and `analytics.5m` select one interval, which may be an activity interval (`bars.100t`). The symbol `*` means
every symbol. `status` has no symbols; its pair contains `*`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from tickerplant.api.positions import Position, parse_position
from tickerplant.api.websockets.rows import ANALYTICS, BARS, KINDS, STATUS, StreamRecord
from tickerplant.core.errors import BadInput
from tickerplant.core.interval import D1, INTERVALS, M1, M5, parse
from tickerplant.core.shown import cut
from tickerplant.core.symbols import check_symbol

EVERY: Final = "*"
DEFAULT_CHANNELS: Final = ("ticks", "bars", "analytics")
CHANNELS: Final = (*KINDS, *(f"{kind}.{interval}" for kind in (BARS, ANALYTICS) for interval in (M1, M5, D1)))
"""Channels without activity intervals. The stream sends stored bars only; REST builds coarser bars when it reads."""
_NOT_SENT: Final = {f"{kind}.{interval}" for kind in (BARS, ANALYTICS) for interval in INTERVALS} - {*CHANNELS}
MAX_SYMBOLS: Final = 1_000
"""Maximum symbols that one connection's subscription names. A client that needs more subscribes to `*`."""
MAX_CHANNELS: Final = 64
"""Maximum channels of one connection's subscription, and of one command."""
MAX_PAIRS: Final = 12_000
"""Maximum pairs of a channel and a symbol of one connection's subscription. 1,000 symbols on all `CHANNELS` are 11,000.
A subscription of this size takes about 20 ms of the event loop."""
MAX_MESSAGE_BYTES: Final = 256 * 1024
"""Maximum size of a command. 1,000 symbols of 32 characters and a position of 16 partitions are 40 KB."""
MAX_ID_BYTES: Final = 1_000
"""Maximum bytes of the `id` of a command, as JSON."""

CLOSE_SLOW: Final = 4008
CLOSE_FULL: Final = 4006
CLOSE_FAULT: Final = 1011

Pair: TypeAlias = tuple[str, str]
Subscription: TypeAlias = frozenset[Pair]
NOTHING: Final[Subscription] = frozenset()


class Refusal(Exception):
    """A command cannot be executed; the connection stays open. `code` identifies the error for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Add these pairs to the subscription. If `since` is set, the stream resumes there without a snapshot."""

    pairs: Subscription
    since: Position | None = None
    id: Any = None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Remove these symbols and channels from the subscription. `symbols` or `channels` None means all of them."""

    symbols: frozenset[str] | None
    channels: frozenset[str] | None
    id: Any = None

    def apply(self, subscription: Subscription) -> Subscription:
        """Return the subscription without the removed pairs. Removing `bars` removes `bars.1m` too."""
        return frozenset(pair for pair in subscription if not self._removes(pair))

    def _removes(self, pair: Pair) -> bool:
        channel, symbol = pair
        by_channel = self.channels is None or channel in self.channels or channel.split(".")[0] in self.channels
        by_symbol = self.symbols is None or symbol in self.symbols or (channel == STATUS and self.channels is not None)
        return by_channel and by_symbol


@dataclass(frozen=True, slots=True)
class Ping:
    """A request that the server answers with `pong` and the same `id`."""

    id: Any = None


Command: TypeAlias = Subscribe | Unsubscribe | Ping


def parse_command(text: str | bytes) -> Command:
    """Return the client's command. Raises Refusal with a code and a message that describes the valid input."""
    try:
        message = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("bad_json", f"the message is not JSON ({error}); send one JSON object per message") from None
    if not isinstance(message, dict):
        raise Refusal("bad_json", 'send a JSON object, for example {"action":"subscribe","symbols":["AAPL"]}')
    action, tag = message.get("action"), _checked_id(message.get("id"))
    if action == "ping":
        return Ping(tag)
    if action == "subscribe":
        channels = _channels(message, DEFAULT_CHANNELS)
        symbols = _symbols(message)
        if symbols is None and channels != (STATUS,):
            raise Refusal("no_symbols", 'send symbols: "symbols":["AAPL","EUR/USD"], or ["*"] for all')
        since = message.get("since")
        try:
            position = None if since is None else parse_position(since)
        except BadInput as error:
            raise Refusal("bad_since", str(error)) from None
        _check_counts(len(channels), len(channels) * len(symbols or ()))
        return Subscribe(pairs_of(channels, symbols or ()), position, tag)
    if action == "unsubscribe":
        symbols = _symbols(message)
        named = _channels(message, ()) if "channels" in message else None
        return Unsubscribe(
            None if symbols is None else frozenset(symbols), None if named is None else frozenset(named), tag
        )
    raise Refusal("unknown_action", f"unknown action {cut(repr(action))}; use subscribe, unsubscribe or ping")


def _checked_id(tag: Any) -> Any:
    """Return the id of a command, which its answers repeat. Raises Refusal for a large or deeply nested id."""
    size = MAX_ID_BYTES + 1
    with contextlib.suppress(RecursionError):
        size = len(msgspec.json.encode(tag))
    if size > MAX_ID_BYTES:
        raise Refusal("bad_id", f"the id has more than {MAX_ID_BYTES:,} bytes as JSON; send a number or a short text")
    return tag


def _channels(message: dict[str, Any], default: tuple[str, ...]) -> tuple[str, ...]:
    value = message.get("channels", default)
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise Refusal("bad_channels", '"channels" must be a list of names, for example ["ticks","bars.1m"]')
    if len(value) > MAX_CHANNELS:
        _check_counts(len(value), 0)
    value = tuple(dict.fromkeys(value))
    for name in value:
        if name not in CHANNELS and not _is_by_activity(name):
            if name in _NOT_SENT:
                raise Refusal(
                    "unknown_channel",
                    f"the stream has no channel {name}, only 1m, 5m, 1d and activity intervals; read coarser bars over "
                    "REST, or build them from bars.5m or bars.1d",
                )
            raise Refusal(
                "unknown_channel",
                f"unknown channel {cut(name)!r}; use {', '.join(CHANNELS)}, or bars and analytics of an activity "
                "interval, such as bars.100t, bars.10000v or bars.1000000d",
            )
    if not value and not default:
        return ()
    if not value:
        raise Refusal("bad_channels", f'"channels" is empty; omit it for {", ".join(default)}')
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
        raise Refusal("bad_symbols", '"symbols" must be a list of texts, for example ["AAPL","EUR/USD"] or ["*"]')
    if not value:
        return None
    if len(value) > MAX_SYMBOLS:
        raise Refusal("too_many_symbols", f'{len(value)} symbols; name at most {MAX_SYMBOLS}, or subscribe to ["*"]')
    try:
        return tuple(dict.fromkeys(EVERY if name.strip() == EVERY else check_symbol(name) for name in value))
    except BadInput as error:
        raise Refusal("bad_symbols", str(error)) from None


def pairs_of(channels: Iterable[str], symbols: Iterable[str]) -> Subscription:
    """Return every pair of a channel and a symbol; `status` is paired with `*`."""
    symbols = tuple(symbols)
    return frozenset(
        (channel, symbol) for channel in channels for symbol in ((EVERY,) if channel == STATUS else symbols)
    )


def check_size(subscription: Subscription) -> None:
    """Raise Refusal if the subscription has more symbols, channels or pairs than a connection may have."""
    _check_counts(len({channel for channel, _ in subscription}), len(subscription))
    symbols = {symbol for _, symbol in subscription}
    if len(symbols) > MAX_SYMBOLS:
        raise Refusal(
            "too_many_symbols",
            f'{len(symbols)} symbols in all; name at most {MAX_SYMBOLS}, or subscribe to ["*"]',
        )


def _check_counts(channels: int, pairs: int) -> None:
    if channels > MAX_CHANNELS:
        raise Refusal(
            "too_many_channels",
            f"{channels} channels; name at most {MAX_CHANNELS}, or subscribe to bars, which has all intervals",
        )
    if pairs > MAX_PAIRS:
        raise Refusal(
            "too_many_pairs",
            f'{pairs:,} pairs of channel and symbol; use at most {MAX_PAIRS:,}, ["*"], or fewer channels',
        )


def by_channel(subscription: Subscription) -> dict[str, set[str]]:
    """Return the symbols of each channel."""
    symbols: dict[str, set[str]] = {}
    for channel, symbol in subscription:
        symbols.setdefault(channel, set()).add(symbol)
    return symbols


def describe(subscription: Subscription) -> dict[str, list[str]]:
    """Return the subscription in the form of the server's messages: symbols by channel, sorted."""
    return {channel: sorted(symbols) for channel, symbols in sorted(by_channel(subscription).items())}


class Filter:
    """A subscription prepared for selecting rows by columns. Rows of the subscription `without` are left out."""

    def __init__(self, subscription: Subscription, without: Subscription = NOTHING) -> None:
        self.subscription = subscription
        self._kinds = _kind_filters(subscription)
        self._without = _kind_filters(without) if without else None

    def wants(self, kind: str) -> bool:
        """Return True if the subscription contains any row of this kind."""
        return bool(self._kinds[kind].by_interval)

    def every(self, kind: str) -> bool:
        """Return True if the subscription contains all symbols of this kind for at least one interval."""
        return any(symbols is None for symbols in self._kinds[kind].by_interval.values())

    def named(self) -> set[str]:
        """Return the symbols that the subscription names."""
        return {symbol for _, symbol in self.subscription if symbol != EVERY}

    def keys(self, kind: str) -> list[tuple[str, str | None]]:
        """Return the named symbols of this kind as (symbol, interval). An interval of None means all intervals."""
        return [
            (symbol, interval)
            for interval, symbols in self._kinds[kind].by_interval.items()
            for symbol in sorted(symbols or ())
        ]

    def rows(self, record: StreamRecord) -> npt.NDArray[np.bool_] | bool:
        """Return the selected rows of a record: a mask, True for all, False for none."""
        mask = self._kinds[record.kind].mask(record)
        if mask is False or self._without is None:
            return mask
        known = self._without[record.kind].mask(record)
        if known is False:
            return mask
        if known is True:
            return False
        chosen: npt.NDArray[np.bool_] = ~known if mask is True else mask & ~known
        return chosen if chosen.any() else False

    def status(self) -> bool:
        """Return True if status events are selected."""
        return self.wants(STATUS) and not (self._without and self._without[STATUS].by_interval)


MAX_MASKS: Final = 256
"""Maximum symbol masks that a filter caches per kind; the cache is cleared when full."""


def _kind_filters(subscription: Subscription) -> dict[str, _KindFilter]:
    """Return the filter of each kind. Reads the subscription once."""
    symbols = by_channel(subscription)
    return {kind: _KindFilter(kind, symbols) for kind in KINDS}


class _KindFilter:
    """The selected symbols of one kind, by interval. The symbols None are all symbols; the interval None is any."""

    def __init__(self, kind: str, symbols_of: Mapping[str, set[str]]) -> None:
        self.by_interval: dict[str | None, frozenset[str] | None] = {}
        self._masks: dict[tuple[int, str | None], tuple[list[str], npt.NDArray[np.bool_]]] = {}
        for channel, symbols in symbols_of.items():
            head, _, interval = channel.partition(".")
            if head == kind:
                self.by_interval[interval or None] = None if EVERY in symbols else frozenset(symbols)

    def _symbol_mask(
        self, dictionary: list[str], interval: str | None, symbols: frozenset[str]
    ) -> npt.NDArray[np.bool_]:
        """Return a mask of the dictionary's texts that are among the symbols. A feed's records share one dictionary."""
        cached = self._masks.get((id(dictionary), interval))
        if cached is None or cached[0] is not dictionary:
            if len(self._masks) >= MAX_MASKS:
                self._masks.clear()
            selected = np.fromiter((name in symbols for name in dictionary), dtype=bool, count=len(dictionary))
            cached = self._masks[id(dictionary), interval] = (dictionary, selected)
        return cached[1]

    def mask(self, record: StreamRecord) -> npt.NDArray[np.bool_] | bool:
        if not self.by_interval:
            return False
        if None in self.by_interval and self.by_interval[None] is None:
            return True
        chosen: npt.NDArray[np.bool_] | None = None
        for interval, symbols in self.by_interval.items():
            if symbols is None:
                rows = np.ones(len(record), dtype=bool)
            else:
                rows = self._symbol_mask(record.symbols, interval, symbols)[record.codes]
            if interval is not None:
                rows = rows & (record.columns["interval"] == interval)
            chosen = rows if chosen is None else chosen | rows
        return chosen if chosen is not None and chosen.any() else False
