"""The health of the plant: the health of each component, and the worst state as the state of the plant.

In: the log, the services' statuses and rows of the store. Out: `ComponentHealth` values. A component that cannot be
checked counts as failed; a failed check never hides another component.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tickerplant.app import retention_loss
from tickerplant.app.component import DEGRADED, FAILED, OK, ComponentHealth
from tickerplant.app.wiring.log import conflicts, live_feeds, live_watermark_us
from tickerplant.core.errors import TickerplantError, UnknownTopic, UnreadableRecord
from tickerplant.core.records import FeedState, header_of
from tickerplant.core.schemas import ALERTS, ANALYTICS, OHLCV, RAW, STALE_FEED_US, STATUS
from tickerplant.core.times import SECOND_US, iso

if TYPE_CHECKING:
    from tickerplant.app.runtime.supervisor import Status
    from tickerplant.log.port import EventLog

_BEST_FIRST: Final = (OK, DEGRADED, FAILED)

GROUPS: Final = {
    "aggregation": (RAW,),
    "analytics": (OHLCV,),
    "persistence": (RAW, OHLCV, ANALYTICS, ALERTS),
}
"""The consumer groups that must keep up, and the topics that they read."""

UP_TO_DATE: Final = "has read everything"

LAG_DEGRADED: Final = 5_000
"""Maximum lag of a healthy group, in records. A plant at 100 k ticks/s writes about 400 records/s, so this is a lag of
about ten seconds. A replay at full speed exceeds this lag, and the groups are degraded until the replay ends."""

WEBHOOK_DEGRADED_S: Final = 300.0
"""Maximum age of a healthy pending webhook. An older webhook has failed about eight times."""

REFUSALS_SHOWN: Final = 3
"""Maximum refused partitions that the sentence of `persistence` contains; its details contain all."""

Positions = Callable[[], Mapping[tuple[str, int], int]]
"""A function that returns the next offset to apply of each partition of the store."""

STATUS_TAIL: Final = 500
"""Maximum newest records of `market.status` read per partition, to find the feeds' states."""

RECENT_FEEDS_S: Final = 2.0
"""Maximum seconds for reading the raw topic to find the live feeds that have written recently."""


@dataclass(frozen=True)
class Health:
    """The health of the whole plant."""

    parts: Sequence[ComponentHealth]

    @property
    def state(self) -> str:
        """Return the worst state of any component; `ok` if there are no components."""
        return max((part.state for part in self.parts), key=_BEST_FIRST.index, default=OK)

    def as_dict(self) -> dict[str, Any]:
        """Return the answer of `tickerplant health --json`. `/health` adds the health of the stream."""
        return {"status": self.state, "parts": [asdict(part) for part in self.parts]}


def log_health(event_log: EventLog) -> Iterable[ComponentHealth]:
    """Yield the log's identity, and the lag of each group."""
    try:
        identity, partitions = event_log.identity(), event_log.partitions(RAW)
    except UnknownTopic:
        yield ComponentHealth("log", FAILED, "the log has no topics yet; create them with `tickerplant create-topics`")
        return
    held = {topic: sum(end - first for first, end in event_log.offsets(topic).values()) for topic in (RAW, OHLCV)}
    yield ComponentHealth(
        "log",
        OK,
        f"log {identity.log_id}, generation {identity.generation}, {partitions} partitions, {held[RAW]} raw records",
        {"log_id": identity.log_id, "generation": identity.generation, "partitions": partitions},
    )
    known = set(event_log.groups())
    skips: dict[str, list[retention_loss.Skip]] = {}
    for skip in retention_loss.read_skips(event_log):
        skips.setdefault(skip.group, []).append(skip)
    for group, topics in GROUPS.items():
        if group not in known and not held[RAW]:
            yield ComponentHealth(f"lag {group}", OK, "nothing to read yet", {"lag": 0})
            continue
        lag = sum(event_log.lag(group, topics).values())
        losses = retention_loss.find(event_log, event_log.committed(group), topics)
        details: dict[str, Any] = {"lag": lag}
        state, sentence = DEGRADED if lag > LAG_DEGRADED else OK, f"{lag} records behind" if lag else UP_TO_DATE
        if losses:
            details["lost"] = [{**asdict(loss), "offsets": loss.offsets} for loss in losses]
            remedy = f"stop {group}, then run `tickerplant skip-lost {group} --yes`"
            state, sentence = FAILED, f"retention has dropped unread records: {'; '.join(map(str, losses))}; {remedy}"
        if group in skips:
            details["skipped"] = [msgspec.to_builtins(skip) for skip in skips[group]]
            offsets = sum(loss.offsets for skip in skips[group] for loss in skip.losses)
            sentence += f"; {offsets} lost offsets were skipped, most recently {_when(skips[group][-1].at_us)}"
        yield ComponentHealth(f"lag {group}", state, sentence, details)


def plant_health(event_log: EventLog, *, held: bool, start: str = "tickerplant up") -> Iterable[ComponentHealth]:
    """Yield the health of the plant. It runs if a process holds the data folder (`held`) or a group has members.

    `start` is the command that starts it.
    """
    running = {group: event_log.members(group) for group in GROUPS}
    details = {"running": held or any(running.values()), "members": running}
    missing = [group for group, members in running.items() if not members]
    if not details["running"]:
        yield ComponentHealth("plant", FAILED, f"not running; start it with `{start}`", details)
    elif missing:
        yield ComponentHealth(
            "plant", DEGRADED, f"runs without {', '.join(missing)}; start them with `tickerplant run NAME`", details
        )
    else:
        yield ComponentHealth("plant", OK, "running", details)


def feed_health(event_log: EventLog, now_us: int) -> Iterable[ComponentHealth]:
    """Yield each feed's newest state on `market.status`.

    A live feed that has written nothing for `STALE_FEED_US` is down.

    The count of conflicting rows is informational: such trades are dead letters, and the last row of a bar is kept.
    """
    states = feed_states(event_log)
    live = {feed: live_watermark_us(event_log, feed) for feed, newest in states.items() if newest.state == "up"}
    silent = {feed: us for feed, us in live.items() if us is not None}
    for feed in _recent_feeds(event_log, silent, now_us - STALE_FEED_US):
        del silent[feed]
    for feed, newest in sorted(states.items()):
        state, since_us, reason = newest.state, newest.since_us, newest.reason
        if feed in silent:
            state, since_us, reason = "down", silent[feed], f"no record for {STALE_FEED_US // SECOND_US} s"
        since = f" since {_when(since_us)}" if state == "down" else ""
        sentence = f"{state}{since}" + (f": {reason}" if reason else "")
        details: dict[str, Any] = {"state": state}
        count, are_bars = conflicts(event_log, feed)
        if count:
            what = "rows of bars differ from an earlier row of their bar; the last row is kept"
            if not are_bars:
                what = "trades conflict with an earlier trade of their id (`tickerplant tail deadletter`)"
            sentence += f"; {count:,} {what}"
            details["conflicts"] = count
        yield ComponentHealth(f"feed {feed}", DEGRADED if state == "down" else OK, sentence, details)


def feed_states(event_log: EventLog) -> dict[str, FeedState]:
    """Return each feed's newest state.

    The newest records of `market.status` may not contain the state of a live feed. The state is then read from the
    feed's cursor, and begins at the feed's watermark.
    """
    newest: dict[str, FeedState] = {}
    for source, (first, end) in event_log.offsets(STATUS).items():
        for record in event_log.read_range(source, max(first, end - STATUS_TAIL), end):
            try:
                header = header_of(record.value)
            except UnreadableRecord:
                continue
            if isinstance(header, FeedState) and header.state in ("up", "down", "ended"):
                known = newest.get(header.feed)
                if known is None or known.sent_at_us <= header.sent_at_us:
                    newest[header.feed] = header
    for feed, (state, watermark_us) in live_feeds(event_log).items():
        if feed not in newest:
            newest[feed] = FeedState(sent_at_us=watermark_us, feed=feed, state=state, since_us=watermark_us)
    return newest


def _recent_feeds(event_log: EventLog, feeds: Collection[str], since_us: int) -> set[str]:
    """Return the feeds among `feeds` that have written to the raw topic since `since_us`.

    Reads the topic from that time until all feeds have written, for at most `RECENT_FEEDS_S`. A live feed writes a mark
    every second, so a second's records are usually enough. If a feed is silent, all records since that time are read.
    If the time runs out, all feeds are returned.
    """
    from tickerplant.log.port import at_time

    found: set[str] = set()
    if not feeds:
        return found
    ends = {source: end for source, (first, end) in event_log.offsets(RAW).items() if end > first}
    deadline, idle = time.monotonic() + RECENT_FEEDS_S, 0
    with event_log.reader([RAW], start=at_time(since_us)) as reader:
        while ends and idle < 2:
            records = reader.poll(timeout_s=0.2)
            idle = 0 if records else idle + 1  # offsets have gaps, so the record before an end may not exist
            for record in records:
                with contextlib.suppress(UnreadableRecord):
                    found.add(header_of(record.value).feed)
                if record.offset + 1 >= ends.get(record.source, 0):
                    ends.pop(record.source, None)
            if found.issuperset(feeds):
                break
            if time.monotonic() > deadline:
                return set(feeds)  # too many records to scan: the feeds count as up
    return found.intersection(feeds)


def _when(us: int) -> str:
    try:
        return iso(us)
    except OverflowError:
        return "ever"


def service_health(statuses: Iterable[Status]) -> Iterable[ComponentHealth]:
    """Yield the health of each service of this process.

    The sentence of a service that crashes repeatedly contains the error and its first time. Such a service is failed if
    waiting cannot remove the cause, and degraded while it waits for the database or the log.
    """
    for status in statuses:
        times = f", restarted {status.restarts} times" if status.restarts else ""
        fails = status.fails(time.monotonic())
        since = f" since {_when(int(status.error_since_s * SECOND_US))}" if status.error_since_s else ""
        because = f" after {status.error}{since}" if status.error and (fails or status.state != "running") else ""
        state = (
            OK if status.state in ("running", "stopped") else DEGRADED if status.state in ("waiting", "new") else FAILED
        )
        if fails and status.state != "stopped":
            state = FAILED if status.permanent or state == FAILED else DEGRADED
        details = {"restarts": status.restarts}
        yield ComponentHealth(f"service {status.name}", state, f"{status.state}{because}{times}", details)


def trouble_health(event_log: EventLog, now_us: int, own: Collection[str] = ()) -> Iterable[ComponentHealth]:
    """Yield the errors that repeat, as the processes report them in the log; nothing if there are none.

    `own`: keys of the services of this process, which `service_health` covers.
    """
    from tickerplant.log import trouble_reports

    for key, trouble in trouble_reports.read(event_log, now_us).items():
        kind, _, name = key.partition(":")
        if key in own:
            continue
        since = _when(int(trouble.since_s * SECOND_US))
        if kind == "service":
            name = f"service {name.removesuffix(':0').replace(':', ' of member ')}"
            sentence = f"crashed {trouble.times} times since {since}: {trouble.error}"
        else:
            name = f"vendor of {name}"
            sentence = f"{trouble.error} ({trouble.times} times since {since})"
        state = FAILED if trouble.permanent else DEGRADED
        yield ComponentHealth(name, state, sentence, {"times": trouble.times, "since_s": trouble.since_s})


def indicator_health(counts: Any) -> Iterable[ComponentHealth]:
    """Yield the progress of the indicators in reading stored history.

    `counts` are the counters of analytics. None means that analytics is not running in this process.
    """
    if counts is None:
        return
    done, of, pending = counts.warm_series, counts.warm_of, counts.pending
    details = {"warm_series": done, "warm_of": of, "pending": pending}
    warming = f"reading stored history: {done} of {of} series" if done < of else ""
    waiting = f"{pending} series will be recomputed from stored history" if pending else ""
    if counts.store_missing:
        waiting = f"{waiting or 'the first bars lack stored history'}, and the store is unavailable"
    state = DEGRADED if counts.store_missing else OK
    yield ComponentHealth("indicators", state, "; ".join(filter(None, (warming, waiting))) or "up to date", details)


def persistence_health(event_log: EventLog, positions: Positions, now_us: int) -> Iterable[ComponentHealth]:
    """Yield the failures of persistence: refused records or a full disk (failed), repeating errors (degraded).

    A refusal counts until the store's position is after its offset. `positions` returns the store's positions; it is
    called only if the log contains a refusal.
    """
    from tickerplant.persistence.status import DISK_FULL, read_outages, read_refusals

    refusals = read_refusals(event_log)
    if refusals:
        with contextlib.suppress(TickerplantError):  # the check of the store reports its error; refusals then count
            applied = positions()
            refusals = [one for one in refusals if applied.get((one.topic, one.partition), 0) <= one.offset]
    outages = read_outages(event_log, now_us)
    sentences = [f"{one} (since {_when(int(one.since_s * SECOND_US))})" for one in refusals[:REFUSALS_SHOWN]]
    if len(refusals) > REFUSALS_SHOWN:
        sentences.append(f"{len(refusals) - REFUSALS_SHOWN} more partitions stopped")
    sentences += [
        f"{member} has failed {one.failures} times since {_when(int(one.since_s * SECOND_US))}: {one.error}"
        for member, one in outages.items()
    ]
    full = any(DISK_FULL in one.error for one in outages.values())
    state = FAILED if refusals or full else DEGRADED if outages else OK
    details = {
        "refused": [asdict(one) for one in refusals],
        "errors": [
            {"member": member, "error": one.error, "since_s": one.since_s, "failures": one.failures}
            for member, one in outages.items()
        ],
    }
    yield ComponentHealth("persistence", state, "; ".join(sentences) or "writes every partition", details)


def job_health(jobs: Iterable[dict[str, Any]]) -> Iterable[ComponentHealth]:
    """Yield the result of the last run of each of the store's scheduled jobs.

    A job is degraded if its last run failed, or if it has not run for twice its interval.
    """
    for job in jobs:
        error, when, retried = job.get("error"), job.get("last_run_at"), job.get("retried")
        last = f"last ran {when}" if when else "has not been due yet"
        if error:
            since = f" (last success {job['last_success_at']})" if job.get("last_success_at") else ""
            sentence = f"{'failed and is retried' if retried else 'failed'}: {error}{since}"
        elif job.get("overdue"):
            sentence = (
                f"overdue: due every {job['every']}, {last if when else 'and has never run'}; "
                "check that the plant runs and that the database runs background jobs"
            )
        else:
            sentence = last
        bad = job.get("overdue") or (error and not retried)
        yield ComponentHealth(f"job {job['name']}", DEGRADED if bad else OK, sentence, dict(job))


def webhook_health(counts: Mapping[str, float]) -> Iterable[ComponentHealth]:
    """Yield the health of webhooks: degraded if a webhook is pending for too long or was given up in the last day."""
    pending, failed, oldest_s = int(counts["pending"]), int(counts["failed"]), counts["oldest_s"]
    sentences = [f"{failed} given up in the last day"] if failed else []
    sentences += [f"{pending} pending, the oldest for {oldest_s:.0f} s"] if pending else []
    bad = failed or (pending and oldest_s > WEBHOOK_DEGRADED_S)
    yield ComponentHealth("webhooks", DEGRADED if bad else OK, "; ".join(sentences) or "none pending", dict(counts))


def left_out_health(feeds: Iterable[dict[str, Any]]) -> Iterable[ComponentHealth]:
    """Yield the counts of ticks and bars left out of bars, by feed.

    The state is always ok, because the ticks are stored.
    """
    sentences, details = [], {}
    for row in feeds:
        counts = {name: int(row[name]) for name in ("late_ticks", "unsupported", "differences")}
        details[row["feed"]] = counts
        texts = (
            (counts["late_ticks"], "ticks too late for any bar"),
            (counts["unsupported"], "ticks or bars that could not be used for some or all bars"),
            (counts["differences"], "bars for which another source has different values"),
        )
        sentences.append(f"{row['feed']}: {', '.join(f'{number} {text}' for number, text in texts if number)}")
    yield ComponentHealth("left out of bars", OK, "; ".join(sentences) or "nothing", details)
