"""The files of `make test-real DATA=FOLDER`: each test runs once for each file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.files import Replayed, opened, replayed

_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", type=Path, metavar="FOLDER", help="folder of CSV and Parquet files of ticks or bars")
    parser.addoption("--zone", default="UTC", help="time zone of times without a zone")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore these tests if no folder is given: `make test` needs no file of the user."""
    return None if config.getoption("data", None) else True


def _files(config: pytest.Config) -> list[Path]:
    folder = config.getoption("data")
    return [path for path in sorted(folder.iterdir()) if path.name.lower().endswith(_SUFFIXES)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "file" in metafunc.fixturenames:
        files = _files(metafunc.config)
        if not files:
            raise pytest.UsageError(f"{metafunc.config.getoption('data')} contains no file of {', '.join(_SUFFIXES)}")
        metafunc.parametrize("file", files, ids=lambda path: path.name, indirect=True, scope="module")


@pytest.fixture(scope="module")
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """Return a file and its replay into a log with one partition."""
    options = opened(request.param, request.config.getoption("zone"), tmp_path_factory.mktemp("try"))
    return replayed(request.param, options, tmp_path_factory.mktemp("log"))
