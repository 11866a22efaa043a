"""Outages of the broker: five separate processes with a live feed, and the answers of `/health` meanwhile.

    python -m benchmarks.outage [--seconds 30 30 180] [--frozen] [--rate 50]

Each outage kills the broker (or freezes it, with `--frozen`) for the given seconds and starts it again. The script
probes `/health` twice a second. It prints for each outage:

- the slowest answer of `/health`, and the time until it is `failed` with the log's reason;
- the time from the broker's return until every group has read everything and the store has all of it;
- the processes that ended.

Last, `tickerplant verify` compares all bars with a replay.

The aims: no process ends, `/health` answers within 2 s, and everything is level within 30 s of the broker's return.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.support.processes import SERVICES, Processes, environment, get_json
from tools.kafka.broker import KafkaBroker, free_port

PROBE_S = 0.5
LEVEL_S = 120.0
AIM_HEALTH_S = 2.0
AIM_LEVEL_S = 30.0


@dataclass
class Probe:
    """One answer of `/health`: its time, its duration, and its body. `body` is None without an answer."""

    at_s: float
    took_s: float
    body: dict[str, Any] | None

    def part(self, name: str) -> dict[str, Any]:
        """Return a component; {} if it is missing."""
        parts = (self.body or {}).get("parts", [])
        return next((part for part in parts if part["name"] == name), {})


@dataclass
class Plant(Processes):
    """The five processes, and the thread that probes `/health`."""

    port: int = 0
    probes: list[Probe] = field(default_factory=list)

    def get(self, path: str) -> dict[str, Any] | None:
        """Return the JSON of an answer, of any status; None without an answer."""
        return get_json(f"http://127.0.0.1:{self.port}{path}")

    def probe(self, stop: threading.Event) -> None:
        """Probe `/health` until `stop`."""
        while not stop.wait(PROBE_S):
            began = time.monotonic()
            body = self.get("/health")
            self.probes.append(Probe(began, time.monotonic() - began, body))

    def is_level(self) -> bool:
        """Return whether the groups have read everything, and the store has all of it, within a second's records."""
        if not self.probes or self.probes[-1].part("log").get("state") != "ok":
            return False
        lags = [self.probes[-1].part(f"lag {name}").get("details", {}).get("lag", 1_000) for name in SERVICES[1:4]]
        status = self.get("/v1/status") or {}
        behind = (status.get("store") or {}).get("records_behind", 1_000)
        return max(lags) < 50 and behind < 50


@contextlib.contextmanager
def outage(broker: KafkaBroker, *, frozen: bool) -> Iterator[None]:
    """Kill or freeze the broker for the block, and return when it runs again."""
    pid = broker.pid
    assert pid is not None
    if frozen:
        os.kill(pid, signal.SIGSTOP)
    else:
        broker.kill()
    yield
    if frozen:
        os.kill(pid, signal.SIGCONT)
    else:
        broker.start()


def measure(plant: Plant, broker: KafkaBroker, seconds: float, *, frozen: bool) -> bool:
    """Run one outage and print its figures; return whether the aims are reached."""
    began = time.monotonic()
    with outage(broker, frozen=frozen):
        time.sleep(seconds)
    returned = time.monotonic()
    while time.monotonic() - returned < LEVEL_S and not plant.is_level():
        time.sleep(PROBE_S)
    level_s = time.monotonic() - returned
    probes = [probe for probe in plant.probes if probe.at_s >= began]
    slowest_s = max(probe.took_s for probe in probes)
    unanswered = sum(probe.body is None for probe in probes)
    failed = [probe.at_s + probe.took_s for probe in probes if probe.part("log").get("state") == "failed"]
    told = f"{failed[0] - began:.1f} s" if failed else "never"
    reason = next((probe.part("log")["sentence"] for probe in reversed(probes) if probe.at_s < returned), "")
    print(
        f"{seconds:4.0f} s: /health at most {slowest_s:.2f} s, {unanswered} unanswered, log failed after {told} "
        f"({reason[:90]}); level {level_s:.1f} s after the return; ended: {', '.join(plant.ended()) or 'none'}",
        flush=True,
    )
    return slowest_s < AIM_HEALTH_S and not unanswered and level_s < AIM_LEVEL_S and not plant.ended()


def main() -> None:
    """Run the outages; exit with 1 if an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0])
    parser.add_argument("--frozen", action="store_true", help="freeze the broker instead of killing it")
    parser.add_argument("--rate", type=float, default=50.0, help="ticks per second of the feed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, KafkaBroker(Path(folder) / "kafka") as broker:
        data, port = Path(folder) / "data", free_port()
        data.mkdir()
        env = environment(
            f"kafka://{broker.bootstrap}", api__port=str(port), partitions="2", sandbox__rate=str(given.rate)
        )
        plant, stop = Plant(env, data, port=port), threading.Event()
        try:
            for name in reversed(SERVICES):
                plant.begin(name, "run", name)
            prober = threading.Thread(target=plant.probe, args=(stop,))
            prober.start()
            while not plant.is_level():
                if plant.ended():
                    sys.exit(f"ended at the start: {plant.ended()}")
                time.sleep(PROBE_S)
            time.sleep(10)
            reached = [measure(plant, broker, seconds, frozen=given.frozen) for seconds in given.seconds]
            done = plant.run("verify")
            print("verify:", (done.stdout + done.stderr).strip().splitlines()[-1])
        finally:
            stop.set()
            plant.stop()
    sys.exit(not all(reached) or done.returncode)


if __name__ == "__main__":
    main()
