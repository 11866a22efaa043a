"""Old names of a module that still work for one version, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, current: Mapping[str, tuple[str, Any]]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module. `current` maps each old name to (new name, object).

    Each use emits a DeprecationWarning that contains the new name. Assign the function under `if not TYPE_CHECKING`:
    otherwise mypy accepts every attribute of the module.
    """

    def __getattr__(name: str) -> Any:  # the hook of a module
        if name not in current:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new, value = current[name]
        warnings.warn(f"{module}.{name} is now {new}; the old name will be removed", DeprecationWarning, stacklevel=2)
        return value

    return __getattr__
