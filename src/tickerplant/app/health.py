"""How the plant does: each part with a state and one sentence, and the worst of them as the whole.

`ok`; `degraded`: it works, but somebody should look (a feed is down, a group lags, a job failed); `failed`: it does not
work. A part that cannot be asked has failed; asking one never hides another.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tickerplant.app.wiring import parts
from tickerplant.core.errors import TickerplantError, UnknownTopic, UnreadableRecord
from tickerplant.core.records import FeedState, header_of
from tickerplant.core.schemas import ALERTS, ANALYTICS, OHLCV, RAW, STALE_FEED_US, STATUS
from tickerplant.core.times import SECOND_US, iso

if TYPE_CHECKING:
    from tickerplant.app.runtime.supervisor import Status
    from tickerplant.log.port import EventLog

OK: Final = "ok"
DEGRADED: Final = "degraded"
FAILED: Final = "failed"
_WORST: Final = (OK, DEGRADED, FAILED)

GROUPS: Final = {
    "aggregation": (RAW,),
    "analytics": (OHLCV,),
    "persistence": (RAW, OHLCV, ANALYTICS, ALERTS),
}
"""The groups that must keep up, and what they read."""

START: Final = "`tickerplant up` starts it"

LAG_DEGRADED: Final = 5_000
"""Records a group may lie behind before that is said to be ill: a plant at 100 k ticks/s writes about 400 a second, so
some ten seconds; a replay at full speed goes beyond, and is rightly called behind while it lasts."""

WEBHOOK_DEGRADED_S: Final = 300.0
"""A webhook that waits longer than this has failed some eight times."""

STATUS_TAIL: Final = 500
"""Records of `market.status` a partition that are read back to find the feeds' newest states."""

HEARD_S: Final = 2.0
"""So long raw is read to hear of live feeds."""


@dataclass(frozen=True)
class Part:
    """One part of the plant."""

    name: str
    state: str
    sentence: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Health:
    """The whole."""

    parts: Sequence[Part]

    @property
    def state(self) -> str:
        """The worst state of a part."""
        return max((part.state for part in self.parts), key=_WORST.index, default=OK)

    def as_dict(self) -> dict[str, Any]:
        """Return what `/health` and `--json` give."""
        return {"status": self.state, "parts": [asdict(part) for part in self.parts]}


def ask(name: str, question: Callable[[], Iterable[Part]]) -> list[Part]:
    """Return what `question` finds, or a failed part that says why it could not be asked."""
    try:
        return list(question())
    except TickerplantError as error:
        return [Part(name, FAILED, str(error))]
    except Exception as error:  # a health check must answer whatever is broken
        return [Part(name, FAILED, f"cannot be asked: {type(error).__name__}: {error}")]


def log_parts(event_log: EventLog) -> Iterable[Part]:
    """Say which log it is and how far each group is behind."""
    try:
        identity, partitions = event_log.identity(), event_log.partitions(RAW)
    except UnknownTopic:
        yield Part("log", FAILED, "the log has no topics yet; `tickerplant create-topics` makes them")
        return
    held = {topic: sum(end - first for first, end in event_log.offsets(topic).values()) for topic in (RAW, OHLCV)}
    yield Part(
        "log",
        OK,
        f"log {identity.log_id}, generation {identity.generation}, {partitions} partitions, {held[RAW]} raw records",
        {"log_id": identity.log_id, "generation": identity.generation, "partitions": partitions},
    )
    known = set(event_log.groups())
    for group, topics in GROUPS.items():
        if group not in known and not held[RAW]:
            yield Part(f"lag {group}", OK, "nothing to read yet", {"lag": 0})
            continue
        lag = sum(event_log.lag(group, topics).values())
        state = DEGRADED if lag > LAG_DEGRADED else OK
        yield Part(f"lag {group}", state, f"{lag} records behind" if lag else "has read everything", {"lag": lag})


def plant_parts(event_log: EventLog, *, held: bool) -> Iterable[Part]:
    """Say whether a plant runs: `held`, somebody holds the data folder; else by who reads the log."""
    running = {group: event_log.members(group) for group in GROUPS}
    details = {"running": held or any(running.values()), "members": running}
    missing = [group for group, members in running.items() if not members]
    if not details["running"]:
        yield Part("plant", FAILED, f"not running; {START}", details)
    elif missing:
        yield Part("plant", DEGRADED, f"runs without {', '.join(missing)}", details)
    else:
        yield Part("plant", OK, "running", details)


def feed_parts(event_log: EventLog, now_us: int) -> Iterable[Part]:
    """Say how each feed does: its newest state on `market.status`, and whether a live one was heard of lately."""
    states = _feed_states(event_log)
    live = {feed: parts.live_since_us(event_log, feed) for feed, said in states.items() if said.state == "up"}
    mute = {feed: us for feed, us in live.items() if us is not None}
    for feed in _heard(event_log, mute, now_us - STALE_FEED_US):
        del mute[feed]
    for feed, said in sorted(states.items()):
        state, since_us, reason = said.state, said.since_us, said.reason
        if feed in mute:
            state, since_us, reason = "down", mute[feed], f"not heard of for {STALE_FEED_US // SECOND_US} s"
        since = f" since {_when(since_us)}" if state == "down" else ""
        sentence = f"{state}{since}" + (f": {reason}" if reason else "")
        yield Part(f"feed {feed}", DEGRADED if state == "down" else OK, sentence, {"state": state})


def _feed_states(event_log: EventLog) -> dict[str, FeedState]:
    """Return each feed's newest state on `market.status`."""
    newest: dict[str, FeedState] = {}
    for source, (first, end) in event_log.offsets(STATUS).items():
        for delivery in event_log.read_range(source, max(first, end - STATUS_TAIL), end):
            try:
                header = header_of(delivery.value)
            except UnreadableRecord:
                continue
            if isinstance(header, FeedState) and header.state in ("up", "down", "ended"):
                known = newest.get(header.feed)
                if known is None or known.sent_at_us <= header.sent_at_us:
                    newest[header.feed] = header
    return newest


def _heard(event_log: EventLog, feeds: Collection[str], since_us: int) -> set[str]:
    """Return which of the feeds have written into raw since then. Reads on from there until all have: a live one
    marks every second, so that is a second's records, or all there are where one is silent, up to `HEARD_S`.
    """
    from tickerplant.log.port import at_time

    heard: set[str] = set()
    if not feeds:
        return heard
    ends = {source: end for source, (first, end) in event_log.offsets(RAW).items() if end > first}
    deadline, idle = time.monotonic() + HEARD_S, 0
    with event_log.reader([RAW], start=at_time(since_us)) as reader:
        while ends and idle < 2:
            deliveries = reader.poll(timeout_s=0.2)
            idle = 0 if deliveries else idle + 1  # offsets need not be dense, so an end may never be met
            for delivery in deliveries:
                with contextlib.suppress(UnreadableRecord):
                    heard.add(header_of(delivery.value).feed)
                if delivery.offset + 1 >= ends.get(delivery.source, 0):
                    ends.pop(delivery.source, None)
            if heard.issuperset(feeds):
                break
            if time.monotonic() > deadline:
                return set(feeds)  # so much is written that it cannot be told: who floods the log is up at least
    return heard.intersection(feeds)


def _when(us: int) -> str:
    try:
        return iso(us)
    except OverflowError:
        return "ever"


def service_parts(statuses: Iterable[Status]) -> Iterable[Part]:
    """Say how each service of this process does."""
    for status in statuses:
        times = f", started again {status.restarts} times" if status.restarts else ""
        because = f" after {status.error}" if status.error and status.state != "running" else ""
        state = (
            OK if status.state in ("running", "stopped") else DEGRADED if status.state in ("waiting", "new") else FAILED
        )
        yield Part(f"service {status.name}", state, f"{status.state}{because}{times}", {"restarts": status.restarts})


def indicator_parts(counts: Any) -> Iterable[Part]:
    """Say how far indicators are with stored history; `counts` are those of analytics, None where it is not here."""
    if counts is None:
        return
    done, of, pending = counts.warm_series, counts.warm_of, counts.pending
    details = {"warm_series": done, "warm_of": of, "pending": pending}
    warming = f"reading stored history: {done} of {of} series" if done < of else ""
    waiting = f"{pending} series are to be computed again from stored history" if pending else ""
    if counts.store_missing:
        waiting = f"{waiting or 'the beginning lacks stored history'}, and the store is not there"
    state = DEGRADED if counts.store_missing else OK
    yield Part("indicators", state, "; ".join(filter(None, (warming, waiting))) or "up to date", details)


def job_parts(jobs: Iterable[dict[str, Any]]) -> Iterable[Part]:
    """Say how the store's scheduled jobs went."""
    for job in jobs:
        error = job.get("error")
        when = job.get("last_run_at")
        sentence = f"failed: {error}" if error else f"last ran {when}" if when else "has not been due yet"
        yield Part(f"job {job['name']}", DEGRADED if error else OK, sentence, dict(job))


def webhook_parts(counts: Mapping[str, float]) -> Iterable[Part]:
    """Say how the webhooks of alerts do: ill is one that has waited too long, or was given up in the last day."""
    pending, failed, oldest_s = int(counts["pending"]), int(counts["failed"]), counts["oldest_s"]
    said = [f"{failed} given up in a day"] if failed else []
    said += [f"{pending} to be delivered, the oldest for {oldest_s:.0f} s"] if pending else []
    ill = failed or (pending and oldest_s > WEBHOOK_DEGRADED_S)
    yield Part("webhooks", DEGRADED if ill else OK, "; ".join(said) or "none waits", dict(counts))


def left_out_parts(feeds: Iterable[dict[str, Any]]) -> Iterable[Part]:
    """Say how much was left out of bars since the store began, by feed. No illness: the tables of ticks have it."""
    told, details = [], {}
    for row in feeds:
        counts = {name: int(row[name]) for name in ("late_ticks", "unsupported", "differences")}
        details[row["feed"]] = counts
        said = (
            (counts["late_ticks"], "ticks too late for any bar"),
            (counts["unsupported"], "ticks or bars that could not be used, or not for all bars"),
            (counts["differences"], "bars that another source gives differently"),
        )
        told.append(f"{row['feed']}: {', '.join(f'{number} {what}' for number, what in said if number)}")
    yield Part("left out of bars", OK, "; ".join(told) or "nothing", details)
