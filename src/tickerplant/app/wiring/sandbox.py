"""The sandbox vendor as a process of its own: a vendor is not part of the plant, nor does it share its interpreter."""

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
from tickerplant.core.errors import ConfigError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.sandbox import SandboxEndpoint
    from tickerplant.system_clock import SystemClock

LOOK_S: Final = 0.5

log = structlog.get_logger(__name__)


class SandboxProcess:
    """`tickerplant sandbox` with these settings. It ends with us, however we end: our end of its input closes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._port = settings.sandbox.port
        self._clock: SystemClock | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> SandboxEndpoint:
        """Start it and return where it answers: if it was started before at the same port, its clock going on."""
        from tickerplant.app.wiring import parts
        from tickerplant.sandbox.endpoint import format_clock

        settings = self._settings
        clock = self._clock = self._clock or parts.sandbox_clock(settings)
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
            start_new_session=True,  # Ctrl-C is for the plant, whose feeds still say good-bye
            cwd="/",
            env=env,
        )
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            self.stop()
            raise ConfigError("the sandbox vendor did not start; its words are above")
        place = parts.sandbox_place(line, settings.symbols)
        self._port = int(place.url.rpartition(":")[2])
        return place

    def watch(self, stop: threading.Event) -> None:
        """Until `stop`, start it again where it was when it has died."""
        while not stop.wait(LOOK_S):
            if self._child is None or self._child.poll() is not None:
                log.warning("the sandbox vendor has died and is started again")
                self.stop()
                self.start()

    def stop(self) -> None:
        """End it. Harmless twice."""
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


class SandboxElsewhere:
    """A sandbox that somebody else runs at `url`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def start(self) -> SandboxEndpoint:
        """Ask it by what clock it goes, and return where it answers. Raises ConfigError when it does not."""
        import httpx

        from tickerplant.app.wiring import parts

        url = self._settings.sandbox.url.rstrip("/")
        try:
            clock = httpx.get(f"{url}/sandbox/clock", timeout=10).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise ConfigError(f"no sandbox answers at sandbox.url {url}: {type(error).__name__}") from None
        stream_url = url.replace("http", "ws", 1) + "/v1/quotes/price"
        greeting = json.dumps({"url": url, "stream_url": stream_url, "clock": clock})
        return parts.sandbox_place(greeting.encode(), self._settings.symbols)

    def watch(self, stop: threading.Event) -> None:
        """Until `stop`, do nothing: who runs it looks after it."""
        stop.wait()

    def stop(self) -> None:
        """Leave it as it is."""


@contextlib.contextmanager
def sandbox_process(settings: Settings) -> Iterator[tuple[SandboxProcess | SandboxElsewhere, SandboxEndpoint]]:
    """Run the sandbox vendor beside us for the block, unless one runs already, and give it with its addresses."""
    process = SandboxElsewhere(settings) if settings.sandbox.url else SandboxProcess(settings)
    try:
        yield process, process.start()
    finally:
        process.stop()
