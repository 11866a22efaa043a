"""Outages of the broker: five separate processes with a live feed, and the answers of `/health` during each outage.

    python -m benchmarks.outage [--seconds 30 30 180] [--frozen] [--disconnect] [--rate 50]

Each outage kills the broker (or freezes it, with `--frozen`) for the given seconds and starts it again. With
`--disconnect`, the vendor also drops its stream within each outage, so that the feed misses ticks. The script probes
`/health` up to twice a second. It prints for each outage:

- the slowest answer of `/health`, and the time until it is `failed` with the log's reason;
- the time from the restart of the broker until the plant is level: all groups have read all records, and the store
  contains them;
- the processes that ended.

During the run, it compares the plant's closed minutes with the sandbox's own, for every symbol. A minute that differs
must be a gap of `/v1/coverage`. Last, the script waits until the backfill has filled all gaps, and `tickerplant verify`
compares all bars with a replay.

The aims:

- no process ends;
- `/health` answers within 2 s with the log's true state;
- the plant is level within 30 s of the restart of the broker;
- every minute is equal in the end.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.support.processes import SERVICES, Processes, environment, get_json
from tools.kafka.broker import KafkaBroker, free_port

from tickerplant.sandbox.model import symbol_names

SYMBOLS = 12
CALM_S = 10.0
"""Seconds from the time at which the plant is level to the next outage."""
PROBE_S = 0.5
LEVEL_S = 120.0
DETECTION_S = 6.0
"""Seconds after which `/health` must report an unavailable broker as failed, as docs/kafka.md states."""
AIM_HEALTH_S = 2.0
AIM_LEVEL_S = 30.0

COMPARE_S = 20.0
"""Seconds between two comparisons of minutes. The backfill requests a minute 90 s after its end."""
CLOSED_S = 65
"""Age in seconds from which a minute is compared. The status of younger minutes in coverage is pending."""
FILL_S = 600.0
"""Maximum seconds for which the script waits for the backfill."""
GAPS = frozenset({"partial", "outage", "quota", "unavailable", "missing"})
PRICES = ("open", "high", "low", "close")

Minute = tuple[str, int]
"""A symbol, and the start of a minute in µs."""


@dataclass
class Probe:
    """One answer of `/health`: its time, its duration, and its body. `body` is None without an answer."""

    at_s: float
    took_s: float
    body: dict[str, Any] | None

    @property
    def answered_s(self) -> float:
        """Return the time of the answer."""
        return self.at_s + self.took_s

    def is_failed(self) -> bool:
        """Return whether the answer reports the log and the plant as failed, with a reason."""
        log = self.part("log")
        states = {(self.body or {}).get("status"), log.get("state")}
        return states == {"failed"} and bool(log["sentence"])

    def part(self, name: str) -> dict[str, Any]:
        """Return a component; {} if it is missing."""
        parts = (self.body or {}).get("parts", [])
        return next((part for part in parts if part["name"] == name), {})


@dataclass
class Plant(Processes):
    """The five processes, and the thread that probes `/health`. `sandbox`: address of the sandbox."""

    port: int = 0
    sandbox: str = ""
    key: str = ""
    probes: list[Probe] = field(default_factory=list)

    def get(self, path: str) -> dict[str, Any] | None:
        """Return the JSON of an answer of the API, of any status; None without an answer."""
        return get_json(f"http://127.0.0.1:{self.port}{path}", self.key)

    def probe(self, stop: threading.Event) -> None:
        """Probe `/health` until `stop`."""
        while not stop.wait(PROBE_S):
            began = time.monotonic()
            body = self.get("/health")
            self.probes.append(Probe(began, time.monotonic() - began, body))

    def is_level(self) -> bool:
        """Return whether the log is available and all records are read and stored.

        Fewer than 50 records of each group may be unread, and fewer than 50 records may not be stored yet.
        """
        if not self.probes or self.probes[-1].part("log").get("state") != "ok":
            return False
        lags = [self.probes[-1].part(f"lag {name}").get("details", {}).get("lag", 1_000) for name in SERVICES[1:4]]
        status = self.get("/v1/status") or {}
        behind = (status.get("store") or {}).get("records_behind", 1_000)
        return bool(max(lags) < 50 and behind < 50)


@dataclass
class Minutes:
    """The plant's minutes from `start_us`, compared with those of the sandbox."""

    plant: Plant
    symbols: list[str]
    start_us: int
    until_us: int = 0
    """End of the compared minutes."""
    compared: int = 0
    """Count of minutes of the last comparison."""
    differing: dict[Minute, str] = field(default_factory=dict)
    """Minutes that differed in the last comparison."""
    gaps: dict[Minute, str] = field(default_factory=dict)
    """Every minute that was a gap of coverage while the plant was level, with its status."""
    hidden: dict[Minute, str] = field(default_factory=dict)
    """Minutes that differed and were not a gap of coverage."""

    def watch(self, stop: threading.Event) -> None:
        """Compare every `COMPARE_S` while the plant is level, until `stop`."""
        while not stop.wait(COMPARE_S):
            if self.plant.is_level():
                self.compare()

    def compare(self) -> None:
        """Compare all closed minutes. The plant must be level."""
        until_us = (int(time.time()) - CLOSED_S) // 60 * 60_000_000
        if until_us <= self.start_us:
            return
        compared, differing = 0, {}
        for symbol in self.symbols:
            # Coverage comes first: a minute that the backfill fills between the two requests is then no fault.
            statuses, bars = self._statuses(symbol, until_us), self._bars(symbol, until_us)
            truth = self._truth(symbol, until_us)
            if statuses is None or bars is None:
                return  # another outage has begun
            compared += len(truth)
            self.gaps |= {(symbol, at): status for at, status in statuses.items() if status in GAPS}
            for at in sorted(truth.keys() | bars.keys()):
                why = difference(symbol, bars.get(at), truth.get(at))
                if why:
                    differing[symbol, at] = why
                    if statuses.get(at) not in GAPS:
                        self.hidden[symbol, at] = f"{why}; coverage: {statuses.get(at)}"
        self.until_us, self.compared, self.differing = until_us, compared, differing

    def settle(self) -> None:
        """Compare until the minutes of all outages are closed and equal, for at most `FILL_S`."""
        began, last_us = time.monotonic(), int(time.time() * 1e6)
        while time.monotonic() - began < FILL_S and (self.until_us < last_us or self.differing):
            time.sleep(COMPARE_S / 4)
            if self.plant.is_level():
                self.compare()

    def report(self) -> bool:
        """Print the counts; return whether every minute is equal, and each difference was a gap of coverage."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(self.gaps.values()).items()) or "none"
        filled = sum(minute not in self.differing for minute in self.gaps)
        print(
            f"minutes: {self.compared - len(self.differing)} of {self.compared} equal the sandbox's; "
            f"coverage named {len(self.gaps)} ({kinds}); the backfill has filled {filled} of them; "
            f"{len(self.hidden)} differences were not named",
            flush=True,
        )
        for (symbol, at), why in [*self.differing.items(), *self.hidden.items()][:20]:
            print(f"  {symbol} {time.strftime('%H:%M', time.gmtime(at / 1e6))}: {why}")
        return bool(self.compared) and not self.differing and not self.hidden

    def _statuses(self, symbol: str, until_us: int) -> dict[int, str] | None:
        """Return the status of each minute in coverage; None without an answer."""
        found = self._get("coverage", symbol, {"from": self.start_us, "to": until_us})
        return None if found is None else {
            at: part["status"]
            for part in found["stretches"]
            for at in range(part["from"], part["to"], 60_000_000)
        }  # fmt: skip

    def _bars(self, symbol: str, until_us: int) -> dict[int, dict[str, Any]] | None:
        """Return the plant's bars by their start; None without an answer."""
        found = self._get("intraday", symbol, {"start": self.start_us, "end": until_us})
        return None if found is None else {bar["time"]: bar for bar in found["bars"]}

    def _get(self, route: str, symbol: str, range_us: dict[str, int]) -> dict[str, Any] | None:
        query = urllib.parse.urlencode({"interval": "1m", "times": "us", "limit": 50_000, **range_us})
        found = self.plant.get(f"/v1/{route}/{urllib.parse.quote(symbol)}?{query}")
        return found if found is not None and "position" in found else None

    def _truth(self, symbol: str, until_us: int) -> dict[int, dict[str, Any]]:
        """Return the sandbox's bars by their start."""
        asked = {"symbol": symbol, "interval": "1m", "from_us": self.start_us, "to_us": until_us}
        found = get_json(f"{self.plant.sandbox}/sandbox/bars?{urllib.parse.urlencode(asked)}")
        assert found is not None, "the sandbox does not answer"
        names = (*PRICES, "volume")
        return {at: {name: found[name][row] for name in names} for row, at in enumerate(found["time_us"])}


def difference(symbol: str, bar: dict[str, Any] | None, truth: dict[str, Any] | None) -> str:
    """Return how a bar of the plant differs from the sandbox's; "" if it is complete and equal."""
    if bar is None or truth is None:
        return "" if bar is truth else "missing" if bar is None else "not in the sandbox's market"
    # Currency pairs have no volume in Twelve Data's messages.
    names = PRICES if "/" in symbol and not symbol.startswith("BTC") else (*PRICES, "volume")
    values = [
        f"{name} {bar[name]} instead of {truth[name]}" for name in names
        if bar[name] is None or not math.isclose(bar[name], truth[name], rel_tol=1e-9)
    ]  # fmt: skip
    return ", ".join(values) or ("" if bar["complete"] else "incomplete")


@dataclass(frozen=True)
class Outage:
    """An outage of `seconds`: the broker is killed, or frozen. `disconnect`: the vendor also drops its stream."""

    seconds: float
    frozen: bool
    disconnect: bool

    def run(self, plant: Plant, broker: KafkaBroker) -> float:
        """Run the outage; return the time of its end, before the broker starts again."""
        pid = broker.pid
        assert pid is not None
        if self.frozen:
            os.kill(pid, signal.SIGSTOP)
        else:
            broker.kill()
        time.sleep(self.seconds / 2)
        if self.disconnect:
            assert get_json(f"{plant.sandbox}/sandbox/faults?do=refuse&seconds={self.seconds / 4}")
            assert get_json(f"{plant.sandbox}/sandbox/faults?do=disconnect")
        time.sleep(self.seconds / 2)
        away_until = time.monotonic()
        if self.frozen:
            os.kill(pid, signal.SIGCONT)
        else:
            broker.start()
        return away_until


def measure(plant: Plant, broker: KafkaBroker, outage: Outage) -> bool:
    """Run one outage of a level plant and print its figures; return whether the aims are reached."""
    calm = time.monotonic()
    time.sleep(CALM_S)
    began = time.monotonic()
    away_until = outage.run(plant, broker)
    returned = time.monotonic()
    while time.monotonic() - returned < LEVEL_S and not plant.is_level():
        time.sleep(PROBE_S)
    level_s = time.monotonic() - returned
    before = [probe for probe in plant.probes if calm <= probe.at_s and probe.answered_s < began]
    probes = [probe for probe in plant.probes if probe.at_s >= began]
    slowest_s = max(probe.took_s for probe in probes)
    unanswered = sum(probe.body is None for probe in probes)
    away = [probe for probe in probes if probe.answered_s < away_until]
    failed = [probe.answered_s for probe in away if probe.is_failed()]
    told = f"{failed[0] - began:.1f} s" if failed else "never"
    wrong = sum(not probe.is_failed() for probe in away if probe.at_s >= began + DETECTION_S)
    wrong += sum(probe.part("log").get("state") != "ok" for probe in before)
    reason = away[-1].part("log").get("sentence", "")
    print(
        f"{outage.seconds:4.0f} s: /health at most {slowest_s:.2f} s, {unanswered} unanswered, {wrong} of "
        f"{len(before) + len(away)} wrong, log failed after {told} ({reason[:90]}); level {level_s:.1f} s after the "
        f"return; ended: {', '.join(plant.ended()) or 'none'}",
        flush=True,
    )
    return slowest_s < AIM_HEALTH_S and not unanswered + wrong and level_s < AIM_LEVEL_S and not plant.ended()


@contextlib.contextmanager
def running(log: str, data: Path, rate: float, key: str = "", **settings: str) -> Iterator[tuple[Plant, Minutes]]:
    """Run the five processes for the block, level from its start, and the threads that probe and compare.

    `log`: the address of the event log. `key`: the API key, which `settings` or the settings file contain.
    """
    symbols, port, sandbox_port = list(symbol_names(SYMBOLS)), free_port(), free_port()
    env = environment(
        log, api__port=str(port), partitions="2", sandbox__rate=str(rate), sandbox__port=str(sandbox_port),
        symbols=",".join(symbols), **settings,
    )  # fmt: skip
    plant = Plant(env, data, port=port, sandbox=f"http://127.0.0.1:{sandbox_port}", key=key)
    stop, threads = threading.Event(), []
    try:
        for name in reversed(SERVICES):
            plant.begin(name, "run", name)
        threads.append(threading.Thread(target=plant.probe, args=(stop,)))
        threads[0].start()
        while not plant.is_level():
            if plant.ended():
                sys.exit(f"ended at the start: {plant.ended()}")
            time.sleep(PROBE_S)
        start_us = int(time.time()) // 60 * 60_000_000
        minutes = Minutes(plant, symbols, start_us)
        threads.append(threading.Thread(target=minutes.watch, args=(stop,)))
        threads[1].start()
        yield plant, minutes
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        plant.stop()


def main() -> None:
    """Run the outages; exit with 1 if an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0])
    parser.add_argument("--frozen", action="store_true", help="freeze the broker instead of killing it")
    parser.add_argument("--disconnect", action="store_true", help="drop the vendor's stream within each outage")
    parser.add_argument("--rate", type=float, default=50.0, help="ticks per second of the feed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, KafkaBroker(Path(folder) / "kafka") as broker:
        data = Path(folder) / "data"
        data.mkdir()
        with running(f"kafka://{broker.bootstrap}", data, given.rate) as (plant, minutes):
            reached = [
                measure(plant, broker, Outage(seconds, given.frozen, given.disconnect)) for seconds in given.seconds
            ]
            minutes.settle()
            reached.append(minutes.report())
            done = plant.run("verify")
            print("verify:", (done.stdout + done.stderr).strip().splitlines()[-1])
    sys.exit(not all(reached) or done.returncode)


if __name__ == "__main__":
    main()
