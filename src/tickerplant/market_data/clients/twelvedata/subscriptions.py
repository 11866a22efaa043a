"""The symbols of a stream: wanted symbols, symbols that the vendor rejected, and the messages to subscribe. Pure.

Times are seconds of one monotonic clock, given by the caller.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from tickerplant.core.errors import BadInput
from tickerplant.core.sessions import Calendars
from tickerplant.core.symbols import check_symbol
from tickerplant.market_data.clients.liveness import OpenHours
from tickerplant.market_data.clients.twelvedata.quotes import SubscribeStatus

MAX_SYMBOLS: Final = 2_000
"""Maximum symbols per message. The message has at most 66 KB (the vendor allows a megabyte), and the answer has about
200 KB."""
RESET: Final = '{"action":"reset"}'
_RETRY_FIRST_S: Final = 60.0
_MAX_NOTES: Final = 20
"""Maximum notes about one answer."""


class Subscriptions:
    """The wanted symbols, and the state of their subscriptions over all connections.

    `retry_s`: seconds for which a rejected symbol is not requested again.
    """

    def __init__(self, symbols: Sequence[str], calendars: Calendars, retry_s: float) -> None:
        self._calendars = calendars
        self._retry_s = retry_s
        self._wanted: dict[str, None] = {}
        self._rejected_s: dict[str, float] = {}
        self._reported: set[str] = set()
        self._resend_s: float | None = None
        self._resend_pause_s = _RETRY_FIRST_S
        self.hours = OpenHours(calendars, ())
        """Trading hours of the wanted symbols."""
        self.add(symbols)

    def add(self, symbols: Sequence[str]) -> list[str]:
        """Add symbols; return the new symbols."""
        new = [symbol for symbol in dict.fromkeys(map(check_symbol, symbols)) if symbol not in self._wanted]
        self._wanted.update(dict.fromkeys(new))
        self.hours = OpenHours(self._calendars, self._wanted)
        return new

    def remove(self, symbols: Sequence[str]) -> list[str]:
        """Remove symbols; return the symbols that were wanted."""
        removed = [symbol for symbol in map(check_symbol, symbols) if symbol in self._wanted]
        for symbol in removed:
            del self._wanted[symbol]
            self._rejected_s.pop(symbol, None)
            self._reported.discard(symbol)
        self.hours = OpenHours(self._calendars, self._wanted)
        return removed

    def clear(self) -> None:
        """Remove all symbols."""
        self._wanted.clear()
        self._rejected_s.clear()
        self._reported.clear()
        self.hours = OpenHours(self._calendars, ())

    def first_messages(self, now_s: float) -> list[str]:
        """Return the first messages of a connection: subscribe all symbols except symbols rejected within `retry_s`."""
        before_s = now_s - self._retry_s
        return messages("subscribe", [s for s in self._wanted if self._rejected_s.get(s, before_s) <= before_s])

    def due_messages(self, now_s: float) -> list[str]:
        """Return the messages that subscribe symbols again.

        A rejected symbol is due `retry_s` after its rejection or last repeat. If the vendor rejected a whole
        subscription, all wanted symbols that are not rejected are due after a pause.
        """
        due = [name for name, at_s in self._rejected_s.items() if now_s - at_s >= self._retry_s]
        for symbol in due:
            self._rejected_s[symbol] = now_s
        if self._resend_s is not None and now_s >= self._resend_s:
            self._resend_s = None
            due += [symbol for symbol in self._wanted if symbol not in self._rejected_s]
        return messages("subscribe", due)

    def apply(self, status: SubscribeStatus, now_s: float) -> tuple[dict[str, str], list[str]]:
        """Apply an answer to a subscription; return newly rejected symbols with their reasons, and notes for the log.

        A rejected symbol is returned once. It is returned again only if it was accepted or removed in between.
        """
        rejected: dict[str, str] = {}
        notes = [f"{status.event} {status.status}: {text}" for text in status.messages]
        if status.event != "subscribe-status":
            return rejected, notes
        by_ticker = self._by_ticker()
        for name in status.success:
            symbol = self._symbol_of(name, by_ticker)
            if symbol is not None:
                self._rejected_s.pop(symbol, None)
                self._reported.discard(symbol)
        for name, reason in status.fails:
            symbol = self._symbol_of(name, by_ticker)
            if symbol is None:
                if len(notes) < _MAX_NOTES:
                    notes.append(
                        f"the vendor rejected {name!r} ({reason}), which matches no subscribed symbol, or several; no "
                        "action is needed"
                    )
                continue
            self._rejected_s[symbol] = now_s
            if symbol not in self._reported:
                self._reported.add(symbol)
                rejected[symbol] = reason
        if status.success or status.fails:
            self._resend_pause_s = _RETRY_FIRST_S
        elif status.status == "error":
            self._resend_s = now_s + self._resend_pause_s
            notes.append(f"the vendor rejected a whole subscription; it is repeated in {self._resend_pause_s:.0f} s")
            self._resend_pause_s = min(2 * self._resend_pause_s, self._retry_s)
        return rejected, notes

    def is_rejected(self, symbol: str) -> bool:
        """Return True if the vendor rejected the symbol and has not accepted it since then."""
        return symbol in self._rejected_s

    def _by_ticker(self) -> dict[str, list[str]]:
        """Return the wanted symbols by ticker. A ticker is a symbol without its exchange."""
        found: dict[str, list[str]] = {}
        for symbol in self._wanted:
            found.setdefault(symbol.partition(":")[0], []).append(symbol)
        return found

    def _symbol_of(self, name: str, by_ticker: Mapping[str, list[str]]) -> str | None:
        """Return the wanted symbol with the vendor's name, or the only wanted symbol with the ticker of this name.

        Return None if no wanted symbol has the ticker, or if several wanted symbols have it.
        """
        with contextlib.suppress(BadInput):
            name = check_symbol(name)
        if name in self._wanted:
            return name
        found = by_ticker.get(name.partition(":")[0], [])
        return found[0] if len(found) == 1 else None


def messages(action: str, symbols: Sequence[str]) -> list[str]:
    """Return the messages that subscribe or unsubscribe symbols."""
    return [
        msgspec.json.encode(
            {"action": action, "params": {"symbols": ",".join(symbols[at : at + MAX_SYMBOLS])}}
        ).decode()
        for at in range(0, len(symbols), MAX_SYMBOLS)
    ]
