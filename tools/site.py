"""Build the site of docs/ and check it: `make docs`.

zensical builds the pages and fails for a link or an anchor in their text that does not exist. The check of the built
files also covers images, other files, links of the navigation and the theme. It fails if a page loads a file from
another server.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "zensical.toml"
LOADS = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src"}
"""Attribute with the address of a file that a browser loads by itself, by element."""


class Page(HTMLParser):
    """Links, loaded files and anchors of one page of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the addresses and anchors of an element."""
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADS and LOADS[tag] in given and given.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(given[LOADS[tag]])


def faults(site: Path) -> Iterator[str]:
    """Yield one line for each link, anchor or file that is missing, and each file of another server."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its addresses depend on the server
        for target in (*page.loads, *page.links):
            parts = urlsplit(target)
            where = f"{path.relative_to(site)}: {target}"
            if parts.scheme or parts.netloc:
                if target in page.loads and parts.scheme != "data":
                    yield f"{where}: a file of another server"
                continue
            linked = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            linked = linked / "index.html" if linked.is_dir() else linked
            if not linked.exists():
                yield f"{where}: no such file"
            elif parts.fragment and linked in pages and unquote(parts.fragment) not in pages[linked].anchors:
                yield f"{where}: no such heading"


def main() -> int:
    """Build and check the site; return 0 if it has no fault."""
    site = ROOT / tomllib.loads(CONFIG.read_text())["project"]["site_dir"]
    zensical = Path(sys.executable).with_name("zensical")
    built = subprocess.run([zensical, "build", "--clean", "--strict", "--config-file", CONFIG], cwd=ROOT, check=False)
    if built.returncode:
        return 1
    found = list(faults(site))
    print("\n".join(found) or f"  {len(list(site.rglob('*.html')))} pages in {site.relative_to(ROOT)}: open index.html")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
