"""The sandbox vendor: as a server in this process, as a separate process, or as an external server.

`up` runs the sandbox as a separate process, so that the simulated vendor does not use the plant's interpreter.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import structlog

from tickerplant.app.config.settings import child_environment
from tickerplant.core.errors import BadInput, ConfigError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.sandbox import SandboxEndpoint
    from tickerplant.system_clock import SystemClock

POLL_S: Final = 0.5

log = structlog.get_logger(__name__)


@contextlib.contextmanager
def run_sandbox(settings: Settings, clock: str = "") -> Iterator[SandboxEndpoint]:
    """Run the sandbox vendor in a thread for the block and yield its addresses.

    `clock`: the text of a running clock (`sandbox.endpoint.format_clock`); if empty, the settings define a new clock.
    Raises ConfigError for a fault script that cannot be parsed.
    """
    from tickerplant.sandbox import MarketSettings, SandboxSettings, running
    from tickerplant.sandbox.endpoint import parse_clock
    from tickerplant.sandbox.fault_script import parse_script
    from tickerplant.sandbox.quotas import FREE_PACE_S, FREE_PLANS

    chosen = settings.sandbox
    try:
        script = parse_script("\n".join(chosen.fault_script))
    except BadInput as error:
        raise ConfigError(f"sandbox.fault_script: {error}") from error
    effective = SandboxSettings(
        MarketSettings(settings.symbols, chosen.rate, chosen.seed, chosen.sessions),
        clock=parse_clock(clock) if clock else sandbox_clock(settings),
        quotas=FREE_PLANS if chosen.free_plans else {},
        pace_s=FREE_PACE_S if chosen.free_plans else {},
        fault_script=script,
        fault_seed=chosen.fault_seed,
    )
    with running(effective, "127.0.0.1", chosen.port) as endpoint:
        yield endpoint


def sandbox_clock(settings: Settings) -> SystemClock:
    """Return a new clock for the sandbox, as the settings define it."""
    from tickerplant.sandbox.endpoint import make_clock

    return make_clock(settings.sandbox.start, settings.sandbox.speed)


def sandbox_endpoint(greeting: bytes, symbols: tuple[str, ...]) -> SandboxEndpoint:
    """Return the addresses of a sandbox in another process, from the line that the process printed at its start."""
    from tickerplant.sandbox.endpoint import parse_greeting

    return parse_greeting(greeting, symbols)


class SandboxProcess:
    """`tickerplant sandbox` with these settings, as a child process.

    The child ends when this process ends, even by a kill, because the child's standard input closes.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._port = settings.sandbox.port
        self._clock: SystemClock | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> SandboxEndpoint:
        """Start the child and return its addresses. A restarted child has the same port, and its clock continues."""
        from tickerplant.sandbox.endpoint import format_clock

        settings = self._settings
        clock = self._clock = self._clock or sandbox_clock(settings)
        env = child_environment() | {
            "TICKERPLANT_DATA": str(settings.data),
            "TICKERPLANT_SYMBOLS": ",".join(settings.symbols),
            "TICKERPLANT_SANDBOX__RATE": repr(settings.sandbox.rate),
            "TICKERPLANT_SANDBOX__SEED": str(settings.sandbox.seed),
            "TICKERPLANT_SANDBOX__PORT": str(self._port),
            "TICKERPLANT_SANDBOX__SESSIONS": settings.sandbox.sessions,
            "TICKERPLANT_SANDBOX__FAULT_SCRIPT": ",".join(settings.sandbox.fault_script),
            "TICKERPLANT_SANDBOX__FREE_PLANS": str(settings.sandbox.free_plans).lower(),
        }
        if settings.sandbox.fault_seed is not None:
            env["TICKERPLANT_SANDBOX__FAULT_SEED"] = str(settings.sandbox.fault_seed)
        child = self._child = subprocess.Popen(
            [sys.executable, "-m", "tickerplant.app", "sandbox", "--while-used", "--clock", format_clock(clock)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches only the plant, whose feeds still close their connections
            cwd="/",
            env=env,
        )
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            self.stop()
            raise ConfigError("the sandbox vendor did not start; its error message is above")
        endpoint = sandbox_endpoint(line, settings.symbols)
        self._port = int(endpoint.url.rpartition(":")[2])
        return endpoint

    def watch(self, stop: threading.Event) -> None:
        """Restart the child, on the same port, whenever it ends. Returns at `stop`."""
        while not stop.wait(POLL_S):
            if self._child is None or self._child.poll() is not None:
                log.warning("the sandbox vendor ended unexpectedly, and is restarted")
                self.stop()
                self.start()

    def stop(self) -> None:
        """Stop the child. Idempotent."""
        child, self._child = self._child, None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class ExternalSandbox:
    """A running sandbox at the setting `sandbox.url`. This process neither starts nor stops it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def start(self) -> SandboxEndpoint:
        """Fetch the sandbox's clock and return its addresses. Raises ConfigError if the sandbox does not answer."""
        import httpx

        url = self._settings.sandbox.url.rstrip("/")
        try:
            clock = httpx.get(f"{url}/sandbox/clock", timeout=10).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise ConfigError(
                f"no sandbox answers at {url} ({type(error).__name__}); start it or correct sandbox.url"
            ) from None
        stream_url = url.replace("http", "ws", 1) + "/v1/quotes/price"
        greeting = json.dumps({"url": url, "stream_url": stream_url, "clock": clock})
        return sandbox_endpoint(greeting.encode(), self._settings.symbols)

    def watch(self, stop: threading.Event) -> None:
        """Wait for `stop`."""
        stop.wait()

    def stop(self) -> None:
        """Do nothing; the sandbox continues to run."""


@contextlib.contextmanager
def sandbox_process(settings: Settings) -> Iterator[tuple[SandboxProcess | ExternalSandbox, SandboxEndpoint]]:
    """Yield the sandbox and its addresses for the block: the server at `sandbox.url`, or else a new child process."""
    process = ExternalSandbox(settings) if settings.sandbox.url else SandboxProcess(settings)
    try:
        yield process, process.start()
    finally:
        process.stop()
