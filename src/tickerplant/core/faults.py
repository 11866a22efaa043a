"""Named points at which a test may kill the process; in a plant nothing is installed and a point costs one comparison.

The points are named `room.effect.when`, e.g. `processor.commit.before`. `app` installs a hook when the setting
`fault` is given; the chaos tests do.
"""

from __future__ import annotations

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def install(hook: Callable[[str], None] | None) -> None:
    """Call `hook(name)` at every point from now on; None removes it."""
    global _hook
    _hook = hook


def reach(name: str) -> None:
    """Say that the point `name` has been reached."""
    if _hook is not None:
        _hook(name)
