"""What `${…}` in a stage's options stands for: a variable of the file, or the output of an earlier stage."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from assent.config.loading import unknown_name
from assent.errors import ConfigError

REFERENCE = re.compile(r"\$\{([^{}]*)\}")


def texts(value: Any) -> Iterator[str]:
    """Every text in lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts(part)


def references(options: Any, where: str) -> list[str]:
    """The texts between ${ and } in the options. Raises ConfigError if one is not closed."""
    for text in texts(options):
        if "${" in REFERENCE.sub("", text):
            raise ConfigError(f"a reference{where} is not closed", got=text, expected="${STAGE.OUTPUT} or ${VARIABLE}")
    return [reference for text in texts(options) for reference in REFERENCE.findall(text)]


def replaced(value: Any, value_of: Callable[[str], Any]) -> Any:
    """`value` with each ${…} replaced. A text that is nothing but a reference becomes what it stands for, as it is."""
    if isinstance(value, str):
        whole = REFERENCE.fullmatch(value)
        return value_of(whole[1]) if whole else REFERENCE.sub(lambda match: str(value_of(match[1])), value)
    if isinstance(value, Mapping):
        return {key: replaced(part, value_of) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(part, value_of) for part in value]
    return value


def check_variables(variables: Mapping[str, Any], options: Sequence[Mapping[str, Any]], path: object) -> None:
    """Raises ConfigError for a variable that is a list or a mapping, has no value, or stands in no stage's options."""
    used = {reference for text in texts(options) for reference in REFERENCE.findall(text)}
    for name, value in variables.items():
        if isinstance(value, list | tuple | Mapping):
            raise ConfigError(
                f"variable {name} of {path} holds more than one value",
                got=repr(value),
                expected="text, a number, true or false",
            )
        if name not in used:
            raise ConfigError(f"variable {name} of {path} has no effect: no stage has ${{{name}}}", fix="leave it out")
        if value is None:
            raise ConfigError(f"variable {name} of {path} has no value", fix=f"give --set {name}=VALUE")


def with_variables(options: Mapping[str, Any], variables: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options with their variables filled in; references to stages, which have a dot, are left as they are."""

    def value_of(reference: str) -> Any:
        if "." in reference:
            return f"${{{reference}}}"
        if reference not in variables:
            error = unknown_name("variable", reference, variables) if variables else ConfigError("there is no variable")
            raise ConfigError(
                f"${{{reference}}}{where}: {error.what}",
                expected=error.expected or "${STAGE.OUTPUT}, or a name from the file's `variables:`",
                fix=error.fix,
            )
        return variables[reference]

    filled: dict[str, Any] = replaced(dict(options), value_of)
    return filled
