"""Messages to the service manager that started this process: systemd, or another manager with systemd's protocol.

The manager names a Unix socket in NOTIFY_SOCKET. Each message is one datagram of lines: `READY=1` when the process
serves, `WATCHDOG=1` while it works, `STOPPING=1` when it stops. Nothing is sent without that variable.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Final

import structlog

from tickerplant.core.digits import is_digits

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

log = structlog.get_logger(__name__)


class ServiceManager:
    """Sends messages to the service manager. The process continues while the socket is unavailable."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Configure the socket; `address` "" means no manager.

        `watchdog_s`: seconds without `WATCHDOG=1` after which the manager ends the process; 0 means no watchdog.
        """
        self._address = address
        self._interval_s = watchdog_s / 2
        self._clock = clock
        self._due_s = 0.0
        self._reported: Sequence[str] = ()
        self._failed = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> ServiceManager:
        """Return the manager that the environment names, and remove its variables.

        Child processes must not have the variables: PostgreSQL would report its own readiness as the plant's.
        """
        address, usec, pid = (environment.pop(name, "") for name in VARIABLES)
        mine = not pid or pid == str(os.getpid())
        return cls(address, int(usec) / 1e6 if is_digits(usec) and mine else 0.0)

    def ready(self, status: str) -> None:
        """Report that the process serves. `status` is the line that `systemctl status` shows."""
        self._send("READY=1", f"STATUS={status}")

    def stopping(self) -> None:
        """Report that the process stops. The manager then expects no `WATCHDOG=1`."""
        self._interval_s = 0.0
        self._send("STOPPING=1", "STATUS=stopping")

    def beat(self, find_troubles: Callable[[], Sequence[str]] = tuple) -> None:
        """Send `WATCHDOG=1` if half of the watchdog's time has passed. Several calls per second are cheap.

        `find_troubles` returns the troubles that only a restart removes. While there are troubles, they are sent as the
        status and the signal is omitted, so that the manager restarts the process.
        """
        now_s = self._clock()
        if not self._interval_s or now_s < self._due_s:
            return
        self._due_s = now_s + self._interval_s
        troubles = list(find_troubles())
        if troubles and troubles != self._reported:
            log.error("no watchdog signal is sent, so the service manager will restart the process", why=troubles)
        self._reported = troubles
        if troubles:
            self._send(f"STATUS={'; '.join(troubles)}")
        else:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # A leading @ marks a socket in Linux's abstract namespace.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as sender:
                sender.settimeout(1.0)
                sender.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), address)
        except OSError as error:
            if not self._failed:
                log.warning("the service manager cannot be reached", socket=self._address, error=str(error))
            self._failed = True
        else:
            self._failed = False
