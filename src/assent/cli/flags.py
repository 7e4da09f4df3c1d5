"""Flags from configuration classes: every key is a flag; `--config FILE.yaml` gives others; a flag overrides the file.

Cyclopts reads the command line and writes the help. Values stay text until `parse_options` checks flags and YAML
together, so that both get the same checks and the same messages.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from cyclopts import Parameter, Token
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from assent.cli.outcome import Outcome
from assent.config.foreign import foreign_error
from assent.config.loading import parse_options, read_yaml, unknown_name
from assent.errors import ConfigError

Config = TypeVar("Config", bound=BaseModel)


def flag(name: str) -> str:
    """`learning_rate` as `--learning-rate`."""
    return "--" + name.replace("_", "-")


def command(
    config_class: type[Config], *, positional: str | None = None
) -> Callable[[Callable[[Config], Outcome]], Callable[..., Outcome]]:
    """Makes `function(config) -> Outcome` a command whose flags are the fields of `config_class`.

    positional   the field that is given without a flag (`assent data check FILE`), or with its flag like any other; a
                 tuple takes several words
    """

    def decorate(function: Callable[[Config], Outcome]) -> Callable[..., Outcome]:
        def run(*positionals: str, **given: Any) -> Outcome:
            if positionals:
                assert positional is not None
                several = get_origin(_bare(config_class.model_fields[positional].annotation)) is tuple
                given[positional] = list(positionals) if several else positionals[0]
            return function(_resolve(config_class, given, positional=positional))

        run.__doc__ = function.__doc__ or config_class.__doc__
        run.__name__ = run.__qualname__ = function.__name__
        run.__signature__ = _signature(config_class, positional)  # type: ignore[attr-defined]
        run.__annotations__ = {}
        return run

    return decorate


def _resolve(config_class: type[Config], given: dict[str, Any], *, positional: str | None) -> Config:
    def written(name: str) -> str:
        return name.upper() if name == positional else flag(name)

    file = given.pop("config", None)
    if file is None:
        return parse_options(config_class, given, show=written)
    from_file = read_yaml(file)
    unknown = [key for key in from_file if key not in config_class.model_fields]
    if (foreign := foreign_error(unknown, where=f" in {file}", file=file)) is not None:
        raise foreign
    for key in from_file:  # first, so that the message names the file
        if key not in config_class.model_fields:
            error = unknown_name("option", key, config_class.model_fields)
            raise ConfigError(f"{error.what} in {file}", expected=error.expected, fix=error.fix)

    def place(name: str) -> str:
        return f"{name} in {file}" if name in from_file and name not in given else written(name)

    return parse_options(config_class, {**from_file, **given}, show=place)


def _signature(config_class: type[BaseModel], positional: str | None) -> inspect.Signature:
    """Required fields first, then the others as declared. All have a default here, since YAML may give them."""
    fields = sorted(config_class.model_fields.items(), key=lambda item: not item[1].is_required())
    parameters = [_parameter(name, field, is_positional=name == positional) for name, field in fields]
    config = Annotated[
        str | None,
        Parameter(
            name="--config",
            help="YAML file of options by name; a flag overrides it.",
            show_default=False,
            negative=(),
            allow_leading_hyphen=True,
        ),
    ]
    parameters.append(inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=config))
    return inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))


def _parameter(name: str, field: FieldInfo, *, is_positional: bool) -> inspect.Parameter:
    annotation = _annotation(name, field, is_positional=is_positional)
    if is_positional and get_origin(_bare(field.annotation)) is tuple:
        return inspect.Parameter(name, inspect.Parameter.VAR_POSITIONAL, annotation=annotation)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if is_positional else inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=annotation)


def _annotation(name: str, field: FieldInfo, *, is_positional: bool) -> Any:
    kind = _bare(field.annotation)
    help_text = " ".join((field.description or "").split())  # a line break would break the help's line, too
    notes = []
    if get_origin(kind) is Literal:
        notes.append("one of " + ", ".join(map(str, get_args(kind))))
    if field.is_required():
        notes.append("required")
    elif field.get_default(call_default_factory=True) not in (None, {}, (), []):
        notes.append(f"default {field.get_default(call_default_factory=True)}")
    help_text += f" [{'; '.join(notes)}]" if notes else ""
    parameter: dict[str, Any] = {"help": help_text, "show_default": False, "show_choices": False}
    if not (is_positional and get_origin(kind) is tuple):
        parameter["name"] = flag(name)
    if kind is bool:
        return Annotated[bool | None, Parameter(**parameter)]
    if any(isinstance(part, BeforeValidator) for part in field.metadata) and get_origin(kind) is dict:
        # pairs, written as one text or as several
        return Annotated[list[str] | None, Parameter(**parameter, negative=(), consume_multiple=True)]
    if get_origin(kind) is dict:
        return Annotated[dict[str, str] | None, Parameter(**parameter, negative=())]
    if get_origin(kind) is tuple and is_positional:
        return Annotated[str, Parameter(**parameter)]
    if get_origin(kind) is tuple:  # the flag once for each value
        return Annotated[list[str] | None, Parameter(**parameter, negative=())]
    if get_origin(kind) is list:  # any number of values after the flag
        return Annotated[list[str] | None, Parameter(**parameter, negative=(), consume_multiple=True)]
    # A negative number is a value, not a flag: `--learning-rate -1` gets the error about its range.
    return Annotated[
        str | None, Parameter(**parameter, converter=_as_written, allow_leading_hyphen=True, metavar=_metavar(kind))
    ]


def _as_written(_: Any, tokens: Sequence[Token]) -> str:
    return tokens[0].value


def _bare(annotation: Any) -> Any:
    """`int` of `Annotated[int, ...] | None`."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            annotation = next(part for part in get_args(annotation) if part is not type(None))
        else:
            return annotation


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "CHOICE"
    return {int: "INT", float: "FLOAT"}.get(kind, "TEXT")
