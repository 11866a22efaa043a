"""An attack on a running plant, with all kinds at once, while a probe measures the effects on another client.

    python benchmarks/attack.py                    # one minute
    python benchmarks/attack.py --seconds 3600     # the hour of docs/benchmarks.md
    python benchmarks/attack.py --only expensive   # one attack of `benchmarks/hostile/clients.py`; `none`: no attack

The plant is `tickerplant up` with the sandbox: 12 symbols, 50 ticks a second, and two more symbols of a hostile vendor.
One process of the lowest priority attacks it (`benchmarks/hostile`; the constants there bound each attack):

- fuzzed REST and frames, expensive requests, subscription storms;
- idle and half-open sockets up to the maximum, and requests that never end;
- answers and streams that are never read, floods of tiny frames and chunks;
- a vendor that sends garbage.

Everything runs in a network namespace that has loopback alone, if the machine allows one (`unshare`).

The aims: all ticks of the sandbox are stored, a plain request has a p99 below 250 ms, and the plant needs less than
600 MB. Each 5xx is a 503 with its reason, `/health` names the attack's effects, and no service restarts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.hostile import clients  # noqa: E402
from benchmarks.hostile.vendor import SYMBOLS, write_plugin  # noqa: E402
from benchmarks.plant import cpu_of, descendants, environment, free_port, plant  # noqa: E402
from benchmarks.rest import by_kind, memory_mb  # noqa: E402

PLAIN: Final = "/v1/intraday/AAPL?limit=100"
PLAIN_PER_S: Final = 4.0
HEALTH_PER_S: Final = 1.0
"""Maximum probes per second. The time of an answer delays the next probe."""
SAMPLE_S: Final = 5.0
AIM_P99_MS: Final = 250.0
AIM_MEMORY_MB: Final = 600.0
RATE: Final = 50.0
COUNTED: Final = {"slow": "slow_client"}
"""Reasons by which the plant counts the effects of attacks that may have none. The system's buffers of a slow reader
often suffice for its minute."""
MAX_TRACES: Final = 5
"""Maximum tracebacks of the plant's log that are printed."""
NAMED: Final = {
    "rest": "", "plain": "", "frames": "", "storm": "", "flood": "",
    "expensive": r"requests (refused|ended)|answers refused",
    "idle": r"idle connections closed|because a request did not end|connections refused",
    "endless": r"because a request did not end|idle connections closed",
    "unread": r"did not read the answer",
    "slow": r"clients of the stream dropped",
    "vendor": r"feed hostile|vendor of hostile",
}  # fmt: skip
"""Patterns that `/health` must contain, by attack. An attack without a pattern has no effect that health reports."""


def isolate() -> str:
    """Run this script again in a namespace with loopback alone; return a remark if the machine allows none."""
    if "ATTACK_ISOLATED" in os.environ:
        return "in a network namespace that has loopback alone"
    user = os.getuid()
    unshare = ["unshare", "-n"] if user == 0 else ["unshare", "-rn"]
    # The database does not run as root, so a plain user gets its own number back.
    back = [] if user == 0 else ["unshare", "-U", f"--map-user={user}", f"--map-group={os.getgid()}"]
    command = [*unshare, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *back]
    with contextlib.suppress(OSError):
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            os.environ["ATTACK_ISOLATED"] = "1"
            os.execvp(command[0], [*command, sys.executable, *sys.argv])
    return "on the machine's loopback, because it allows no network namespace (`unshare`)"


@dataclass
class Probe:
    """Effects on another client and on the operator: latencies, failures, and the answers of `/health`."""

    port: int
    plain_ms: list[float] = field(default_factory=list)
    plain_at_s: list[float] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    """Count of each sentence of `/health`, with `N` for numbers."""
    states: Counter[str] = field(default_factory=Counter)
    delays_s: list[float] = field(default_factory=list)
    """The longest delay of the API's event loop in the minute before each answer of `/health`."""
    stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> list[threading.Thread]:
        """Start a thread for each kind of probe. Both run until `stop`."""
        kinds = ((self._plain, PLAIN_PER_S), (self._health, HEALTH_PER_S))
        threads = [threading.Thread(target=self._run, args=kind, daemon=True) for kind in kinds]
        for thread in threads:
            thread.start()
        return threads

    def _run(self, probe: Callable[[http.client.HTTPConnection], None], per_s: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.stop.wait(1 / per_s):
            try:
                probe(connection)
            except (OSError, http.client.HTTPException) as error:
                self.failed[f"{probe.__name__}: {type(error).__name__}"] += 1
                connection.close()

    def _plain(self, connection: http.client.HTTPConnection) -> None:
        began = time.perf_counter()
        connection.request("GET", PLAIN)
        answer = connection.getresponse()
        body = answer.read()
        self.plain_ms.append(1000 * (time.perf_counter() - began))
        self.plain_at_s.append(began)
        if answer.status != 200:
            self.failed[f"{answer.status} {_code(body)}"] += 1

    def _health(self, connection: http.client.HTTPConnection) -> None:
        began = time.perf_counter()
        connection.request("GET", "/health")
        answer = connection.getresponse()
        text = answer.read()
        try:
            body = json.loads(text)
        except ValueError:
            self.failed[f"/health: {answer.status} {_code(text)}"] += 1
            return
        self.health_ms.append(1000 * (time.perf_counter() - began))
        self.states[body["status"]] += 1
        self.delays_s += [part["details"]["loop_delay_s"] for part in body["parts"] if part["name"] == "api"]
        for sentence in body["wrong"]:
            self.wrong[re.sub(r"\d[\d:.,TZ-]*", "N", sentence)[:400]] += 1


def _code(body: bytes) -> str:
    """Return the error code of an answer, or the beginning of an answer that is not an error of the API."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return repr(body[:60])


def watch(probe: Probe, memory: Memory, seconds: float) -> None:
    """Print the percentiles and the memory of each minute, until the seconds are over or the user interrupts."""
    deadline, seen, minute = time.monotonic() + seconds, 0, 0
    with contextlib.suppress(KeyboardInterrupt):
        while (left_s := deadline - time.monotonic()) > 0:
            time.sleep(min(60.0, left_s))
            minute, measured, seen = minute + 1, probe.plain_ms[seen:], len(probe.plain_ms)
            if measured:
                p50, p99 = np.percentile(measured, [50, 99])
                newest = {kind: round(mb) for kind, mb in (memory.samples or [{}])[-1].items()}
                print(f"minute {minute}: plain request p50 {p50:.0f} ms, p99 {p99:.0f} ms, MB {newest}", flush=True)


@dataclass
class Counts:
    """Counts of ticks that the sandbox has sent and that are stored, of answers, of restarts, and of ended clients.

    `limited`: refused or ended requests and connections by reason, as `/metrics` counts them.
    """

    at_s: float
    sent: int
    stored: int
    answers: dict[str, int]
    restarts: int
    limited: dict[str, int]


def counts(folder: Path, api: str, sandbox: str) -> Counts:
    """Return the present counts. Waits up to 30 s until the store has the ticks that the sandbox has sent."""
    with urllib.request.urlopen(f"{sandbox}/sandbox/counts", timeout=60) as answer:
        streams = [found for found in json.load(answer)["streams"].values() if isinstance(found, dict)]
    sent = sum(stream.get("sent", 0) for stream in streams)
    at_s = time.monotonic()
    with urllib.request.urlopen(f"{api}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    found = re.findall(r'tickerplant_api_requests_total\{path="([^"]*)",status="(\d+)"\} (\S+)', text)
    restarts = sum(float(value) for value in re.findall(r"tickerplant_service_restarts_total\{[^}]*\} (\S+)", text))
    limited = re.findall(r'tickerplant_api_limited_total\{reason="([^"]*)"\} (\S+)', text)
    stored, deadline = 0, time.monotonic() + 30
    while stored < sent and time.monotonic() < deadline:
        time.sleep(1)
        stored = asyncio.run(_stored(folder))
    answers = {f"{status} {path}": int(float(n)) for path, status, n in found}
    return Counts(at_s, sent, stored, answers, int(restarts), {reason: int(float(n)) for reason, n in limited})


async def _stored(folder: Path) -> int:
    import asyncpg

    from tickerplant.app.config.settings import Settings
    from tickerplant.app.wiring.database import running_dsn

    connection = await asyncpg.connect(running_dsn(Settings(data=folder)))
    try:
        return int(await connection.fetchval("SELECT count(*) FROM realtime_prices WHERE source = 'sandbox'"))
    finally:
        await connection.close()


class Memory(threading.Thread):
    """Samples the memory of the plant, its sandbox and its database."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self.samples: list[dict[str, float]] = []
        self.stop = threading.Event()

    def run(self) -> None:
        """Add samples until `stop`."""
        while not self.stop.wait(SAMPLE_S):
            self.samples.append({kind: memory_mb(pids) for kind, pids in by_kind(self._pid).items()})

    def totals(self) -> list[float]:
        """Return the sum of each sample."""
        return [sum(sample.values()) for sample in self.samples] or [0.0]


def plant_environment(folder: Path, vendor: tuple[str, str], sandbox_port: int) -> dict[str, str]:
    """Return the environment of the plant with the hostile vendor as its second vendor."""
    from tickerplant.app.config.settings import Settings

    write_plugin(folder)
    options = {"hostile": {"url": vendor[0], "stream_url": vendor[1]}}
    order = "hostile,sandbox"
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {
        **environment("embedded:"),
        "PYTHONPATH": path,
        "TICKERPLANT_SYMBOLS": ",".join([*Settings.model_fields["symbols"].default, *SYMBOLS]),
        "TICKERPLANT_SANDBOX__RATE": str(RATE * 14 / 12),
        "TICKERPLANT_SANDBOX__PORT": str(sandbox_port),
        "TICKERPLANT_VENDORS__KEYS__HOSTILE": "key",
        "TICKERPLANT_VENDORS__OPTIONS": json.dumps(options),
        "TICKERPLANT_VENDORS__STREAM": order,
        "TICKERPLANT_VENDORS__INTRADAY": order,
        "TICKERPLANT_VENDORS__DAILY": order,
    }


@dataclass
class Result:
    """The figures of one attack."""

    probe: Probe
    before: Counts
    after: Counts
    memory: Memory
    attackers: dict[str, Any]
    cpu: dict[str, float]
    wanted: list[str]

    def print(self) -> bool:
        """Print the figures beside the aims; return whether all aims are reached."""
        seconds = self.after.at_s - self.before.at_s
        sent, stored = self.after.sent - self.before.sent, self.after.stored - self.before.stored
        changed = {
            name: count - self.before.answers.get(name, 0)
            for name, count in self.after.answers.items()
            if name.startswith("5") and count > self.before.answers.get(name, 0)
        }
        dishonest = {name: count for name, count in changed.items() if not name.startswith("503")}
        names = [*self.wanted, *(["vendor"] if self.attackers["vendor"] else [])]
        silent = [
            name
            for name in names
            if NAMED[name]
            and not any(re.search(NAMED[name], one) for one in self.probe.wrong)
            and (name not in COUNTED or self.after.limited.get(COUNTED[name], 0))
        ]
        p50, p99 = (float(np.percentile(self.probe.plain_ms, q)) for q in (50, 99))
        greatest = max(self.memory.totals())
        largest = max(self.memory.samples, key=lambda sample: sum(sample.values()), default={})
        lines: list[tuple[str, str, str, bool | None]] = [
            ("ticks stored of those sent", f"{self.after.stored:,} of {self.after.sent:,}", "all",
             self.after.stored == self.after.sent),
            ("ticks stored per second", f"{stored / seconds:.1f} of {sent / seconds:.1f}", "", None),
            ("plain request, p50", f"{p50:.1f} ms", "", None),
            ("plain request, p99", f"{p99:.1f} ms", f"< {AIM_P99_MS:g} ms", p99 < AIM_P99_MS),
            ("plain request, p99 per minute", _by_minute(self.probe), "", None),
            ("plain request, slowest", f"{max(self.probe.plain_ms):.0f} ms", "", None),
            ("/health, slowest", f"{max(self.probe.health_ms):.0f} ms", "< 2000 ms", max(self.probe.health_ms) < 2000),
            ("longest delay of the API's loop", f"{1000 * max(self.probe.delays_s):.0f} ms", "", None),
            ("probes that failed", str(dict(self.probe.failed) or 0), "0", not self.probe.failed),
            ("memory, greatest", f"{greatest:.0f} MB {({k: round(v) for k, v in largest.items()})}",
             f"< {AIM_MEMORY_MB:g} MB", greatest < AIM_MEMORY_MB),
            ("memory, last", f"{self.memory.totals()[-1]:.0f} MB", "", None),
            ("5xx other than 503", str(dishonest or 0), "0", not dishonest),
            ("5xx without a reason", str(len(self.attackers["dishonest"])), "0", not self.attackers["dishonest"]),
            ("503 of the plant", str(changed or 0), "", None),
            ("restarts of services", str(self.after.restarts), "0", not self.after.restarts),
            ("effects that /health did not name", ", ".join(silent) or "none", "none", not silent),
            ("states of /health", str(dict(self.probe.states)), "", None),
            ("CPU, of a core", ", ".join(f"{name} {share:.0%}" for name, share in self.cpu.items()), "", None),
        ]  # fmt: skip
        print(f"{seconds:.0f} s, load {os.getloadavg()[0]:.1f}")
        for name, value, aim, reached in lines:
            print(f"  {name:<34} {value:<60} {aim:<10} {'' if reached is None else 'ok' if reached else 'MISSED'}")
        print("answers to the attackers (status 0: none):")
        by_attack: dict[str, list[str]] = {}
        for attack, status, code, count in sorted(self.attackers["answers"]):
            by_attack.setdefault(attack, []).append(f"{status} {code} {count:,}".replace("  ", " "))
        for attack, found in by_attack.items():
            print(f"  {attack:<28} {', '.join(found)}")
        print(f"served by the vendor: {self.attackers['vendor']}")
        print("sentences of /health:")
        for sentence, count in self.probe.wrong.most_common(30):
            print(f"  {count:>5} x {sentence[:220]}")
        for problem in [*self.attackers["dishonest"], *map(str, self.attackers["failures"].items())]:
            print(f"  ! {problem}")
        return all(reached is not False for *_, reached in lines)


def _by_minute(probe: Probe) -> str:
    """Return the p99 of the plain requests of the first three minutes and of the last one, and the median of all."""
    minutes = (np.array(probe.plain_at_s) - probe.plain_at_s[0]) // 60
    times_ms = np.array(probe.plain_ms)
    of_minute = [float(np.percentile(times_ms[minutes == minute], 99)) for minute in np.unique(minutes)]
    first = ", ".join(f"{one:.0f}" for one in of_minute[:3])
    return f"{first}, ..., {of_minute[-1]:.0f} ms; median {np.median(of_minute):.0f}, greatest {max(of_minute):.0f} ms"


def attack(seconds: float, seed: int, only: list[str] | None, folder: Path) -> bool:
    """Run one attack on a new plant; return whether the aims are reached."""
    context = multiprocessing.get_context("spawn")
    shared = {"queue": context.Queue(), "begin": context.Event(), "stop": context.Event()}
    port, sandbox_port = free_port(), free_port()
    wanted = only or [attack.__name__ for attack, _ in clients.ATTACKS]
    attackers = context.Process(
        target=clients.run, args=({"seed": seed, "port": port, "only": wanted}, shared), daemon=True
    )
    attackers.start()
    try:
        env = plant_environment(folder, shared["queue"].get(timeout=60), sandbox_port)
        with plant(folder / "data", env, "--sandbox", port=port) as (process, url):
            time.sleep(20)
            sandbox, probe, memory = f"http://127.0.0.1:{sandbox_port}", Probe(port), Memory(process.pid)
            before = counts(folder / "data", url, sandbox)
            cpu = _cpu(process.pid, attackers.pid)
            shared["begin"].set()
            probing = probe.start()
            memory.start()
            began_s = time.monotonic()
            watch(probe, memory, seconds)
            seconds = time.monotonic() - began_s
            used = {name: (spent - cpu[name]) / seconds for name, spent in _cpu(process.pid, attackers.pid).items()}
            probe.stop.set()
            memory.stop.set()
            for thread in probing:
                thread.join()
            shared["stop"].set()
            found = shared["queue"].get(timeout=60)
            with urllib.request.urlopen(f"{sandbox}/sandbox/faults?do=mute&seconds=600", timeout=60):
                time.sleep(1)  # the sandbox sends nothing more, so that the counts can be equal
            after = counts(folder / "data", url, sandbox)
        result = Result(probe, before, after, memory, found, used, wanted)
        reached = result.print()
        print(_warnings(folder / "plant.log"))
        return reached
    finally:
        shared["stop"].set()
        attackers.join(20)
        if attackers.is_alive():
            attackers.kill()


def _cpu(plant_pid: int, attackers_pid: int | None) -> dict[str, float]:
    """Return the CPU seconds of the plant's processes and of the attackers."""
    used = {kind: cpu_of(pids) for kind, pids in by_kind(plant_pid).items()}
    return {**used, "attackers": cpu_of([attackers_pid or 0, *descendants(attackers_pid or 0)])}


def _warnings(path: Path) -> str:
    """Return the most frequent lines of the plant's log, and its first tracebacks."""
    lines: Counter[str] = Counter()
    traces: list[str] = []
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            text = f"{found.get('level')}: {found.get('event')} {found.get('error', '')} {found.get('reason', '')}"
            lines[re.sub(r"\d+", "N", text)[:200] + (" (traceback)" if found.get("exception") else "")] += 1
            traces += [f"{found}\n{found['exception']}"] if found.get("exception") else []
            continue
        lines[re.sub(r"\d+", "N", line)[:200]] += 1
    counted = (f"  {count:>5} x {line}" for line, count in lines.most_common(25))
    return "\n".join(["log of the plant:", *counted, *traces[:MAX_TRACES]])


def main() -> None:
    """Run the attack, print the figures, and exit with 1 if an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="names of attacks; none: only the vendor")
    asked = parser.parse_args()
    print(isolate(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        sys.exit(not attack(asked.seconds, asked.seed, asked.only, Path(name)))


if __name__ == "__main__":
    main()
