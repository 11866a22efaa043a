"""The order of sources, which decides between equally complete bars of several sources.

The order is one list, best first. The first entry that matches a source gives its rank. An entry is

    SOURCE[:ticks|:bars][@SYMBOL[ INTERVAL]]

with shell patterns for source, symbol and interval. `:ticks` matches bars that aggregation built from the source's
prints. `:bars` matches bars that the source sent. For example, `["exchange:bars", "*:ticks", "*"]` prefers an
exchange's official bars, then bars built from ticks, then all other bars. `["yahoo:bars@^* 1d", "*"]` prefers Yahoo's
daily bars for indices.
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

    def applies_to(self, symbol: str, interval: str) -> bool:
        """Return whether the entry applies to this symbol and interval."""
        return fnmatchcase(symbol, self.symbol) and fnmatchcase(interval, self.interval)

    def matches(self, source: str, kind: str) -> bool:
        """Return whether the entry matches this source's bars of this kind."""
        return self.kind in ("", kind) and fnmatchcase(source, self.source)


def parse_entry(text: str) -> Entry:
    """Parse one entry. Raises ConfigError that shows the format.

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
            f"{text!r} is not an entry of the order of sources; write SOURCE[:ticks|:bars][@SYMBOL[ INTERVAL]], "
            "with a shell pattern for each name, for example `yahoo:bars@BTC* 1d`"
        )
    return Entry(source, kind, symbol or "*", interval.strip() or "*")


class SourceOrder:
    """The parsed order of sources. Raises ConfigError for an invalid entry."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.entries = tuple(parse_entry(text) for text in texts)

    def scope(self, symbol: str, interval: str) -> tuple[int, ...]:
        """Return the indices of the entries for a symbol and interval. Equal scopes order sources equally."""
        return tuple(at for at, entry in enumerate(self.entries) if entry.applies_to(symbol, interval))

    def rank(self, scope: Sequence[int], source: str, kind: str) -> int:
        """Return the rank of a source's bars of a kind: 0 is best; the count of entries if none matches."""
        return next((at for at in scope if self.entries[at].matches(source, kind)), len(self.entries))
