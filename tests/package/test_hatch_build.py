"""The build of wheel and sdist (tools/hatch_build.py): the dashboard's bundle, the package's page, and the extras."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

from tickerplant.core.errors import EXTRAS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "tools" / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a repository with a dashboard that was built after its sources."""
    write(tmp_path / "web" / "package.json", "{}", 100)
    write(tmp_path / "web" / "src" / "main.ts", "", 100)
    write(tmp_path / "web" / "node_modules" / "a" / "index.js", "", 900)
    bundle = tmp_path / "src" / "tickerplant" / "api" / "static"
    write(bundle / "index.html", '<script type="module" src="./assets/index-a1.js"></script>', 200)
    write(bundle / "docs.html", '<link rel="stylesheet" href="./assets/docs-b2.css">', 200)
    write(bundle / "assets" / "index-a1.js", "", 200)
    write(bundle / "assets" / "docs-b2.css", "", 200)
    return tmp_path


def write(path: Path, text: str, time: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time, time))


def hook(hooks: ModuleType, root: Path) -> Any:
    return hooks.DashboardHook(str(root), {}, None, None, "", "wheel")


# The dashboard -------------------------------------------------------------------------------------------------------


def test_a_fresh_bundle_is_used_and_needs_no_node(
    hooks: ModuleType, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert hook(hooks, checkout).dependencies() == []
    hook(hooks, checkout).initialize("standard", {})


@pytest.mark.parametrize("change", ["newer source", "no page", "no docs page"])
def test_a_missing_or_older_bundle_is_built_with_npm_of_pypi_if_there_is_no_other(
    hooks: ModuleType, checkout: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    bundle = checkout / "src" / "tickerplant" / "api" / "static"
    if change == "newer source":
        write(checkout / "web" / "src" / "main.ts", "", 300)
    else:
        (bundle / ("index.html" if change == "no page" else "docs.html")).unlink()
    monkeypatch.setenv("PATH", "")
    assert hook(hooks, checkout).dependencies() == [hooks.NODE]
    monkeypatch.setattr(hooks, "machine_npm", lambda: ["npm"])
    assert hook(hooks, checkout).dependencies() == []


def test_a_build_runs_npm_and_fails_with_its_output(
    hooks: ModuleType, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "src" / "tickerplant" / "api" / "static" / "docs.html").unlink()
    npm = checkout / "npm"
    npm.write_text('#!/bin/sh\necho "asked: $*"\n[ "$1" = ci ] || exit 3\n')
    npm.chmod(0o755)
    monkeypatch.setattr(hooks, "machine_npm", lambda: [str(npm)])
    with pytest.raises(RuntimeError, match=r"npm run build failed in .*\nasked: run build\n$"):
        hook(hooks, checkout).initialize("standard", {})


def test_an_sdist_uses_its_bundle_whatever_the_times_of_its_files(hooks: ModuleType, checkout: Path) -> None:
    write(checkout / "web" / "src" / "main.ts", "", 300)
    write(checkout / "PKG-INFO", "", 0)
    assert hook(hooks, checkout).dependencies() == []
    hook(hooks, checkout).initialize("standard", {})


def test_an_editable_installation_skips_the_dashboard(hooks: ModuleType, tmp_path: Path) -> None:
    hook(hooks, tmp_path).initialize("editable", {})


@pytest.mark.parametrize("missing", ["index.html", "docs.html", "assets/index-a1.js", "assets/docs-b2.css"])
def test_no_package_is_built_without_the_dashboard(hooks: ModuleType, checkout: Path, missing: str) -> None:
    write(checkout / "PKG-INFO", "", 0)
    (checkout / "src" / "tickerplant" / "api" / "static" / missing).unlink()
    with pytest.raises(RuntimeError, match=rf"{re.escape(missing)} is missing"):
        hook(hooks, checkout).initialize("standard", {})


def test_an_old_node_of_the_machine_is_not_used(
    hooks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("node", "npm"):
        (tmp_path / name).write_text("#!/bin/sh\necho v18.19.0\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert hooks.machine_npm() is None
    (tmp_path / "node").write_text("#!/bin/sh\necho v20.19.0\n")
    assert hooks.machine_npm() == [str(tmp_path / "npm")]


# The page ------------------------------------------------------------------------------------------------------------


def test_links_of_the_page_name_the_file_or_the_repository(hooks: ModuleType) -> None:
    text = "[bars](docs/bars.md#late), [LICENSE](LICENSE), [top](#top), [a](https://a.example/b)"
    assert hooks.page_of(text, "") == "bars (`docs/bars.md`), LICENSE, [top](#top), [a](https://a.example/b)"
    assert hooks.page_of(text, "https://git.example/o/r/blob/v1") == (
        "[bars](https://git.example/o/r/blob/v1/docs/bars.md#late), "
        "[LICENSE](https://git.example/o/r/blob/v1/LICENSE), [top](#top), [a](https://a.example/b)"
    )


@pytest.mark.parametrize("url", ["", "https://git.example/o/r/"])
def test_the_readme_of_the_package_has_no_relative_link(
    hooks: ModuleType, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv(hooks.URL_VARIABLE, url)
    metadata: dict[str, Any] = {"version": "1.2.3"}
    hooks.PackagePageHook(str(ROOT), {}).update(metadata)
    targets = re.findall(r"\]\(([^)]*)\)", metadata["readme"]["text"])
    assert all(target.startswith(("https://", "#")) for target in targets)
    assert metadata["urls"].get("Changelog") == ("https://git.example/o/r/blob/v1.2.3/CHANGELOG.md" if url else None)


def test_an_sdist_keeps_the_page_with_which_it_was_built(hooks: ModuleType) -> None:
    metadata = {"version": "1", "readme": {"text": "kept"}, "urls": {"Homepage": "https://a.example"}}
    hooks.PackagePageHook(str(ROOT), {}).update(metadata)
    assert metadata == {"version": "1", "readme": {"text": "kept"}, "urls": {"Homepage": "https://a.example"}}


# Metadata ------------------------------------------------------------------------------------------------------------


def test_hatch_accepts_the_metadata() -> None:
    core = ProjectMetadata(str(ROOT), PluginManager()).core
    assert core.name == "tickerplant"
    assert "Programming Language :: Python :: 3.14" in core.classifiers
    assert core.readme_content_type == "text/markdown"


def test_extras_are_known_by_the_code_and_all_contains_them() -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {*EXTRAS, "all", "dev", "bench"}
    assert extras["all"] == [f"tickerplant[{','.join(sorted(EXTRAS))}]"]
    assert extras["dev"][0] == "tickerplant[all]"
    for extra, module in EXTRAS.items():
        (requirement,) = extras[extra]
        assert re.split(r"[><=]", requirement)[0].replace("-", "_") == module


def test_the_base_needs_no_package_of_an_extra() -> None:
    names = {re.split(r"[><=\[]", requirement)[0].lower().replace("-", "_") for requirement in PROJECT["dependencies"]}
    assert not names & {*EXTRAS.values(), "pandas", "polars"}


def test_a_workflow_publishes_what_make_dist_has_checked() -> None:
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text()
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.M)
    assert re.findall(r"run: make (\S+)", text) == ["dist"]
    assert "dist" in targets


# Commands that the machine lacks -------------------------------------------------------------------------------------


def test_a_missing_command_without_a_package_manager_is_one_line(tmp_path: Path) -> None:
    for name in ("bash", "dirname", "id"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        [ROOT / "tools" / "need", "bash:bash", "no-such-command:its-package", "neither:another"],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout + done.stderr == (
        "Missing: its-package another. Install as root, on Debian or Ubuntu: "
        "apt-get install --no-install-recommends its-package another\n"
    )
