"""Notes about pairs of currencies that are written without a slash, and therefore have an exchange's calendar. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tickerplant.core.currency import slashed_pair
from tickerplant.core.rules import Rules
from tickerplant.core.sessions import ALWAYS_OPEN, FOREIGN_EXCHANGE, Calendars


def notes_of_pairs(symbols: Iterable[str], rules: Rules) -> Iterator[str]:
    """Yield a note about the symbols that name a pair of currencies and have the sessions of an exchange, if any."""
    calendars = Calendars(rules)
    pairs = [(symbol, pair) for symbol in symbols if (pair := slashed_pair(symbol)) is not None]
    found = [(symbol, pair, name) for symbol, pair in pairs for name in [calendars.of(symbol).name]]
    wrong = [each for each in found if each[2] not in (FOREIGN_EXCHANGE, ALWAYS_OPEN)]
    if wrong:
        symbol, pair, name = wrong[0]
        more = f" and {len(wrong) - 1:,} more symbols" if len(wrong) > 1 else ""
        yield (
            f"pairs of currencies have the sessions of {name}: {symbol}{more}. Their daily bars lack the other hours. "
            f"Write {pair}, or set rules.calendars to {FOREIGN_EXCHANGE} for them"
        )
