"""Named failpoints at which a test may kill the process. A failpoint without a hook costs one comparison.

Names are `service.effect.when`, for example `aggregation.commit.before`. `app` installs a hook if the setting
`testing.crash_at` is set. The chaos tests set it.
"""

from __future__ import annotations

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def install(hook: Callable[[str], None] | None) -> None:
    """Install a hook: every failpoint then calls `hook(name)`. None removes the hook."""
    global _hook
    _hook = hook


def reach(name: str) -> None:
    """Call the hook, if one is installed, at the failpoint `name`."""
    if _hook is not None:
        _hook(name)
