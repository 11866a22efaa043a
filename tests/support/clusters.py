"""A new cluster of the embedded PostgreSQL, created once per process and copied into the folders of tests.

`initdb` and the creation of the database take half a second of CPU time, and a copy takes a tenth. A plant on a copied
cluster still starts the server and creates its tables. `tests/store/test_embedded.py` tests the creation.

The copies do not call fsync. Only a crash of the machine shows the difference, and tests kill processes.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

from tests.support.data import folder
from tickerplant.store.server import binaries
from tickerplant.store.server.embedded import EmbeddedPostgres

PARTS = ("cluster", "password")

if chosen := os.environ.get("TEST_POSTGRES_BINARIES"):  # `make check-postgres`: a server of another version
    binaries.wheel_binaries = lambda: binaries.binaries_in(Path(chosen))


@cache
def _new() -> Path:
    path = folder() / "postgres"
    with EmbeddedPostgres(path):
        pass
    with (path / "cluster" / "postgresql.conf").open("a") as settings:
        settings.write("fsync = off\n")
    return path


def copy_cluster(postgres: Path) -> None:
    """Copy a cluster without tables into the folder of a server; do nothing if the folder exists."""
    if postgres.exists():
        return
    postgres.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # as a plant creates its folder
    postgres.mkdir()
    subprocess.run(["cp", "-a", *(_new() / part for part in PARTS), postgres], check=True)
