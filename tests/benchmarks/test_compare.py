"""Figures of benchmarks, and the comparison of two commits, on a small repository with a benchmark of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import pytest
from benchmarks.support import compare, figures
from benchmarks.support.compare import CompareError, Ratios, Results, collect, commit_of, document, table
from benchmarks.support.figures import Figure

BENCHMARK = """
import os, sys
from benchmarks.support.figures import record
import package
record("speed" + "".join(sys.argv[1:]), package.SPEED, "ticks/s")
print("text that is no figure")
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with a tag `old` of speed 2.0, and a newer commit of speed 3.0 with one more benchmark."""
    root = tmp_path / "repository"
    (root / "src").mkdir(parents=True)
    (root / "benchmarks" / "support").mkdir(parents=True)
    (root / "benchmarks" / "support" / "figures.py").write_text(Path(figures.__file__).read_text())
    (root / "benchmarks" / "tiny.py").write_text(BENCHMARK)
    (root / "requirements.txt").write_text("numpy==2\n")
    (root / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\n')
    (root / "src" / "package.py").write_text("SPEED = 2.0\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "old")
    git(root, "tag", "old")
    (root / "src" / "package.py").write_text("SPEED = 3.0\n")
    (root / "benchmarks" / "newer.py").write_text(BENCHMARK)
    git(root, "add", ".")
    git(root, "commit", "-qm", "new")
    return root


def git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def asked(ref: str, *benchmarks: str, rounds: int = 2, own: bool = False) -> argparse.Namespace:
    return argparse.Namespace(ref=ref, benchmarks=list(benchmarks), rounds=rounds, own=own, json=False)


KNOWN: dict[str, list[str]] = {"tiny": [], "newer": [], "silent": [], "broken": []}


# Figures -------------------------------------------------------------------------------------------------------------


def test_figures_have_a_unit_and_a_direction_by_their_names() -> None:
    values = {
        "ticks": 5, "seconds": 2.0, "ticks_per_s": 2.5, "cpu_s": {"plant": 1.5, "feed": 1}, "memory_max_mb": 400,
        "cpu_percent_in_all": 9.5, "log_gb_per_day": 0.4, "p99_ms": 20.0, "bars_per_cpu_s": 7.0, "records_per_s": 3.0,
        "load": 1.0, "clients_failed": [], "cpu_us_per_tick": 4.3,
    }  # fmt: skip
    assert list(figures.figures_of("row", values)) == [
        Figure("row: seconds", 2.0, "s", "less"),
        Figure("row: ticks_per_s", 2.5, "/s", "more"),
        Figure("row: cpu_s.plant", 1.5, "CPU s", "less"),
        Figure("row: cpu_s.feed", 1.0, "CPU s", "less"),
        Figure("row: memory_max_mb", 400.0, "MB", "less"),
        Figure("row: cpu_percent_in_all", 9.5, "% of a core", "less"),
        Figure("row: log_gb_per_day", 0.4, "GB/day", "less"),
        Figure("row: p99_ms", 20.0, "ms", "less"),
        Figure("row: bars_per_cpu_s", 7.0, "/CPU s", "more"),
        Figure("row: records_per_s", 3.0, "records/s", "less"),
        Figure("row: cpu_us_per_tick", 4.3, "CPU µs", "less"),
    ]


def test_recorded_figures_are_read_and_the_last_of_a_name_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figures.jsonl"
    figures.record("unseen", 1.0, "s")
    monkeypatch.setenv(figures.FILE, str(path))
    assert figures.read(path) == []
    figures.record("a", 1, "ticks/s")
    figures.record("b", float("nan"), "ms", "less")
    figures.report("c", {"p50_ms": 3.0, "note": "text"})
    figures.record("a", 2.5, "ticks/s")
    assert figures.read(path) == [Figure("a", 2.5, "ticks/s", "more"), Figure("c: p50_ms", 3.0, "ms", "less")]
    assert "c\n" in capsys.readouterr().out


# Ratios --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("better", "base", "here", "verdict"),
    [
        ("more", [2.0, 4.0, 6.0], [3.0, 5.0, 7.0], "better"),
        ("less", [2.0, 4.0, 6.0], [3.0, 5.0, 7.0], "worse"),
        ("less", [2.0, 4.0, 6.0], [1.0, 3.0, 5.0], "better"),
        ("more", [2.0, 4.0, 6.0], [1.0, 3.0, 5.0], "worse"),
        ("more", [2.0, 4.0, 6.0], [3.0, 3.0, 7.0], ""),
        ("more", [2.0, 4.0, 6.0], [2.0, 5.0, 7.0], ""),  # an equal round is no agreement
        ("more", [2.0, 4.0], [3.0, 5.0], ""),  # noise agrees in half of all cases of two rounds
        ("less", [0.0, 0.0, 0.0], [3.0, 3.0, 3.0], ""),
    ],
)
def test_a_verdict_needs_three_rounds_that_agree(
    better: figures.Better, base: list[float], here: list[float], verdict: str
) -> None:
    assert Ratios("s", better, base, here).verdict() == verdict


def test_ratios_are_of_the_same_round() -> None:
    results: Results = {}
    for base, here in ((100.0, 150.0), (200.0, 240.0), (50.0, 100.0)):
        collect(results, "base", [Figure("rate", base, "ticks/s", "more"), Figure("gone", 1.0, "s", "less")])
        collect(results, "here", [Figure("rate", here, "ticks/s", "more"), Figure("new", 1.0, "s", "less")])
    # 150/100 = 1.5, 240/200 = 1.2, 100/50 = 2: the median is 1.5. The medians of the values are 100 and 150.
    [entry, *_] = document(results, {})["figures"]
    assert (entry["ratio"], entry["least"], entry["most"], entry["verdict"]) == (1.5, 1.2, 2.0, "better")
    assert list(table(results, "abc123")) == [
        "figure  unit              abc123        here  here/REF   range",
        "rate    ticks/s              100         150     1.500   1.200 to 2.000  better",
        "only abc123: gone",
        "only here: new",
    ]


def test_a_base_of_zero_has_no_ratio() -> None:
    results: Results = {}
    collect(results, "base", [Figure("lost", 0.0, "s", "less")])
    collect(results, "here", [Figure("lost", 1234567.0, "s", "less")])
    assert list(table(results, "x"))[1] == "lost    s                      0   1,234,567"
    assert "ratio" not in document(results, {})["figures"][0]


# Commits -------------------------------------------------------------------------------------------------------------


def test_two_commits_run_in_turn_and_the_worktree_is_removed(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare.compare(repository, asked("old", "tiny"), KNOWN, ["-x"])
    speed, cpu = found["figures"]
    assert (speed["name"], speed["base"], speed["here"], speed["ratio"]) == ("tiny: speed-x", [2.0] * 2, [3.0] * 2, 1.5)
    assert (cpu["name"], cpu["unit"], len(cpu["here"])) == ("tiny: whole run", "CPU s", 2)
    assert found["changes"] == ""
    json.dumps(found)
    said = capsys.readouterr().err
    old = commit_of(repository, "old")[:9]
    assert [line.split(",")[0] for line in said.splitlines()[1:]] == [
        f"round {turn} of 2: tiny on {tree}" for turn in (1, 2) for tree in (old, "here")
    ]
    listed = subprocess.run(["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1


def test_uncommitted_changes_are_measured_and_reported(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "src" / "package.py").write_text("SPEED = 8.0\n")
    found = compare.compare(repository, asked("HEAD", "tiny", rounds=1), KNOWN, [])
    assert (found["figures"][0]["base"], found["figures"][0]["here"]) == ([3.0], [8.0])
    assert "1 uncommitted changes are measured as part of `here`: src/package.py" in capsys.readouterr().err


def test_a_benchmark_that_ref_lacks_is_measured_with_that_of_this_tree_unless_each_runs_its_own(
    repository: Path,
) -> None:
    found = compare.compare(repository, asked("old", "newer", rounds=1), KNOWN, [])
    assert (found["figures"][0]["base"], found["figures"][0]["here"]) == ([2.0], [3.0])
    with pytest.raises(CompareError, match=r"has no benchmark 'newer'; without --own"):
        compare.compare(repository, asked("old", "newer", own=True), KNOWN, [])


@pytest.mark.parametrize("ref", ["nowhere", "--help", "old:src"])
def test_an_unknown_reference_is_refused(repository: Path, ref: str) -> None:
    with pytest.raises(CompareError, match=r"is no commit, branch or tag of .*git fetch"):
        compare.compare(repository, asked(ref, "tiny"), KNOWN, [])


def test_an_unknown_benchmark_is_refused_with_the_known_ones(repository: Path) -> None:
    with pytest.raises(CompareError, match=r"no benchmark 'tinny'; there are tiny, newer"):
        compare.compare(repository, asked("old", "tinny"), KNOWN, [])


def test_a_folder_without_a_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompareError, match="is no commit"):
        compare.compare(tmp_path, asked("old", "tiny"), KNOWN, [])


def test_a_benchmark_that_fails_or_has_no_figures_ends_the_comparison(repository: Path) -> None:
    (repository / "benchmarks" / "silent.py").write_text("")
    (repository / "benchmarks" / "broken.py").write_text("raise SystemExit('the plant did not start')")
    with pytest.raises(CompareError, match=r"silent of .* records no figures"):
        compare.compare(repository, asked("old", "silent"), KNOWN, [])
    with pytest.raises(
        CompareError, match=r"broken failed on \w+ with 1:\nthe plant did not start\nIf REF lacks .* --own"
    ):
        compare.compare(repository, asked("old", "broken"), KNOWN, [])


def test_an_environment_is_shared_only_with_equal_requirements_and_entry_points(repository: Path) -> None:
    before = compare.needs(repository)
    (repository / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "2"\n')
    assert compare.needs(repository) == before
    (repository / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\ndependencies = ["polars"]\n')
    assert compare.needs(repository) != before
    (repository / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\n[project.scripts]\nx = "x:y"\n')
    assert compare.needs(repository) != before
    (repository / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\n')
    (repository / "requirements.txt").write_text("numpy==3\n")
    assert compare.needs(repository) != before


def test_jars_are_shared_only_if_both_trees_name_the_same(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for tree, kafka in ((ours, "4.1"), (theirs, "4.1")):
        (tree / "tools" / "kafka").mkdir(parents=True)
        (tree / "tools" / "kafka" / "pom.xml").write_text(kafka)
    assert compare.caches(ours, theirs).keys() == {"TICKERPLANT_KAFKA_CACHE"}
    (theirs / "tools" / "kafka" / "pom.xml").write_text("4.2")
    assert compare.caches(ours, theirs) == {}
