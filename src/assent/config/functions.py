"""A Python function that an option names as `module:function`."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from assent.errors import ConfigError


def import_function(spec: str, *, what: str, may_be_async: bool = False) -> Callable[..., Any]:
    """`module:function`, on Python's path or in the working directory; `what` it is stands in the messages.

    ConfigError where it cannot be imported, is not callable, or is async where it may not be.
    """
    module_name, _, function_name = spec.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does when it is imported
        raise ConfigError(
            f"the {what} function's module cannot be imported: {type(error).__name__}: {error}",
            got=spec,
            expected="module:function, on Python's path or in the working directory",
        ) from error
    finally:
        sys.path.remove(here)
    function: Any = module
    for part in function_name.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise ConfigError("the module has no such function", got=spec, expected=f"a function in {module.__file__}")
    if inspect.iscoroutinefunction(function) and not may_be_async:
        raise ConfigError(f"the {what} function is async", got=spec, expected="a plain function")
    resolved: Callable[..., Any] = function
    return resolved
