"""The budget of one vendor: what has been spent of each quota, and when a request may go out. Pure.

A vendor counts a request by its own clock, when it comes in; we know when it went out and, later, when its answer was
here. So a request counts in every window that it may have fallen into: from `GUARD_US` before it went out to
`GUARD_US` behind its answer, or, while there is none (it is on its way; a kill came in between), behind the longest
flight. With the vendor's clock no more than the guard away from ours, the vendor never counts more than we do in any
window, and we never spend more than the limit.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from tickerplant.core.errors import SnapshotRefused
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, NEVER_US, SECOND_US
from tickerplant.market_data.vendors.port import Credits, Quota
from tickerplant.market_data.vendors.quota_windows import touched, window_of

FORMAT: Final = 1
GUARD_US: Final = SECOND_US
"""How far a vendor's clock may be from ours."""
FLIGHT_US: Final = 60 * SECOND_US
"""A request is given up after this long (the desk sees to it), so later than this it does not come in."""
UNLIMITED: Final = 1 << 40
"""Credits available where no quota is known."""
_BURST_MAX_US: Final = MINUTE_US
_REFUSED_MAX_US: Final = HOUR_US
_ROLLING_PARTS: Final = 120
"""A rolling minute is counted in half seconds: spending is remembered at the end of its part."""


class Purpose(enum.Enum):
    """What a request is for. HISTORY leaves the reserve untouched; HEAL (of gaps) may take it."""

    HISTORY = "history"
    HEAL = "heal"


@dataclass(frozen=True, slots=True)
class Charge:
    """What was debited for one request, and when."""

    credits: int
    at_us: int


@dataclass(frozen=True, slots=True)
class WindowStatus:
    """How a quota stands in the window of now. `history_left`: what of `left` is not kept back for gaps.

    `resets_us`: when the window ends; of a rolling quota, when all that was spent will be forgotten.
    """

    quota: Quota
    used: int
    left: int
    history_left: int
    resets_us: int


class _Entry(msgspec.Struct, array_like=True):
    """Credits that count in `[start_us, end_us)`; of a rolling quota both are when they were spent, at the latest."""

    start_us: int
    end_us: int
    used: int


class _State(msgspec.Struct, kw_only=True):
    """What is kept. `spent`: by period, so that a new limit or zone in the settings forgets nothing."""

    format: int = FORMAT
    spent: dict[str, list[_Entry]] = {}
    blocked_us: int = NEVER_US
    blocked_by: str = ""
    refusals: int = 0
    last_us: int = NEVER_US
    requests: int = 0
    credits: int = 0


class Budget:
    """One vendor's budget. `reserve`: the share of every quota, 0 to 1, that HISTORY leaves; rounded down.

    `spend` debits before a request goes out; `settle` says that it is over, `refund` that it never went out. Times are
    microseconds UTC and may go back a little (clocks are set): what was spent in a window stays known for two more.
    `flight_us`: the longest that a request takes to come in. Raises SnapshotRefused for a kept state of another format.
    """

    def __init__(
        self, quotas: Sequence[Quota], *, reserve: float, pace_s: float = 0.0, flight_us: int = FLIGHT_US,
        kept: bytes | None = None,
    ) -> None:  # fmt: skip
        self.quotas = tuple(quotas)
        self._reserve = reserve
        self._flight_us = flight_us
        self._pace_us = int(pace_s * SECOND_US)
        self._state = _decoded(kept)

    # May it go out? --------------------------------------------------------------------------------------------------

    def allowed(self, quota: Quota, purpose: Purpose) -> int:
        """Return how many credits of a whole window are there for a purpose."""
        return quota.credits - (int(quota.credits * self._reserve) if purpose is Purpose.HISTORY else 0)

    def most(self, purpose: Purpose) -> int:
        """Return the greatest cost that a request can ever have."""
        return min((self.allowed(quota, purpose) for quota in self.quotas), default=UNLIMITED)

    def available(self, now_us: int, purpose: Purpose) -> int:
        """Return how many credits may be spent at this instant; the pace is not asked."""
        if self.blocked(now_us) is not None:
            return 0
        return max(
            0, min((self.allowed(q, purpose) - self._used_about(q, now_us) for q in self.quotas), default=UNLIMITED)
        )

    def earliest(self, now_us: int, cost: int, purpose: Purpose) -> int | None:
        """Return when a request of that cost may go out, `now_us` if at once; None: never, it costs too much."""
        if cost > self.most(purpose):
            return None
        blocked = self.blocked(now_us)
        last = self._state.last_us if self._state.last_us <= now_us else NEVER_US  # a clock that was set back
        at = max(now_us, last + self._pace_us, blocked[0] if blocked else now_us)
        while True:
            later = max((self._free_at(q, at, cost, self.allowed(q, purpose)) for q in self.quotas), default=at)
            if later <= at:
                return at
            at = later

    def _free_at(self, quota: Quota, at_us: int, cost: int, allowed: int) -> int:
        if quota.rolling:
            used, free = self._used_about(quota, at_us), at_us
            for entry in sorted(self._entries(quota), key=lambda entry: entry.end_us):
                if used + cost <= allowed:
                    break
                if _counts_back_to(quota, at_us) < entry.end_us:
                    used -= entry.used
                    free = entry.end_us + quota.period_us + GUARD_US
            return free
        full = [end for start, end in self._reach(quota, at_us) if self._used(quota, start, end) + cost > allowed]
        return full[-1] + GUARD_US if full else at_us

    # Spending --------------------------------------------------------------------------------------------------------

    def spend(self, now_us: int, cost: int) -> Charge:
        """Debit a request that is about to go out. The caller has asked `earliest`."""
        for quota in self._periods():
            for start, end in self._counted_in(quota, now_us, now_us + self._flight_us):
                self._add(quota, start, end, cost)
            self._forget(quota, now_us)
        self._state.last_us = now_us
        self._state.requests += 1
        self._state.credits += cost
        return Charge(cost, now_us)

    def settle(self, charge: Charge, now_us: int) -> None:
        """Say that the vendor has counted the request by now, because it has answered or was given up.

        The pace counts from here: when the request came in is not known, and the next may be quicker on its way.
        """
        self._state.last_us = max(self._state.last_us, now_us)
        for quota in self._periods():
            before = list(self._counted_in(quota, charge.at_us, charge.at_us + self._flight_us))
            after = list(self._counted_in(quota, charge.at_us, max(now_us, charge.at_us)))
            for start, end in set(before) - set(after):
                self._add(quota, start, end, -charge.credits)
            for start, end in set(after) - set(before):
                self._add(quota, start, end, charge.credits)

    def refund(self, charge: Charge) -> None:
        """Say that the request never went out."""
        for quota in self._periods():
            for start, end in self._counted_in(quota, charge.at_us, charge.at_us + self._flight_us):
                self._add(quota, start, end, -charge.credits)
        self._state.requests -= 1
        self._state.credits -= charge.credits

    # Learning --------------------------------------------------------------------------------------------------------

    def answered(self) -> None:
        """Say that the vendor gave an answer: it does not turn us away."""
        self._state.refusals = 0
        self._state.blocked_by = ""

    def heard(self, credits: Credits, charge: Charge, now_us: int) -> None:
        """Take what an answer's headers say, wherever that is worse than what we know: others may use the same key.

        A header that may be of either side of midnight is taken for the day before: the next answer says it of the new
        one, and a whole day is not given up for an old number.
        """
        for quota in self._meant(daily=credits.daily):
            said = max(credits.used or 0, quota.credits - credits.left if credits.left is not None else 0)
            said = min(said, quota.credits)
            if quota.rolling:
                if (more := said - self._used_about(quota, now_us)) > 0:
                    at = _part_end(quota, now_us)
                    self._add(quota, at, at, more)
                continue
            windows = list(touched(quota, charge.at_us - GUARD_US, max(now_us, charge.at_us) + GUARD_US))
            for start, end in windows[:1] if quota.daily else windows:
                if (more := said - self._used(quota, start, end)) > 0:
                    self._add(quota, start, end, more)

    def quota_spent(self, now_us: int, retry_after_s: float, *, daily: bool, reason: str) -> int:
        """Take a refusal for want of credits: nothing goes out until the window is over; return until when.

        Of a day that is the vendor's, whatever it says; of a minute no less than it says; when other windows end it
        knows better than we do. Longer each time in a row, for it may refuse all day without saying so.
        """
        until = now_us + int(min(max(retry_after_s, 1.0), DAY_US / SECOND_US) * SECOND_US)
        meant = [q for q in self._meant(daily=daily) if not q.rolling and (q.daily or q.period_us == MINUTE_US)]
        ends = [window_of(quota, now_us - GUARD_US)[1] + GUARD_US for quota in meant]
        if daily:
            until = max(ends, default=until)
        else:
            wait = min(_REFUSED_MAX_US, (until - now_us) << min(self._state.refusals, 16))
            until = max([until, now_us + wait, *ends])
        return self._block(until, reason)

    def burst(self, now_us: int, retry_after_s: float, reason: str) -> int:
        """Take a refusal for haste: nothing goes out for a while, longer each time in a row; return until when."""
        wait = min(int(retry_after_s * SECOND_US) << min(self._state.refusals, 16), _BURST_MAX_US)
        return self._block(now_us + max(wait, int(retry_after_s * SECOND_US)), reason)

    def _block(self, until_us: int, reason: str) -> int:
        self._state.refusals += 1
        if until_us >= self._state.blocked_us:
            self._state.blocked_us, self._state.blocked_by = until_us, reason
        return self._state.blocked_us

    # Looking ---------------------------------------------------------------------------------------------------------

    @property
    def requests(self) -> int:
        """Requests debited, ever."""
        return self._state.requests

    @property
    def credits(self) -> int:
        """Credits debited, ever."""
        return self._state.credits

    def blocked(self, now_us: int) -> tuple[int, str] | None:
        """Return until when the vendor wants to hear nothing of us, and why; None if it does."""
        until = self._state.blocked_us
        # No block is longer than a vendor's day: one that is was made by a clock that was wrong.
        return (until, self._state.blocked_by) if now_us < until < now_us + 2 * DAY_US else None

    def status(self, now_us: int) -> list[WindowStatus]:
        """Return how each quota stands."""
        return [self._status(quota, now_us) for quota in self.quotas]

    def _status(self, quota: Quota, now_us: int) -> WindowStatus:
        if quota.rolling:
            used = self._used_about(quota, now_us)
            ends = max((entry.end_us for entry in self._entries(quota)), default=NEVER_US)
            resets = max(now_us, ends + quota.period_us + GUARD_US)
        else:
            start, resets = window_of(quota, now_us)
            used = self._used(quota, start, resets)
        left = max(0, quota.credits - used)
        return WindowStatus(quota, used, left, max(0, self.allowed(quota, Purpose.HISTORY) - used), resets)

    def encode(self) -> bytes:
        """Return the bytes to keep."""
        return msgspec.msgpack.encode(self._state)

    # What counts where -----------------------------------------------------------------------------------------------

    def _periods(self) -> Iterator[Quota]:
        """Yield one quota of each set of windows: two limits of one window share what is spent."""
        yield from {(_key(quota), quota.zone): quota for quota in self.quotas}.values()

    def _meant(self, *, daily: bool) -> list[Quota]:
        """Return the quotas that a vendor means by `the day` or else `the minute`."""
        shortest = min((quota.period_us for quota in self.quotas if not quota.daily), default=0)
        return [q for q in self.quotas if (q.daily if daily else q.period_us == shortest)]

    def _counted_in(self, quota: Quota, from_us: int, to_us: int) -> Iterator[tuple[int, int]]:
        if quota.rolling:
            at = _part_end(quota, to_us)
            yield at, at
        else:
            yield from touched(quota, from_us - GUARD_US, to_us + GUARD_US)

    def _reach(self, quota: Quota, at_us: int) -> list[tuple[int, int]]:
        """Return the windows that a request of this instant may fall into."""
        return list(touched(quota, at_us - GUARD_US, at_us + self._flight_us + GUARD_US))

    def _entries(self, quota: Quota) -> list[_Entry]:
        return self._state.spent.setdefault(_key(quota), [])

    def _used(self, quota: Quota, start_us: int, end_us: int) -> int:
        """Return what counts in a window. After a change of zone, what was spent in any day that it has a part of."""
        return sum(e.used for e in self._entries(quota) if e.start_us < end_us and start_us < e.end_us)

    def _used_about(self, quota: Quota, at_us: int) -> int:
        """Return what counts in the worst of the windows that a request of this instant may fall into."""
        if quota.rolling:
            return sum(e.used for e in self._entries(quota) if e.end_us > _counts_back_to(quota, at_us))
        return max(self._used(quota, start, end) for start, end in self._reach(quota, at_us))

    def _add(self, quota: Quota, start_us: int, end_us: int, credits: int) -> None:
        entries = self._entries(quota)
        for entry in entries:
            if entry.start_us == start_us and entry.end_us == end_us:
                entry.used = max(0, entry.used + credits)
                return
        if credits > 0:
            entries.append(_Entry(start_us, end_us, credits))

    def _forget(self, quota: Quota, now_us: int) -> None:
        """Drop what lies two periods back; what lies so far ahead was spent by a clock that was wrong."""
        span = 2 * quota.period_us + self._flight_us
        self._state.spent[_key(quota)] = [
            e for e in self._entries(quota) if e.used and e.end_us > now_us - span and e.start_us < now_us + span
        ]


def _key(quota: Quota) -> str:
    return f"{'rolling ' if quota.rolling else ''}{quota.period_us}"


def _counts_back_to(quota: Quota, at_us: int) -> int:
    return at_us - quota.period_us - GUARD_US


def _part_end(quota: Quota, us: int) -> int:
    part = -(-quota.period_us // _ROLLING_PARTS)
    return us - us % part + part


def _decoded(kept: bytes | None) -> _State:
    if kept is None:
        return _State()
    try:
        state = msgspec.msgpack.decode(kept, type=_State)
    except msgspec.MsgspecError as error:
        raise SnapshotRefused(f"a vendor's budget cannot be read: {error}") from error
    if state.format != FORMAT:
        raise SnapshotRefused(f"a vendor's budget has format {state.format}, this code reads {FORMAT}")
    return state
