"""The tool for QuestDB checks the jar's hash, and the lines of ticks are those of the file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from benchmarks.plant import make_ticks
from benchmarks.questdb import lines_of
from tools.questdb import server


def test_a_jar_with_another_hash_is_removed_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = tmp_path / "questdb.jar"
    jar.write_bytes(b"content")
    with pytest.raises(server.QuestDBError, match="it is removed and not used"):
        server.check(jar)
    assert not jar.exists()
    jar.write_bytes(b"content")
    monkeypatch.setattr(server, "SHA256", hashlib.sha256(b"content").hexdigest())
    server.check(jar)
    assert jar.exists()


def test_no_port_of_the_server_is_reachable_from_other_machines(tmp_path: Path) -> None:
    settings = server.QuestDB(tmp_path).settings()
    bound = [value for name, value in settings.items() if name.endswith(".bind.to")]
    assert len(bound) == 3
    assert all(value.startswith("127.0.0.1:") for value in bound)
    assert (settings["telemetry.enabled"], settings["http.min.enabled"]) == ("false", "false")


def test_lines_contain_all_ticks_with_times_in_nanoseconds(tmp_path: Path) -> None:
    path = tmp_path / "ticks.parquet"
    make_ticks(path, 50_003, 3, minutes=1)
    blocks = lines_of(path)
    lines = b"".join(blocks).decode().splitlines()
    rows = pq.read_table(path).to_pylist()
    assert (len(blocks), len(lines)) == (2, len(rows))
    for row, line in ((rows[0], lines[0]), (rows[50_000], lines[50_000]), (rows[-1], lines[-1])):
        series, values, time_ns = line.split(" ")
        assert series == f"trades,symbol={row['symbol']}"
        assert values == f"price={row['price']!r},size={row['size']:g}"
        assert int(time_ns) == round(row["time"].timestamp() * 1_000_000) * 1_000
