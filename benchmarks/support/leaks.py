"""A search for secrets: in files, in texts, and in the command lines and environments of processes."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

SAMPLE_S: Final = 1.0


@dataclass
class LeakSearch:
    """Searches for secrets, by name. Each finding is the name of a secret and the place. Thread-safe.

    `roots` are the processes that may have secrets in their environment. Their descendants must have none.
    """

    secrets: Mapping[str, str]
    roots: list[int] = field(default_factory=list)
    found: set[tuple[str, str]] = field(default_factory=set)
    texts: int = 0
    bytes: int = 0
    processes: set[int] = field(default_factory=set)
    children: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._needles = {
            name: {form.encode() for form in (value, quote(value, safe=""), json.dumps(value)[1:-1])}
            for name, value in self.secrets.items()
        }

    def look(self, place: str, text: bytes | str) -> None:
        """Search one text."""
        content = text.encode() if isinstance(text, str) else text
        self.texts += 1
        self.bytes += len(content)
        for name, forms in self._needles.items():
            if any(form in content for form in forms):
                self.found.add((name, place))

    def look_in_folder(self, folder: Path, *, without: Iterable[str] = ()) -> None:
        """Search all files of a folder, except those of these names."""
        for path in sorted(folder.rglob("*")):
            if path.name not in without and path.is_file() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    self.look(str(path.relative_to(folder)), path.read_bytes())

    def look_at_processes(self) -> None:
        """Search the command lines of the roots and their descendants, and the environments of the descendants."""
        for pid in descendants(self.roots):
            folder = Path(f"/proc/{pid}")
            with contextlib.suppress(OSError):  # a process may have ended
                command = (folder / "cmdline").read_bytes()
                shown = command.replace(b"\0", b" ").decode(errors="replace")[:120]
                self.look(f"command line of {shown}", command)
                self.processes.add(pid)
                if pid not in self.roots:
                    self.look(f"environment of {shown}", (folder / "environ").read_bytes())
                    self.children.add(pid)

    def watch_processes(self, stop: threading.Event) -> None:
        """Search the processes every `SAMPLE_S` until `stop`."""
        while not stop.wait(SAMPLE_S):
            self.look_at_processes()


def descendants(roots: Iterable[int]) -> list[int]:
    """Return these processes and all their descendants."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid for pid in roots if pid in parents]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found
