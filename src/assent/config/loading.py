"""Turns what a user wrote (YAML, flags, keyword arguments) into a configuration, or into one clear error.

Every option goes through `parse_options`. So a flag, a YAML key and a Python argument are checked by the same rules and
refused in the same words.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from assent.config.foreign import foreign_error
from assent.errors import ConfigError

Config = TypeVar("Config", bound=BaseModel)

MAX_YAML_BYTES = 1_000_000
MAX_NUMBER_BITS = 1024


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`. Case and the difference of `-` and `_` do not count."""
    by_form = {_form(k): k for k in known}
    near = get_close_matches(_form(name), by_form, n=1, cutoff=0.6)
    return by_form[near[0]] if near else None


def _form(name: str) -> str:
    return name.lower().replace("-", "_").strip("_")


def unknown_name(what: str, name: str, known: Iterable[str], *, show: Callable[[str], str] = str) -> ConfigError:
    """The error for an unknown name. It suggests the nearest known name, or lists all."""
    known = list(known)
    near = nearest(name, known)
    if near is None:
        return ConfigError(f"unknown {what}: {show(name)}", expected=f"one of: {', '.join(map(show, sorted(known)))}")
    return ConfigError(f"unknown {what}: {show(name)}", fix=f"did you mean {show(near)}?")


def parse_options(
    config_class: type[Config], given: Mapping[str, Any], *, show: Callable[[str], str] = str, where: str = ""
) -> Config:
    """`given` as a configuration. The ConfigError names every option at fault.

    show    how the user wrote an option's name (`--learning-rate`, `learning_rate`)
    where   text after the option's name (` in FILE`, ` of stage sft`)
    """
    unknown = [str(name) for name in given if name not in config_class.model_fields]
    if (foreign := foreign_error(map(show, unknown), where=where)) is not None:
        raise foreign
    for name in given:
        if name not in config_class.model_fields:
            error = unknown_name("option", str(name), config_class.model_fields, show=show)
            raise ConfigError(error.what + where, expected=error.expected, fix=error.fix)
    try:
        return config_class.model_validate(dict(given))
    except ValidationError as error:
        raise _readable(error, show=show, where=where) from None


def _readable(error: ValidationError, *, show: Callable[[str], str], where: str) -> ConfigError:
    details = error.errors(include_url=False, include_context=True)
    missing = [show(str(d["loc"][0])) for d in details if d["type"] == "missing" and len(d["loc"]) == 1]
    wrong = [d for d in details if not (d["type"] == "missing" and len(d["loc"]) == 1)]
    if not wrong:
        listed = ", ".join(missing)
        return ConfigError(
            f"{'options' if len(missing) > 1 else 'option'}{where} missing: {listed}", fix=f"give {listed}"
        )
    first = wrong[0]
    cause = first.get("ctx", {}).get("error")
    if not first["loc"]:  # a rule about several options: its message says which, and what to do
        if isinstance(cause, ConfigError):
            return ConfigError(cause.what + where, got=cause.got, expected=cause.expected, fix=cause.fix)
        return ConfigError(_rule(first["msg"]) + where)
    name = show(str(first["loc"][0])) + "".join(f"[{part}]" for part in first["loc"][1:])
    if isinstance(cause, ConfigError):
        return ConfigError(f"{name}{where}: {cause.what}", got=cause.got, expected=cause.expected, fix=cause.fix)
    others = [show(str(d["loc"][0])) for d in wrong[1:] if d["loc"] and d["loc"][0] != first["loc"][0]] + missing
    also = f"also look at {', '.join(dict.fromkeys(others))}" if others else None
    return ConfigError(f"{name}{where} is not right", got=_shown(first["input"]), expected=_expected(first), fix=also)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more than 4300 digits; a value that contains itself
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= 200 else text[:199] + "…"


def _rule(message: str) -> str:
    return message.removeprefix("Value error, ")


def _expected(detail: Mapping[str, Any]) -> str:
    """Pydantic's "Input should be greater than 0" as "a number greater than 0"; a pattern in the words of its field."""
    message = str(detail["msg"])
    if detail["type"] == "string_pattern_mismatch":
        return f"text that matches {detail['ctx']['pattern']}"
    message = _rule(message)
    message = re.sub(r"^Input should be (a valid )?", lambda m: "a valid " if m.group(1) else "", message)
    kind = {"greater_than": "a number ", "greater_than_equal": "a number ", "less_than": "a number "}
    kind["less_than_equal"] = "a number "
    return kind.get(str(detail["type"]), "") + re.sub(r", (unable to|got) .*$", "", message)


def read_value(text: str) -> Any:
    """A value on the command line. Lists, mappings and null are YAML, the rest is text. ConfigError if broken."""
    if not text.startswith(("[", "{")) and text != "null":
        return text
    from assent.config.yaml_values import load_yaml, yaml_problem

    try:
        loaded = load_yaml(text)
    except Exception as error:
        fix = "put the ${reference} in quotes" if "${" in text else None
        raise ConfigError(f"{text} is not valid YAML", got=yaml_problem(error), fix=fix) from None
    _refuse_huge(loaded, "the value")
    return loaded


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. ConfigError for a missing, large, broken or other kind of file."""
    try:
        from assent.config.yaml_values import load_yaml, yaml_problem
    except ModuleNotFoundError:  # the doctor's small distribution has pydantic alone
        raise ConfigError(f"{path} is YAML, and PyYAML is not installed", fix="give the same as a .json file") from None
    file = Path(path)
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise OSError(errno.EINVAL, "it is a pipe or a device")
        with file.open("rb") as stream:
            content = stream.read(MAX_YAML_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {path}", fix="check the path") from None
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration file {path}", got=error.strerror, fix="check the path"
        ) from None
    if len(content) > MAX_YAML_BYTES:
        raise ConfigError(f"{path} is too large for a configuration file", expected=f"at most {MAX_YAML_BYTES} bytes")
    try:
        loaded = load_yaml(content.decode("utf-8-sig"))
    except Exception as error:  # of all kinds, for a value that does not have its tag's form
        fix = "put a ${reference} inside { } in quotes" if b"${" in content else None
        raise ConfigError(f"{path} is not valid YAML", got=yaml_problem(error), fix=fix) from None
    if loaded is None:
        raise ConfigError(f"{path} is empty", expected="`key: value` lines")
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise ConfigError(f"{path} is not a configuration", got=type(loaded).__name__, expected="`key: value` lines")
    _refuse_huge(loaded, path)
    return loaded


def _refuse_huge(loaded: Any, path: str | Path) -> None:
    """Refuses a huge value, and one that contains itself. YAML aliases can write either in a small file."""
    from assent.config.yaml_values import MAX_YAML_VALUES

    stack, count = [loaded], 0
    while stack:
        value = stack.pop()
        count += 1
        if count > MAX_YAML_VALUES:
            raise ConfigError(
                f"{path} holds too many values", expected=f"at most {MAX_YAML_VALUES}, aliases written out"
            )
        if isinstance(value, int) and value.bit_length() > MAX_NUMBER_BITS:
            raise ConfigError(f"{path} has a number beyond reason", got=f"one of {value.bit_length()} bits")
        if isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list | tuple | set):
            stack.extend(value)
