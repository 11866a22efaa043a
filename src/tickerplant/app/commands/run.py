"""`tickerplant up`, `run` and `sandbox`: commands that run until they are stopped."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from tickerplant.app.commands.common import notify
from tickerplant.app.terminal.output import echo
from tickerplant.core.errors import BadInput, ConfigError

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Loaded, Settings
    from tickerplant.app.runtime.supervisor import Supervisor
    from tickerplant.app.service_manager import ServiceManager

Host = Annotated[
    str | None, typer.Option("--host", help="Address that the API listens on.", rich_help_panel="Settings")
]
Port = Annotated[int | None, typer.Option("--port", help="Port that the API listens on.", rich_help_panel="Settings")]
Symbols = Annotated[
    str | None, typer.Option("--symbols", help="Symbols to feed, separated by commas.", rich_help_panel="Settings")
]
Partitions = Annotated[
    int | None, typer.Option("--partitions", help="Number of partitions of new topics.", rich_help_panel="Settings")
]


def up(
    loaded: Loaded,
    s_api__host: Host = None,
    s_api__port: Port = None,
    s_symbols: Symbols = None,
    s_partitions: Partitions = None,
    sandbox_: Annotated[
        bool | None, typer.Option("--sandbox/--no-sandbox", help="Run the sandbox vendor, which needs no key.")
    ] = None,
) -> None:
    """Run all services in this process, and the sandbox vendor if no other vendor is configured.

    Ctrl-C stops the plant.
    """
    from tickerplant.app.runtime import plant
    from tickerplant.app.runtime.descriptors import raise_limit
    from tickerplant.app.runtime.monitoring import monitoring
    from tickerplant.app.runtime.signals import signals
    from tickerplant.app.service_manager import ServiceManager
    from tickerplant.app.wiring.rules import always_open, ensure_rules
    from tickerplant.app.wiring.sandbox import sandbox_process

    settings, manager = loaded.settings, ServiceManager.from_environment()
    wants_sandbox = settings.wants_sandbox if sandbox_ is None else sandbox_
    stop = threading.Event()
    raise_limit()
    with contextlib.ExitStack() as stack:
        stack.enter_context(plant.folder_alone(settings))
        check_port(settings)
        stack.enter_context(signals(stop))
        answers = stack.enter_context(monitoring(settings.monitoring))
        round_the_clock = always_open(settings, wants_sandbox)
        opened = stack.enter_context(
            plant.opened(
                settings,
                log_later=not settings.embedded_log,
                then=lambda event_log: ensure_rules(event_log, settings, always_open=round_the_clock),
            )
        )
        opened.binding.wait(stop, patient=False)
        vendor = stack.enter_context(sandbox_process(settings)) if wants_sandbox else None
        names = [name for name in plant.SERVICES if name != "market_data" or vendor or settings.vendors.any_key()]
        supervisor = opened.supervise(names, vendor=vendor)
        answers.supervisor, answers.registry = supervisor, opened.newest_registry
        up = Announcement("tickerplant is up", _summary(settings, names, made_up=vendor is not None), settings)
        supervise(supervisor, stop, up, manager)


def run(
    loaded: Loaded,
    name: Annotated[str, typer.Argument(help="market_data, aggregation, analytics, persistence, api or store.")],
    s_api__host: Host = None,
    s_api__port: Port = None,
    s_symbols: Symbols = None,
    s_instance: Annotated[
        str | None, typer.Option("--instance", help="Name of this member of the service.", rich_help_panel="Settings")
    ] = None,
    while_used: Annotated[bool, typer.Option("--while-used", hidden=True)] = False,
) -> None:
    """Run one service on the log and the store of the settings. `store` runs the embedded PostgreSQL alone."""
    from tickerplant.app.runtime import plant
    from tickerplant.app.runtime.descriptors import raise_limit
    from tickerplant.app.runtime.monitoring import monitoring
    from tickerplant.app.runtime.signals import signals
    from tickerplant.app.service_manager import ServiceManager
    from tickerplant.app.wiring.rules import always_open, ensure_rules
    from tickerplant.app.wiring.sandbox import sandbox_process

    settings, name, manager = loaded.settings, name.replace("-", "_"), ServiceManager.from_environment()
    stop = threading.Event()
    raise_limit()
    if name == "store":
        with signals(stop):
            _serve_store(settings, stop, manager, while_used=while_used)
        return
    if name not in plant.SERVICES:
        raise BadInput(f"{name!r} is not a service; run one of {', '.join(plant.SERVICES)}, store")
    with contextlib.ExitStack() as stack:
        if settings.embedded_log:
            stack.enter_context(plant.folder_shared(settings, name))
        if name == "api":
            check_port(settings)
        stack.enter_context(signals(stop))
        answers = stack.enter_context(monitoring(settings.monitoring))
        round_the_clock = always_open(settings, settings.wants_sandbox)
        opened = stack.enter_context(
            plant.opened(
                settings,
                lasting=True,
                store=name in plant.NEED_STORE,
                wanted=name in plant.WANT_STORE,
                log_later=name == "api" or not settings.embedded_log,
                then=(lambda event_log: ensure_rules(event_log, settings, always_open=round_the_clock))
                if name == "market_data"
                else None,
            )
        )
        if name != "api" and not opened.binding.wait(stop):
            return
        vendor = None
        if name == "market_data" and settings.wants_sandbox:
            vendor = stack.enter_context(sandbox_process(settings))
        supervisor = opened.supervise([name], vendor=vendor)
        answers.supervisor, answers.registry = supervisor, opened.newest_registry
        up = Announcement(f"tickerplant {name} is up", {}, settings if name == "api" else None)
        supervise(supervisor, stop, up, manager)


def _serve_store(settings: Settings, stop: threading.Event, manager: ServiceManager, *, while_used: bool) -> None:
    from tickerplant.app.wiring.database import serve

    if not settings.embedded_store:
        raise ConfigError(
            "`run store` runs the embedded database, but the setting store names another database; "
            "start that database yourself, or set store to embedded:"
        )
    serve(settings, stop, manager, while_used=while_used)


def sandbox(
    loaded: Loaded,
    s_sandbox__port: Annotated[int | None, typer.Option("--port", help="Port; 0 selects a free port.")] = None,
    s_sandbox__rate: Annotated[
        float | None, typer.Option("--rate", help="Trades per second, all symbols together.")
    ] = None,
    s_sandbox__seed: Annotated[int | None, typer.Option("--seed", help="Seed of the simulated prices.")] = None,
    s_sandbox__start: Annotated[
        str | None, typer.Option("--start", help="Initial time of the sandbox's clock, ISO 8601; default: now.")
    ] = None,
    s_sandbox__speed: Annotated[
        float | None, typer.Option("--speed", help="Speed of the sandbox's clock as a multiple of real time.")
    ] = None,
    s_sandbox__fault_seed: Annotated[
        int | None, typer.Option("--fault-seed", help="Inject random faults drawn from this seed.")
    ] = None,
    s_sandbox__chaos: Annotated[int | None, typer.Option("--chaos", hidden=True)] = None,
    s_symbols: Symbols = None,
    while_used: Annotated[bool, typer.Option("--while-used", hidden=True)] = False,
    clock: Annotated[str, typer.Option("--clock", hidden=True)] = "",
) -> None:
    """Run the sandbox vendor alone: a local server with the protocols of real vendors."""
    from tickerplant.app.runtime.signals import signals
    from tickerplant.app.service_manager import ServiceManager
    from tickerplant.app.wiring.sandbox import run_sandbox

    stop, manager = threading.Event(), ServiceManager.from_environment()
    with signals(stop), run_sandbox(loaded.settings, clock) as endpoint:
        if while_used:  # the parent process reads the addresses, and keeps standard input open while it runs
            echo(endpoint.greeting(), flush=True)
            while not stop.is_set() and os.read(0, 1):
                pass
            return
        announce("the sandbox vendor is up", {"url": endpoint.url})
        manager.ready("the sandbox vendor serves")
        while not stop.wait(1.0):
            manager.beat()
        manager.stopping()


@dataclass(frozen=True)
class Announcement:
    """The message of a process that serves: its first line, and values by name.

    `api`: settings of the API that must accept connections before the message is written; None if there is no API.
    """

    event: str
    values: Mapping[str, str]
    api: Settings | None = None


def announce(event: str, values: Mapping[str, str]) -> None:
    """Write one log line with the values if log lines are JSON; otherwise print a line for each value."""
    from tickerplant.app.runtime import logging

    if logging.writes_json():
        logging.announce(event, values)
    else:
        notify("\n".join([event, *(f"  {name:<10} {text}" for name, text in values.items())]))


def supervise(supervisor: Supervisor, stop: threading.Event, up: Announcement, manager: ServiceManager) -> None:
    """Run until `stop`, or until a service fails; raise the service's error.

    Writes `up` when the process serves. Reports readiness, watchdog signals and the stop to the service manager.
    """
    supervisor.start()
    try:
        while not (answers := up.api is None or _answers(up.api)):
            if supervisor.failure() is not None or stop.wait(0.05):
                break
        if answers:
            announce(up.event, up.values)
            manager.ready(up.event)
        supervisor.wait(stop, lambda: manager.beat(supervisor.troubles))
    finally:
        manager.stopping()
        if stop.is_set():
            announce("stopping; press Ctrl-C again to exit at once", {})
        supervisor.stop()
    failure = supervisor.failure()
    if failure is not None:
        raise failure


def _answers(settings: Settings) -> bool:
    """Return True if the API's port accepts connections, or if `api.port` is 0.

    The API chooses a port for 0, and a log line of the API contains this port.
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.api.host, settings.api.host)  # noqa: S104
    with contextlib.suppress(OSError):
        if settings.api.port:
            socket.create_connection((host, settings.api.port), timeout=1).close()
        return True
    return False


def _summary(settings: Settings, names: list[str], *, made_up: bool) -> dict[str, str]:
    """Return the summary that `up` prints: addresses, the origin of prices, the data folder, and how to stop."""
    host = settings.api.host
    shown = "localhost" if host in ("0.0.0.0", "127.0.0.1", "::", "::1") else f"[{host}]" if ":" in host else host  # noqa: S104
    base = f"http://{shown}:{settings.api.port or '…'}"
    opened = "#apikey=KEY" if settings.api.key is not None else ""
    feeds = "none: the sandbox is off and no vendor is configured" if "market_data" not in names else "from vendors"
    return {
        "dashboard": f"{base}/{opened}",
        "API": f"{base}/docs",
        "health": f"{base}/health",
        "prices": "simulated by the sandbox vendor" if made_up else feeds,
        "data": str(settings.data),
        "stop": "Ctrl-C; the next start resumes",
    }


def check_port(settings: Settings) -> None:
    """Raise ConfigError if the API cannot listen on its address and port."""
    if settings.api.port == 0:
        return
    with socket.socket(socket.AF_INET6 if ":" in settings.api.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.api.host, settings.api.port))
        except OSError as error:
            raise ConfigError(
                f"the API cannot listen on {settings.api.host}:{settings.api.port} ({error.strerror}); "
                "choose another --host or --port"
            ) from None
