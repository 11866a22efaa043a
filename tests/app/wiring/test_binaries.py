"""The setting `store.binaries`: the programs that the embedded database runs."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest
from tools.postgres.tls import programs_with_tls

from tickerplant.app.config.settings import Settings, load
from tickerplant.app.wiring.database import database
from tickerplant.core.errors import ConfigError, StoreError
from tickerplant.store.server.binaries import binaries_in


def with_binaries(data: Path, folder: Path) -> Settings:
    return load({"data": data, "store": {"binaries": str(folder)}}).settings


def test_the_database_runs_the_programs_of_the_setting(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = programs_with_tls()
    programs = binaries_in(folder)
    assert programs is not None

    async def version(dsn: str) -> int:
        connection = await asyncpg.connect(dsn)
        try:
            return int(await connection.fetchval("SHOW server_version_num")) // 10_000
        finally:
            await connection.close()

    data = tmp_path_factory.mktemp("d")
    with database(with_binaries(data, folder)) as dsn:
        assert asyncio.run(version(dsn)) == programs.major
    assert (data / "postgres" / "cluster" / "PG_VERSION").read_text().strip() == str(programs.major)


def test_a_wrong_folder_is_refused_and_nothing_is_created(tmp_path: Path) -> None:
    text = f"the folder {tmp_path} has no programs postgres and initdb of PostgreSQL; correct store.binaries"
    with pytest.raises(StoreError, match=re.escape(text)), database(with_binaries(tmp_path / "data", tmp_path)):
        pass
    assert not (tmp_path / "data" / "postgres" / "cluster").exists()


def test_a_relative_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"setting store.binaries .*not an absolute path.*/usr/lib/postgresql"):
        with_binaries(tmp_path, Path("postgresql/bin"))


def test_data_of_another_version_are_refused_with_the_way(tmp_path: Path) -> None:
    folder = programs_with_tls()
    programs = binaries_in(folder)
    assert programs is not None
    cluster = tmp_path / "data" / "postgres" / "cluster"
    cluster.mkdir(parents=True)
    older = programs.major - 1
    (cluster / "PG_VERSION").write_text(f"{older}\n")
    text = f"was created by PostgreSQL {older}, and {folder} contains {programs.major}: to upgrade, follow"
    with pytest.raises(StoreError, match=re.escape(text)), database(with_binaries(tmp_path / "data", folder)):
        pass
    assert [path.name for path in cluster.iterdir()] == ["PG_VERSION"]
