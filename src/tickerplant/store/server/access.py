"""Access to the embedded server from outside its data folder: a TCP address, and a Unix socket in another folder.

Every connection needs a password (SCRAM). Over TCP the plant's own role, a superuser, is refused, and other roles reach
only the plant's database. The server has no TLS.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tickerplant import machine
from tickerplant.core.digits import is_digits
from tickerplant.core.errors import StoreError

USER: Final = "tickerplant"
DATABASE: Final = "tickerplant"
DEFAULT_PORT: Final = 5432
SOCKET_PATH_BYTES: Final = machine.SOCKET_PATH_BYTES - len("/.s.PGSQL.65535.lock")
HBA_NAME: Final = "pg_hba.tickerplant.conf"
HBA: Final = f"""# Written at each start of the embedded database.
local all        {USER} scram-sha-256
local {DATABASE} all         scram-sha-256
host  all        {USER} all  reject
host  {DATABASE} all         all  scram-sha-256
"""


@dataclass(frozen=True, slots=True)
class Access:
    """Addresses of the server besides its private socket. `host` "" means no TCP; `folder` None means no other
    socket.
    """

    host: str = ""
    port: int = DEFAULT_PORT
    folder: Path | None = None

    @property
    def is_open(self) -> bool:
        """Return True if the server is reachable from outside the data folder."""
        return bool(self.host) or self.folder is not None

    def settings(self, private: Path, cluster: Path) -> dict[str, str]:
        """Return the server's settings for its addresses. `private` is the folder of the private socket."""
        folders = [private] if self.folder is None else [private, self.folder]
        found = {"unix_socket_directories": ",".join(map(_quoted, folders))}
        if self.host:
            found |= {"listen_addresses": self.host, "port": str(self.port)}
        if self.folder is not None:
            found["unix_socket_permissions"] = "0777"
        if self.is_open:
            found["hba_file"] = str(cluster / HBA_NAME)
        return found

    def prepare(self, cluster: Path, uid: int, gid: int) -> None:
        """Write the rules of access, and check the addresses.

        `uid` and `gid` are the server's user; -1 means this process's user.

        Raises StoreError, with one line that names the setting, if an address cannot be used.
        """
        if not self.is_open:
            return
        rules = cluster / HBA_NAME
        rules.unlink(missing_ok=True)
        handle = os.open(rules, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(HBA)
        _give(rules, uid, gid)
        if self.host:
            _check_port(self.host, self.port)
        if self.folder is not None:
            self._prepare_folder(self.folder, cluster, uid, gid)

    def _prepare_folder(self, folder: Path, cluster: Path, uid: int, gid: int) -> None:
        if len(os.fsencode(folder)) > SOCKET_PATH_BYTES:
            raise StoreError(
                f"store.socket: the path {folder} has more than {SOCKET_PATH_BYTES} bytes; use a shorter path"
            )
        try:
            folder.mkdir(mode=0o755)
        except FileExistsError:
            _check_folder(folder, uid)
        except OSError as error:
            raise StoreError(
                f"store.socket: {folder} cannot be created ({error.strerror}); create it for the user of the database"
            ) from None
        else:
            folder.chmod(0o755)  # the process may have another umask
            _give(folder, uid, gid)
        self._remove_stale(folder, cluster)

    def _remove_stale(self, folder: Path, cluster: Path) -> None:
        """Remove the socket of a killed server. Raises StoreError if a server of another cluster may still use it."""
        name = folder / f".s.PGSQL.{self.port}"
        lock = folder / f"{name.name}.lock"
        try:
            pid, owner = lock.read_text().split("\n")[:2]
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            pid, owner = "", "another user"
        if owner != str(cluster) and (not is_digits(pid) or _is_alive(int(pid))):
            raise StoreError(
                f"store.socket: another database ({owner}) uses {name}; use another folder, or another port in "
                "store.listen"
            )
        name.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)


def _check_port(host: str, port: int) -> None:
    """Raise StoreError if the server cannot listen on this address."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        cause = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise StoreError(
            f"store.listen: the database cannot listen on {shown(host, port)} ({cause}); use another port or host"
        ) from None


def _check_folder(folder: Path, uid: int) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"store.socket: {folder} is not a folder; remove it, or use another path")
    owner = os.geteuid() if uid < 0 else uid
    writable = found.st_uid == owner or found.st_mode & 0o002 or (uid < 0 and os.access(folder, os.W_OK))
    if not writable:
        raise StoreError(f"store.socket: the user {owner} of the database cannot write to {folder}; change its owner")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _give(path: Path, uid: int, gid: int) -> None:
    if uid >= 0:
        os.chown(path, uid, gid, follow_symlinks=False)


def _quoted(path: Path) -> str:
    """Return a path as a quoted entry of a list, because commas and blanks separate entries."""
    return '"' + str(path).replace('"', '""') + '"'


def shown(host: str, port: int) -> str:
    """Return an address as text, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
