"""The rows of the table in docs/benchmarks.md: their commands exist, and the page contains each row."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks.support import table
from benchmarks.support.compare import CompareError
from benchmarks.support.table import ROWS, Row

from benchmarks import run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "benchmarks.md").read_text()
ROW = Row("a-rate", "rate of a", "≥ 5 a/s", "feed file", ("one", "two"), "a/s", least=5)


def test_each_row_names_a_benchmark_and_has_a_name_of_its_own() -> None:
    assert {row.benchmark for row in ROWS} <= run.parts().keys()
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_page_has_each_row_with_aim_and_command(row: Row) -> None:
    [line] = [line for line in PAGE.splitlines() if line.startswith(f"| {row.what} | {row.aim} |")]
    assert line.endswith(f" `{row.command}` |")


def test_a_row_adds_its_figures_and_needs_all_of_them() -> None:
    assert ROW.value({"feed: one": 1.5, "feed: two": 2.0, "feed: three": 9.0}) == 3.5
    assert ROW.value({"feed: one": 1.5}) is None


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([], "not measured"),
        ([4.0], "4 a/s **missed**"),
        ([5.0], "5 a/s reached"),
        ([3.0, 6.0, 7.0], "6 (3 to 7) a/s reached"),
        ([123456.0], "123,456 a/s reached"),
    ],
)
def test_a_line_has_median_range_and_verdict(values: list[float], shown: str) -> None:
    assert ROW.line(values) == f"| rate of a | ≥ 5 a/s | {shown} | `feed file` |"


def test_an_upper_bound_is_reached_from_below_and_an_aim_between_commits_has_no_verdict() -> None:
    assert ROW._replace(least=None, most=5).line([4.0]) == "| rate of a | ≥ 5 a/s | 4 a/s reached | `feed file` |"
    assert ROW._replace(least=None).line([4.0]) == "| rate of a | ≥ 5 a/s | 4 a/s | `feed file` |"


def test_rows_are_chosen_by_the_beginning_of_their_names() -> None:
    assert {row.benchmark for row in table.chosen(["rest-1-", "replay"])} == {"rest", "shapes"}
    assert table.chosen([]) == list(ROWS)
    with pytest.raises(CompareError, match="no row begins with 'rst'"):
        table.chosen(["rest", "rst"])


def test_rows_with_one_command_share_its_runs_and_a_failure_leaves_them_unmeasured(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    figures = [{"name": name, "value": 3.0, "unit": "a/s", "better": "more"} for name in ("one", "two")]
    lines = "\\n".join(json.dumps(figure) for figure in figures)
    (folder / "feed.py").write_text(
        f"import os\nopen('runs', 'a').write('x')\nopen(os.environ['BENCH_FIGURES'], 'w').write('{lines}\\n')\n"
    )
    rows = [ROW, ROW._replace(what="the same"), ROW._replace(what="broken", command="nowhere")]
    found = list(table.measure(tmp_path, rows, 2))
    assert found[2:] == [
        "| rate of a | ≥ 5 a/s | 6 (6 to 6) a/s reached | `feed file` |",
        "| the same | ≥ 5 a/s | 6 (6 to 6) a/s reached | `feed file` |",
        "| broken | ≥ 5 a/s | not measured | `nowhere` |",
    ]
    assert (tmp_path / "runs").read_text() == "xx"


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--json"], "--json needs a benchmark, not ''"), (["--json", "nothing"], "there are plant")],
)
def test_json_needs_a_benchmark(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    with pytest.raises(SystemExit, match=message):
        run.main()
