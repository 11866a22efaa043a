"""Old names of the plug-in port's fields and arguments, which work for one more version with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def renamed_fields(**names: str) -> Callable[[type[T]], type[T]]:
    """Return a class decorator that accepts old field names (`old=new`), as arguments and as attributes.

    Each use issues a DeprecationWarning that contains the new name.
    """

    def decorate(cls: type[T]) -> type[T]:
        init: Callable[..., None] = cls.__init__

        def accept(self: T, *args: Any, **values: Any) -> None:
            for old, new in names.items():
                if old in values:
                    _warn(cls, old, new)
                    values[new] = values.pop(old)
            init(self, *args, **values)

        accept.__doc__ = init.__doc__
        setattr(cls, "__init__", accept)  # noqa: B010 - mypy forbids the assignment
        for old, new in names.items():
            setattr(cls, old, _alias(cls, old, new))
        return cls

    return decorate


def _alias(cls: type, old: str, new: str) -> property:
    def read(self: object) -> Any:
        _warn(cls, old, new)
        return getattr(self, new)

    return property(read, doc=f"Old name of `{new}`; works for one more version.")


def _warn(cls: type, old: str, new: str) -> None:
    message = (
        f"{cls.__name__}.{old} is now {cls.__name__}.{new}; use the new name, because the old name works for one more "
        "version only"
    )
    warnings.warn(message, DeprecationWarning, stacklevel=3)
