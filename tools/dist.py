"""Build the wheel and the sdist, and check them as a new user would use them: `make dist`.

The checks run in new environments outside the repository. They need a package index, and about five minutes. Each step
prints one line; a failed step prints its output and ends the run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
MAX_MB = 450
"""Maximum size on disk of the package and its requirements, without extras. `pip install` also compiles the modules."""
CANDLES_S = 60.0
"""Maximum seconds from `tickerplant up` to a live candle on an idle machine; `--patience` multiplies it."""
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin", "x86_64-apple-darwin")
MACOS = "14.0"
"""Oldest supported macOS. TA-Lib has no wheels for older versions."""
PYTHONS = ("3.11", "3.14")
IN_WHEEL = (
    "tickerplant/api/static/index.html",
    "tickerplant/api/static/docs.html",
    "tickerplant/core/calendars/XNYS.npz",
)
IN_SDIST = ("docs/api.md", "tests/conftest.py", "web/package.json", "src/tickerplant/api/static/index.html", "Makefile")


class Failed(Exception):
    """A check failed; the text contains the output."""


def main() -> int:
    """Run all steps; return 0 if all succeed."""
    parser = argparse.ArgumentParser(prog="make dist", description=__doc__)
    parser.add_argument("--patience", type=float, default=1.0, help="factor of the time limits, for a busy machine")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tickerplant-dist-") as name:
        folder = Path(name)
        steps: Sequence[tuple[str, Callable[[], str]]] = (
            ("build the sdist, and the wheel from it", build),
            ("twine check", lambda: tool("twine", "check", "--strict", *map(str, DIST.iterdir()))),
            ("check-wheel-contents", lambda: tool("check_wheel_contents", str(wheel()))),
            ("files of the wheel and the sdist", check_files),
            ("an sdist needs no Node", lambda: check_sdist(folder / "sdist")),
            ("wheels of all requirements exist", check_platforms),
            ("install the wheel in a new environment", lambda: install(folder / "env")),
            ("live candles in another folder", lambda: check_plant(folder, given.patience)),
            ("a missing extra is one line", lambda: check_extras(folder)),
            ("uv tool install", lambda: install_with_uv(folder / "uv")),
            ("pipx install", lambda: install_with_pipx(folder / "pipx")),
        )
        for what, step in steps:
            started = time.monotonic()
            try:
                note = step()
            except Failed as error:
                print(f"  FAILED  {what}\n{error}")
                return 1
            print(f"  ok      {what:<44} {time.monotonic() - started:7.1f} s  {note}", flush=True)
    print(
        "\n".join(f"  {path.relative_to(ROOT)}  {path.stat().st_size >> 10:,} KiB" for path in sorted(DIST.iterdir()))
    )
    return 0


def run(*command: str, ok: Sequence[int] = (0,), **options: Any) -> str:
    """Return the output of a command. Raises Failed if its exit code is not in `ok`."""
    environment = options.pop("env", clean_environment())
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, check=False,
        env=environment, **options,
    )  # fmt: skip
    if done.returncode not in ok:
        raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment without settings of a plant or of this checkout's Python."""
    hidden = ("TICKERPLANT_", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | more


def tool(module: str, *arguments: str) -> str:
    """Run a module of the developers' environment; it must succeed."""
    run(sys.executable, "-m", module, *arguments, cwd=ROOT)
    return ""


def wheel() -> Path:
    """Return the wheel in dist/."""
    (found,) = DIST.glob("*.whl")
    return found


def sdist() -> Path:
    """Return the sdist in dist/."""
    (found,) = DIST.glob("*.tar.gz")
    return found


def build() -> str:
    """Build the sdist and the wheel into an empty dist/, each in an isolated environment."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--installer", "uv", "--outdir", str(DIST), cwd=ROOT)
    return f"{wheel().name}"


def check_files() -> str:
    """Check that the files that a user needs exist, and that the package's page has no relative links."""
    with zipfile.ZipFile(wheel()) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    with tarfile.open(sdist()) as archive:
        kept = {name.partition("/")[2] for name in archive.getnames()}
    lacks = [name for name in IN_WHEEL if name not in names] + [name for name in IN_SDIST if name not in kept]
    foreign = [name for name in kept if re.search(r"node_modules|\.venv|\.data/|\.pyc$|\.cache/", name)]
    links = re.findall(r"\]\((?!https?://)[^)]*\)", metadata)
    if lacks or foreign or links:
        raise Failed(f"missing files: {lacks}\nfiles that do not belong there: {foreign[:5]}\nrelative links: {links}")
    return f"{len(names):,} files in the wheel, {len(kept):,} in the sdist"


def check_sdist(folder: Path) -> str:
    """Check that the build of a wheel from the sdist requires no Node, and that this wheel has the same file names."""
    with tarfile.open(sdist()) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    asked = run(
        sys.executable, "-c", "import hatchling.build as b; print(b.get_requires_for_build_wheel())", cwd=source,
        env=clean_environment(PATH=""),
    )  # fmt: skip
    if asked.strip() != "[]":
        raise Failed(f"the build requires {asked}")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=source, env=clean_environment(PATH=""))
    (made,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(made) as one, zipfile.ZipFile(wheel()) as other:
        if one.namelist() != other.namelist():
            raise Failed("a wheel that is built from the unpacked sdist has other files")
    return ""


def check_platforms() -> str:
    """Check that every requirement has a wheel on each platform, so that an installation compiles nothing."""
    with tempfile.TemporaryDirectory() as target:
        for platform in PLATFORMS:
            for python in PYTHONS:
                run(
                    uv(), "pip", "install", "--dry-run", "--target", target, "--python-platform", platform,
                    "--python-version", python, "--only-binary", ":all:", str(wheel()),
                    env=clean_environment(MACOSX_DEPLOYMENT_TARGET=MACOS),
                )  # fmt: skip
    return f"{len(PLATFORMS)} platforms, Python {' and '.join(PYTHONS)}"


def uv() -> str:
    """Return the uv beside this Python."""
    return str(Path(sys.executable).with_name("uv"))


def install(folder: Path) -> str:
    """Install the wheel with pip into a new environment; check the environment's size."""
    run(sys.executable, "-m", "venv", str(folder))
    empty = size_of(folder)
    run(str(folder / "bin" / "pip"), "install", "-q", str(wheel()), cwd=folder)
    run(str(folder / "bin" / "pip"), "check", cwd=folder)
    size = (size_of(folder) - empty) / 1e6
    if size > MAX_MB:
        raise Failed(f"the package and its requirements have {size:.0f} MB, more than {MAX_MB}")
    return f"{size:.0f} MB"


def size_of(folder: Path) -> int:
    """Return the bytes that the files of a folder occupy on disk, compiled modules included."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def check_plant(folder: Path, patience: float) -> str:
    """Start `tickerplant up` as a new user, wait for a candle that changes, and stop it with Ctrl-C."""
    home = folder / "home"
    home.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with plant(folder, home, port) as (process, output):
        base, started = f"http://127.0.0.1:{port}", time.monotonic()
        seen: set[str] = set()
        while len(seen) < 3:
            if process.poll() is not None or time.monotonic() - started > CANDLES_S * patience:
                raise Failed(f"no live candle; the candles were {seen}\n{output.read_text()[-3000:]}")
            with contextlib.suppress(OSError, ValueError):
                seen.add(json.dumps(candle(f"{base}/v1/realtime/AAPL")))
            time.sleep(0.2)
        waited = time.monotonic() - started
        page = fetch(f"{base}/")
        assets = re.findall(r'(?:src|href)="\./([^"]+)"', page)
        for path in ("docs", "openapi.json", *assets):
            fetch(f"{base}/{path}")
        process.send_signal(signal.SIGINT)
        if process.wait(60 * patience) != 0:
            raise Failed(f"the plant ended with {process.returncode}\n{output.read_text()[-3000:]}")
    return f"after {waited:.0f} s; dashboard with {len(assets)} assets"


@contextlib.contextmanager
def plant(folder: Path, home: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run `tickerplant up` of the new environment for the block, in an empty folder."""
    output = home / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [folder / "env" / "bin" / "tickerplant", "up", "--port", str(port)],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=home, env=home_environment(home),
        )  # fmt: skip
    try:
        yield process, output
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()


def home_environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a user with an empty home folder."""
    environment = clean_environment(HOME=str(home), **more)
    environment.pop("XDG_DATA_HOME", None)
    return environment


def fetch(url: str) -> str:
    """Return the body of an answer with status 200. Raises Failed for another status, and OSError."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - an address of our own
            return answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        raise Failed(f"{url}: {error}") from None


def candle(url: str) -> Any:
    """Return the newest 1m bar of a symbol. Raises ValueError if there is none yet, and OSError."""
    try:
        found = json.loads(fetch(url))
    except Failed as error:
        raise ValueError(str(error)) from None
    if found["bars"]["1m"] is None:
        raise ValueError("no bar yet")
    return found["bars"]["1m"]


def check_extras(folder: Path) -> str:
    """Check that a command prints one line about its missing extra, and that health names a vendor's missing extra."""
    command, home = str(folder / "env" / "bin" / "tickerplant"), folder / "home"
    said = run(
        command, "tail", "raw", "--log", "kafka://127.0.0.1:1", ok=[1, 2, 3], cwd=home, env=home_environment(home)
    )
    if said.count("\n") != 1 or "tickerplant[kafka]" not in said:
        raise Failed(f"the message for a missing extra is {said!r}")
    chosen = {"TICKERPLANT_VENDORS__DAILY": "yahoo", "TICKERPLANT_SANDBOX__ENABLED": "true"}
    said = run(command, "health", "--json", ok=[1], cwd=home, env=home_environment(home, **chosen))
    if "tickerplant[yahoo]" not in said:
        raise Failed(f"health does not name the vendor whose extra is missing: {said}")
    run(uv(), "pip", "install", "--dry-run", "--python", str(folder / "env" / "bin" / "python"), f"{wheel()}[all]")
    return ""


def install_with_uv(folder: Path) -> str:
    """Install the command with `uv tool`, and run it."""
    environment = clean_environment(UV_TOOL_DIR=str(folder / "tools"), UV_TOOL_BIN_DIR=str(folder / "bin"))
    run(uv(), "tool", "install", "--python", sys.executable, str(wheel()), env=environment, cwd=folder.parent)
    return run(str(folder / "bin" / "tickerplant"), "--version", cwd=folder).strip()


def install_with_pipx(folder: Path) -> str:
    """Install the command with pipx, and run it."""
    environment = clean_environment(PIPX_HOME=str(folder / "home"), PIPX_BIN_DIR=str(folder / "bin"))
    run(sys.executable, "-m", "pipx", "install", "--python", sys.executable, str(wheel()), env=environment,
        cwd=folder.parent)  # fmt: skip
    return run(str(folder / "bin" / "tickerplant"), "--version", cwd=folder).strip()


if __name__ == "__main__":
    sys.exit(main())
