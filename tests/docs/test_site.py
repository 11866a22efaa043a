"""The site of docs/: every page has one place in the navigation, and faults of the built files are found."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
KINDS = ["How-to guides", "Reference", "Explanation"]


def tool() -> ModuleType:
    spec = spec_from_file_location("site_tool", ROOT / "tools" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_of(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else pages_of(target)


def test_every_page_has_one_place_in_the_navigation() -> None:
    assert Counter(pages_of(PROJECT["nav"])) == Counter(path.name for path in DOCS.glob("*.md"))
    sections = [name for entry in PROJECT["nav"] for name, target in entry.items() if not isinstance(target, str)]
    assert sections == KINDS


def test_the_first_page_links_every_page_under_its_kind() -> None:
    text = (DOCS / "index.md").read_text()
    for entry in PROJECT["nav"]:
        for name, target in entry.items():
            part = text if isinstance(target, str) else text.partition(f"## {name}\n")[2].partition("\n## ")[0]
            linked = set(re.findall(r"\]\(([\w.]+\.md)", part))
            assert set(pages_of([{name: target}])) - {"index.md"} <= linked, name


def test_the_built_site_is_outside_version_control() -> None:
    folder = PROJECT["site_dir"].partition("/")[0]
    assert f"{folder}/" in (ROOT / ".gitignore").read_text().splitlines()


def test_faults_of_built_pages_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<link rel="stylesheet" href="https://fonts.example.com/x.css"><link rel="canonical" href="https://example.com/a">'
        '<a href="b.html#there">1</a><a href="b.html#none">2</a><a href="c.html">3</a><a href="folder/">4</a>'
        '<a href="https://example.com/">5</a><a href="#here">6</a><h2 id="here"></h2><img src="no.png">'
        '<img src="data:image/png;base64,AA=="><script src="app.js"></script>'
    )
    (tmp_path / "b.html").write_text('<h1 id="there"></h1><a href="./a.html">back</a>')
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "index.html").write_text('<a href="../b.html#there"></a>')
    (tmp_path / "app.js").write_text("")
    assert list(tool().faults(tmp_path)) == [
        "a.html: https://fonts.example.com/x.css: a file of another server",
        "a.html: no.png: no such file",
        "a.html: b.html#none: no such heading",
        "a.html: c.html: no such file",
    ]
