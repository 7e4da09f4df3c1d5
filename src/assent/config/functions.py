"""Imports what an option names as `module:name`, usually a Python function."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from assent.errors import ConfigError

LENT = "given_in_python"
"""Module part of the names of functions that a Python caller lends, and that cannot be imported by a name."""
_LENT: dict[str, Any] = {}


def name_of(function: Any) -> str:
    """`module:name` of a function or class: where it can be imported from, or a name that follows from its source.

    A function of a notebook, a lambda or an object that can be called has no module that could be imported again. It
    is known in this process only, by its name and a hash of its source and of the plain values that it holds.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if module not in (None, "__main__") and name and "<" not in name:
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is function:
            return f"{module}:{name}"
    called = re.sub(r"\W", "", name.rpartition(".")[2]) or type(function).__name__
    spec = f"{LENT}:{called}_{_digest(function)[:12]}"
    _LENT[spec] = function
    return spec


def _digest(function: Any) -> str:
    """SHA-256 of what the function does, as far as it can be told: not of what it calls."""
    inner = getattr(function, "func", function)  # functools.partial
    plain = inner if inspect.isroutine(inner) else type(inner)
    try:
        source = inspect.getsource(plain)
    except (OSError, TypeError):
        code = getattr(inner, "__code__", None)
        source = repr(plain) if code is None else f"{code.co_code!r} {code.co_names} {_constants(code.co_consts)}"
    held = [*getattr(function, "args", ()), *sorted(getattr(function, "keywords", {}).items())]
    held += getattr(inner, "__defaults__", None) or ()
    held += [cell.cell_contents for cell in getattr(inner, "__closure__", None) or () if _is_filled(cell)]
    known = [repr(value) for value in held if _is_fixed(value)]
    return hashlib.sha256("\n".join([source, *known]).encode()).hexdigest()


def _is_fixed(value: Any) -> bool:
    """A plain value that cannot change while the process runs, and that looks the same in the next one."""
    if isinstance(value, tuple):
        return all(map(_is_fixed, value))
    return value is None or isinstance(value, str | bytes | int | float)


def _constants(constants: Iterable[Any]) -> str:
    return repr([one.co_code if inspect.iscode(one) else one for one in constants])


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def import_named(spec: str, *, what: str, kind: str = "name") -> Any:
    """Imports `module:name` from Python's path or the working directory. Messages use `what` and `kind`.

    ConfigError if the module cannot be imported or has no such name.
    """
    module_name, _, name = spec.partition(":")
    if module_name == LENT:
        if spec not in _LENT:
            raise ConfigError(
                f"the {what} was given in Python, and this process has no such {kind}",
                got=spec,
                expected=f"module:{kind}, on Python's path or in the working directory",
                fix=f"give the {kind} in Python again, or put it into a module",
            )
        return _LENT[spec]
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
