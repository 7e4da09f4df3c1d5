"""Imports what an option names as `module:name`, usually a Python function."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from assent.errors import ConfigError


def import_named(spec: str, *, what: str, kind: str = "name") -> Any:
    """Imports `module:name` from Python's path or the working directory. Messages use `what` and `kind`.

    ConfigError if the module cannot be imported or has no such name.
    """
    module_name, _, name = spec.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does when it is imported
        raise ConfigError(
            f"the {what}'s module cannot be imported: {type(error).__name__}: {error}",
            got=spec,
            expected=f"module:{kind}, on Python's path or in the working directory",
            fix=f"leave out .py: {module_name[:-3]}:{name}" if module_name.endswith(".py") else None,
        ) from error
    finally:
        sys.path.remove(here)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise ConfigError(f"the module has no such {kind}", got=spec, expected=f"a {kind} in {module.__file__}")
    return found


def import_function(spec: str, *, what: str, may_be_async: bool = False) -> Callable[..., Any]:
    """Like `import_named`. ConfigError if it is not callable, or if it is async and may not be."""
    function = import_named(spec, what=f"{what} function", kind="function")
    if not callable(function):
        raise ConfigError(
            f"the {what} function cannot be called", got=f"{spec}: {type(function).__name__}", expected="a function"
        )
    if inspect.iscoroutinefunction(function) and not may_be_async:
        raise ConfigError(f"the {what} function is async", got=spec, expected="a plain function")
    resolved: Callable[..., Any] = function
    return resolved


def source_hash(modules: Iterable[str | None]) -> str:
    """SHA-256 of the names and sources of imported modules. Modules that these import do not count."""
    digest = hashlib.sha256()
    for name in dict.fromkeys(modules):
        file = getattr(sys.modules.get(name or ""), "__file__", None)
        digest.update(f"{name}\n".encode() + (Path(file).read_bytes() if file else b""))
    return digest.hexdigest()
