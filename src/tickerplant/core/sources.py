"""The order of sources: of several who know a bar equally completely, whose bar is published.

One ordered list, best first; the first entry that fits says the place. An entry is

    SOURCE[:ticks|:bars][@SYMBOL[ INTERVAL]]

with shell patterns for source, symbol and interval. `:ticks` are bars that the plant built from that source's prints,
`:bars` those that the source gave as bars. So `["exchange:bars", "*:ticks", "*"]` prefers an exchange's official bars
to those built here, and those to anybody else's; `["yahoo:bars@^* 1d", "*"]` takes Yahoo's daily bars for indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from tickerplant.core.errors import ConfigError

TICKS: Final = "ticks"
BARS: Final = "bars"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the order; `kind` is `ticks`, `bars` or "" for both."""

    source: str
    kind: str = ""
    symbol: str = "*"
    interval: str = "*"

    def is_about(self, symbol: str, interval: str) -> bool:
        """Return whether it speaks of this symbol and interval at all."""
        return fnmatchcase(symbol, self.symbol) and fnmatchcase(interval, self.interval)

    def fits(self, source: str, kind: str) -> bool:
        """Return whether it speaks of this source's bars of this kind."""
        return self.kind in ("", kind) and fnmatchcase(source, self.source)


def parse_entry(text: str) -> Entry:
    """Return the entry that a text says. Raises ConfigError.

    >>> parse_entry("yahoo:bars@^* 1d")
    Entry(source='yahoo', kind='bars', symbol='^*', interval='1d')
    """
    name, at, where = text.strip().partition("@")
    source, colon, kind = name.rpartition(":")
    if not colon:
        source, kind = name, ""
    symbol, _, interval = where.partition(" ")
    if not source or kind not in ("", TICKS, BARS) or (colon and not kind) or (at and not symbol):
        raise ConfigError(
            f"{text!r} is no entry of the order of sources: SOURCE[:ticks|:bars][@SYMBOL[ INTERVAL]], "
            "each a shell pattern, for example `yahoo:bars@BTC* 1d`"
        )
    return Entry(source, kind, symbol or "*", interval.strip() or "*")


class SourceOrder:
    """The order as it is used. Raises ConfigError for an entry that cannot be read."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.entries = tuple(parse_entry(text) for text in texts)

    def scope(self, symbol: str, interval: str) -> tuple[int, ...]:
        """Return which entries speak of a symbol's bars of an interval; equal scopes order sources equally."""
        return tuple(at for at, entry in enumerate(self.entries) if entry.is_about(symbol, interval))

    def rank(self, scope: Sequence[int], source: str, kind: str) -> int:
        """Return the place of a source's bars of a kind, 0 the best; after all entries if none fits."""
        return next((at for at in scope if self.entries[at].fits(source, kind)), len(self.entries))
