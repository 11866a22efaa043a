"""The documents' links resolve, the files that they name exist, and each package has a docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tickerplant"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMING_PAGES = [page for page in PAGES if page.name not in ("README.md", "CHANGELOG.md")]
"""Pages whose module names must exist. The changelog also contains former names."""

PACKAGES = sorted({path.parent for path in SOURCE.rglob("*.py")})


def _without_code(text: str) -> str:
    text = re.sub(r"(?ms)^```.*?^```", "", text)
    return re.sub(r"`[^`\n]*`", "", text)


def _links(page: Path) -> Iterator[str]:
    """Yield the targets of a page's links, except links to other sites."""
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text())):
        if not re.match(r"[a-z]+:", target):
            yield target


@cache
def _anchors(page: Path) -> frozenset[str]:
    """Return the anchors that GitHub creates for a page's headings, and the values of `id` attributes."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    anchors: dict[str, int] = {}
    for heading in re.findall(r"(?m)^#{1,6} +(.+?) *#*$", text):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = anchors.get(slug, 0)
        anchors[slug] = count + 1
        if count:
            anchors[f"{slug}-{count}"] = 1
    return frozenset(anchors) | frozenset(re.findall(r'(?:id|name)="([^"]+)"', text))


def _broken_links(page: Path) -> Iterator[str]:
    for target in _links(page):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists():
            yield f"{page.name}: {target}: no such file"
        elif anchor and anchor not in _anchors(linked):
            yield f"{page.name}: {target}: no such heading"


def _named_modules(page: Path) -> Iterator[str]:
    """Yield the Python files whose names a page contains in backticks, outside blocks of code."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    for code in re.findall(r"`([^`\n]+)`", text):
        yield from re.findall(r"(?<![\w./*-])[\w][\w./-]*\.py\b", code)


def _exists(name: str) -> bool:
    """Return True if the file exists, relative to the repository, the package or a folder of the package."""
    return any((start / name).exists() for start in (ROOT, SOURCE, *PACKAGES))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_of_the_documents_resolve(page: Path) -> None:
    broken = list(_broken_links(page))
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("page", NAMING_PAGES, ids=lambda page: page.name)
def test_modules_that_the_documents_name_exist(page: Path) -> None:
    missing = sorted({name for name in _named_modules(page) if not _exists(name)})
    assert not missing, f"{page.name} names files that do not exist: {', '.join(missing)}"


def test_each_package_has_a_docstring() -> None:
    files = sorted(SOURCE.rglob("__init__.py"))
    undocumented = [
        str(path.relative_to(SOURCE)) for path in files if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not undocumented, ", ".join(undocumented)
    without_init = [
        str(folder.relative_to(SOURCE)) for folder in set(PACKAGES) if not (folder / "__init__.py").exists()
    ]
    assert not without_init, ", ".join(without_init)


def test_broken_links_and_missing_files_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A title, with `code`\n\n## Twice\n\n## Twice\n\n"
        "[a](#a-title-with-code) [b](#twice-1) [c](page.md#twice) [d](https://example.org/x) `[e](none.md)`\n"
        "[f](none.md) [g](#twice-2) [h](page.md#none)\n\n"
        "`core/records.py`, `make x.py`, `none/x.py`, `log/embedded/`\n"
    )
    assert list(_broken_links(page)) == [
        "page.md: none.md: no such file",
        "page.md: #twice-2: no such heading",
        "page.md: page.md#none: no such heading",
    ]
    assert [name for name in _named_modules(page) if not _exists(name)] == ["x.py", "none/x.py"]
