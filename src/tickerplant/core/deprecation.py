"""Old names of modules and arguments that work for one more version, with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def renamed(
    module: str, current: Mapping[str, tuple[str, Any]], *, moved: Mapping[str, Callable[[], ModuleType]] | None = None
) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module. `current` maps each old name to (new name, object).

    `moved` maps each name that another module contains now to a function that imports and returns that module.
    Each use emits a DeprecationWarning that contains the new name. Assign the function under `if not TYPE_CHECKING`:
    otherwise mypy accepts every attribute of the module.
    """

    def __getattr__(name: str) -> Any:  # the hook of a module
        if moved is not None and name in moved:
            now = moved[name]()
            new, value = f"{now.__name__}.{name}", getattr(now, name)
        elif name in current:
            new, value = current[name]
        else:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        text = f"{module}.{name} is now {new}; the old name works for one more version only"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return value

    return __getattr__


def renamed_arguments(**current: str) -> Callable[[F], F]:
    """Return a decorator for a function. `current` maps each old keyword to the new keyword.

    Each use of an old keyword emits a DeprecationWarning that contains the new name.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            for old in current.keys() & keywords.keys():
                text = (
                    f"the argument {old} of {function.__name__} is now {current[old]}; "
                    "the old name works for one more version only"
                )
                warnings.warn(text, DeprecationWarning, stacklevel=2)
                keywords[current[old]] = keywords.pop(old)
            return function(*arguments, **keywords)

        return cast(F, wrapper)

    return decorate
