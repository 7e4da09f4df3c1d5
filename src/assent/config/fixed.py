"""Values that only some commands let the user choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    fixed = property
else:

    class fixed:  # noqa: N801 - used as a decorator
        """A value that is fixed, unless a subclass has an option of the same name.

        It works like a property without a setter, so the option's value in the instance takes precedence. It is not a
        field: the command has no such flag, and its record has no such key.
        """

        def __init__(self, function: Callable[[Any], Any]) -> None:
            self.function = function

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                raise AttributeError(self.function.__name__)  # as of a field
            return self.function(instance)
