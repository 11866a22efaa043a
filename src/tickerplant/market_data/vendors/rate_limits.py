"""The rate limits of one vendor: the spent credits of each quota, and the earliest time of a request. Pure.

A vendor counts a request by its own clock, at its arrival. The limiter has only the time of sending and, later, the
time of the answer. A request therefore counts in every window in which it may have arrived: from `GUARD_US` before it
was sent to `GUARD_US` after its answer. If there is no answer, the request counts until `GUARD_US` after its longest
flight. If the vendor's clock differs by no more than the guard, no window of the vendor counts more than ours. The
limit is then never exceeded.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from tickerplant.core.errors import SnapshotRefused
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, NEVER_US, SECOND_US
from tickerplant.market_data.vendors.bounds import bounded_count, bounded_wait_us
from tickerplant.market_data.vendors.port import Credits, Quota
from tickerplant.market_data.vendors.quota_windows import touched, window_of

FORMAT: Final = 1
GUARD_US: Final = SECOND_US
"""Allowed difference of a vendor's clock from ours."""
FLIGHT_US: Final = 60 * SECOND_US
"""Default of a request's longest flight. After this time, the scheduler abandons the request, which
cannot arrive later."""
UNLIMITED: Final = 1 << 40
"""Available credits if the vendor has no quota."""
_BURST_MAX_US: Final = MINUTE_US
_REFUSED_MAX_US: Final = HOUR_US
_ROLLING_PARTS: Final = 120
"""Count of the parts of a rolling window: a minute has parts of half a second. A spent credit counts at the end of its
part."""


class Purpose(enum.Enum):
    """The purpose of a request. HISTORY does not use the reserve; GAP_FILL may."""

    HISTORY = "history"
    GAP_FILL = "heal"


@dataclass(frozen=True, slots=True)
class Charge:
    """The credits debited for one request, and the time."""

    credits: int
    at_us: int


@dataclass(frozen=True, slots=True)
class WindowStatus:
    """A quota in its current window. `history_left`: the part of `left` that is not reserved for gaps.

    `resets_us`: end of the window. A rolling quota resets when no spent credit counts any longer.
    """

    quota: Quota
    used: int
    left: int
    history_left: int
    resets_us: int


class _Entry(msgspec.Struct, array_like=True):
    """Credits that count in `[start_us, end_us)`. For a rolling quota, both times are the latest time of spending."""

    start_us: int
    end_us: int
    used: int


class _State(msgspec.Struct, kw_only=True):
    """The stored state. `spent`: entries by period, which remain valid if the settings change a limit or zone."""

    format: int = FORMAT
    spent: dict[str, list[_Entry]] = {}
    blocked_us: int = NEVER_US
    blocked_by: str = ""
    rejections: int = msgspec.field(default=0, name="refusals")
    last_us: int = NEVER_US
    requests: int = 0
    credits: int = 0


class RateLimits:
    """The quotas of one vendor.

    `reserve`: share of every quota (0 to 1, credits rounded down) that HISTORY does not use.

    `spend` debits a request before it is sent. `settle` records its end. `refund` cancels the debit of a request that
    was never sent. Times are microseconds UTC. Spending is stored for two more windows, because a clock may be set back
    a little. `flight_us`: longest flight of a request. Raises SnapshotRefused for a stored state of another format.
    """

    def __init__(
        self, quotas: Sequence[Quota], *, reserve: float, pace_s: float = 0.0, flight_us: int = FLIGHT_US,
        stored: bytes | None = None,
    ) -> None:  # fmt: skip
        self.quotas = tuple(quotas)
        self._reserve = reserve
        self._flight_us = flight_us
        self._pace_us = int(pace_s * SECOND_US)
        self._state = _decoded(stored)

    # Availability ----------------------------------------------------------------------------------------------------

    def allowed(self, quota: Quota, purpose: Purpose) -> int:
        """Return the credits that a purpose may spend in a whole window."""
        return quota.credits - (int(quota.credits * self._reserve) if purpose is Purpose.HISTORY else 0)

    def most(self, purpose: Purpose) -> int:
        """Return the maximum cost of one request for a purpose, in credits."""
        return min((self.allowed(quota, purpose) for quota in self.quotas), default=UNLIMITED)

    def available(self, now_us: int, purpose: Purpose) -> int:
        """Return the credits that may be spent now, regardless of the pace."""
        if self.blocked(now_us) is not None:
            return 0
        return max(
            0, min((self.allowed(q, purpose) - self._used_around(q, now_us) for q in self.quotas), default=UNLIMITED)
        )

    def earliest(self, now_us: int, cost: int, purpose: Purpose) -> int | None:
        """Return the first time at which a request may be sent; None if `cost` exceeds `most(purpose)`."""
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
            used, free = self._used_around(quota, at_us), at_us
            for entry in sorted(self._entries(quota), key=lambda entry: entry.end_us):
                if used + cost <= allowed:
                    break
                if _counts_back_to(quota, at_us) < entry.end_us:
                    used -= entry.used
                    free = entry.end_us + quota.period_us + GUARD_US
            return free
        full = [end for start, end in self._windows_at(quota, at_us) if self._used(quota, start, end) + cost > allowed]
        return full[-1] + GUARD_US if full else at_us

    # Spending --------------------------------------------------------------------------------------------------------

    def spend(self, now_us: int, cost: int) -> Charge:
        """Debit a request that is about to be sent, and return the debit. Call `earliest` first."""
        for quota in self._periods():
            for start, end in self._counted_in(quota, now_us, now_us + self._flight_us):
                self._add(quota, start, end, cost)
            self._forget(quota, now_us)
        self._state.last_us = now_us
        self._state.requests += 1
        self._state.credits += cost
        return Charge(cost, now_us)

    def settle(self, charge: Charge, now_us: int) -> None:
        """Record that a request has ended, by an answer or a timeout. The vendor has counted it by now.

        The pace is measured from now: the arrival time is not known, and the next request may be faster.
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
        """Cancel the debit of a request that was never sent."""
        for quota in self._periods():
            for start, end in self._counted_in(quota, charge.at_us, charge.at_us + self._flight_us):
                self._add(quota, start, end, -charge.credits)
        self._state.requests -= 1
        self._state.credits -= charge.credits

    # Answers ---------------------------------------------------------------------------------------------------------

    def answered(self) -> None:
        """Record that the vendor answered, which ends a series of rejections."""
        self._state.rejections = 0
        self._state.blocked_by = ""

    def record_credits(self, credits: Credits, charge: Charge, now_us: int) -> None:
        """Record the credits of an answer's headers if the vendor counted more than we did.

        Other programs may use the same key. A header near midnight counts for the previous day. The next answer
        contains the count of the new day, and an old count must not block a whole day.
        """
        for quota in self._quotas_meant(daily=credits.daily):
            left = bounded_count(credits.left)
            used = max(bounded_count(credits.used) or 0, quota.credits - left if left is not None else 0)
            used = min(used, quota.credits)
            if quota.rolling:
                if (more := used - self._used_around(quota, now_us)) > 0:
                    at = _part_end(quota, now_us)
                    self._add(quota, at, at, more)
                continue
            windows = list(touched(quota, charge.at_us - GUARD_US, max(now_us, charge.at_us) + GUARD_US))
            for start, end in windows[:1] if quota.daily else windows:
                if (more := used - self._used(quota, start, end)) > 0:
                    self._add(quota, start, end, more)

    def quota_spent(self, now_us: int, retry_after_s: float, *, daily: bool, reason: str) -> int:
        """Block requests after a quota rejection; return the end of the block.

        A daily rejection blocks until the window of the daily quota ends, regardless of Retry-After. A rejection by a
        quota of a minute blocks until the later of the window's end and Retry-After. Without such a quota, a rejection
        blocks until Retry-After. The block doubles with each consecutive rejection that is not daily, to at most an
        hour: a vendor may reject requests all day without a reason.
        """
        until = now_us + max(bounded_wait_us(retry_after_s), SECOND_US)
        meant = [q for q in self._quotas_meant(daily=daily) if not q.rolling and (q.daily or q.period_us == MINUTE_US)]
        ends = [window_of(quota, now_us - GUARD_US)[1] + GUARD_US for quota in meant]
        if daily:
            until = max(ends, default=until)
        else:
            wait = min(_REFUSED_MAX_US, (until - now_us) << min(self._state.rejections, 16))
            until = max([until, now_us + wait, *ends])
        return self._block(until, reason)

    def burst(self, now_us: int, retry_after_s: float, reason: str) -> int:
        """Block requests after a rejection of a burst; return the end of the block.

        Consecutive rejections double the block, up to a minute or `retry_after_s`, whichever is longer.
        """
        asked = bounded_wait_us(retry_after_s)
        wait = min(asked << min(self._state.rejections, 16), _BURST_MAX_US)
        return self._block(now_us + max(wait, asked), reason)

    def _block(self, until_us: int, reason: str) -> int:
        self._state.rejections += 1
        if until_us >= self._state.blocked_us:
            self._state.blocked_us, self._state.blocked_by = until_us, reason
        return self._state.blocked_us

    # Status ----------------------------------------------------------------------------------------------------------

    @property
    def requests(self) -> int:
        """Return the count of requests debited since the state was first stored."""
        return self._state.requests

    @property
    def credits(self) -> int:
        """Return the credits debited since the state was first stored."""
        return self._state.credits

    def blocked(self, now_us: int) -> tuple[int, str] | None:
        """Return the end of the current block and its reason; None if requests are not blocked."""
        until = self._state.blocked_us
        # No block lasts two days: a longer block was computed with a wrong clock.
        return (until, self._state.blocked_by) if now_us < until < now_us + 2 * DAY_US else None

    def status(self, now_us: int) -> list[WindowStatus]:
        """Return the status of each quota."""
        return [self._status(quota, now_us) for quota in self.quotas]

    def _status(self, quota: Quota, now_us: int) -> WindowStatus:
        if quota.rolling:
            used = self._used_around(quota, now_us)
            ends = max((entry.end_us for entry in self._entries(quota)), default=NEVER_US)
            resets = max(now_us, ends + quota.period_us + GUARD_US)
        else:
            start, resets = window_of(quota, now_us)
            used = self._used(quota, start, resets)
        left = max(0, quota.credits - used)
        return WindowStatus(quota, used, left, max(0, self.allowed(quota, Purpose.HISTORY) - used), resets)

    def encode(self) -> bytes:
        """Return the state as msgpack, the stored form."""
        return msgspec.msgpack.encode(self._state)

    # Windows ---------------------------------------------------------------------------------------------------------

    def _periods(self) -> Iterator[Quota]:
        """Yield one quota for each set of windows: two limits of one window share the spent credits."""
        yield from {(_key(quota), quota.zone): quota for quota in self.quotas}.values()

    def _quotas_meant(self, *, daily: bool) -> list[Quota]:
        """Return the daily quotas, or the quotas with the shortest period (`the minute` in a vendor's message)."""
        shortest = min((quota.period_us for quota in self.quotas if not quota.daily), default=0)
        return [q for q in self.quotas if (q.daily if daily else q.period_us == shortest)]

    def _counted_in(self, quota: Quota, start_us: int, end_us: int) -> Iterator[tuple[int, int]]:
        if quota.rolling:
            at = _part_end(quota, end_us)
            yield at, at
        else:
            yield from touched(quota, start_us - GUARD_US, end_us + GUARD_US)

    def _windows_at(self, quota: Quota, at_us: int) -> list[tuple[int, int]]:
        """Return the windows in which a request sent at `at_us` may arrive."""
        return list(touched(quota, at_us - GUARD_US, at_us + self._flight_us + GUARD_US))

    def _entries(self, quota: Quota) -> list[_Entry]:
        return self._state.spent.setdefault(_key(quota), [])

    def _used(self, quota: Quota, start_us: int, end_us: int) -> int:
        """Return the credits that count in a window.

        After a change of zone, the credits of every overlapping day count.
        """
        return sum(e.used for e in self._entries(quota) if e.start_us < end_us and start_us < e.end_us)

    def _used_around(self, quota: Quota, at_us: int) -> int:
        """Return the spent credits of the fullest window in which a request sent at `at_us` may arrive."""
        if quota.rolling:
            return sum(e.used for e in self._entries(quota) if e.end_us > _counts_back_to(quota, at_us))
        return max(self._used(quota, start, end) for start, end in self._windows_at(quota, at_us))

    def _add(self, quota: Quota, start_us: int, end_us: int, credits: int) -> None:
        entries = self._entries(quota)
        for entry in entries:
            if entry.start_us == start_us and entry.end_us == end_us:
                entry.used = max(0, entry.used + credits)
                return
        if credits > 0:
            entries.append(_Entry(start_us, end_us, credits))

    def _forget(self, quota: Quota, now_us: int) -> None:
        """Remove entries more than two periods old, and entries far in the future, which a wrong clock has caused."""
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


def _decoded(stored: bytes | None) -> _State:
    if stored is None:
        return _State()
    try:
        state = msgspec.msgpack.decode(stored, type=_State)
    except msgspec.MsgspecError as error:
        raise SnapshotRefused(
            f"a vendor's rate limits cannot be read: {error}; run the version that wrote them"
        ) from error
    if state.format != FORMAT:
        raise SnapshotRefused(
            f"a vendor's rate limits have format {state.format}; this version reads format {FORMAT}: run the version "
            "that wrote them"
        )
    return state
