"""Signatures of the public functions, from the options of their commands: for `inspect`, and as the stub for editors.

`docs/make_stubs.py` (`make stubs`) writes `assent/__init__.pyi`; a test compares it with what is written here.
"""

from __future__ import annotations

import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from assent.config.commands import ConvertConfig, MergeConfig, NewModelConfig
from assent.config.doctor import DoctorConfig
from assent.config.explain import ExplainConfig
from assent.config.label import LabelConfig
from assent.config.monitor import MonitorConfig
from assent.config.plan import PlanConfig
from assent.config.serving import ServeCheckConfig
from assent.pipelines.steps import STEPS

TRAINING = ("sft", "reward", "dpo", "kto", "online_dpo", "ppo", "a2c", "grpo", "rloo")
"""Functions that return a `Result`, and whose output_dir may be left out."""
WITH_PROGRESS = (*TRAINING, "sample", "score", "best_of_n", "evaluate", "judge", "frontier", "compare")
DATA = ("data", "eval_data", "normalize_data", "test_data", "demonstrations", "prompts", "reward_pairs", "samples",
        "completions", "import_labels")  # fmt: skip
REWARDS = ("reward", "judge")
FUNCTIONS = ("pair_judge", "function", "safety", "gold", "algorithm", "loss_type")
PATHS = ("model", "output_dir", "reference", "critic", "potential", "reference_cache", "chat_template", "reward_model",
         "labels", "adapter", "rubric", "output", "policy", "baseline",
         "logs", "state", "openmetrics", "run")  # fmt: skip

ALIASES = '''\
Path: TypeAlias = str | PathLike[str]
Data: TypeAlias = (
    Path | Sequence[Mapping[str, Any]] | Sequence[PromptGroup]
    | datasets.Dataset | datasets.DatasetDict | pandas.DataFrame
)
"""A file, a folder or a hub name; or rows in memory: tables, DataFrames, dictionaries with a file's columns."""
Source: TypeAlias = Path | Callable[..., Any] | Mapping[str, Any]
Reward: TypeAlias = Source | Sequence[Source]
"""A reward model's folder, a rule, an address, module:function, or the function itself; or several, with weights."""
'''


def config_of(function: str) -> type[BaseModel]:
    """The options of a public function."""
    others: dict[str, type[BaseModel]] = {
        "new_model": NewModelConfig,
        "merge": MergeConfig,
        "serve_check": ServeCheckConfig,
        "explain": ExplainConfig,
        "convert_config": ConvertConfig,
        "doctor": DoctorConfig,
        "plan": PlanConfig,
        "monitor": MonitorConfig,
        "label": LabelConfig,
    }
    step = {"evaluate": "eval"}.get(function, function.replace("_", "-"))
    return others[function] if function in others else STEPS[step].config_class()


NAMES = (
    *TRAINING,
    "new_model",
    "merge",
    "sample",
    "score",
    "best_of_n",
    "evaluate",
    "judge",
    "frontier",
    "serve_check",
    "compare",
    "explain",
    "plan",
    "monitor",
    "label",
)
"""Functions whose arguments are all options."""
BY_POSITION = ("convert_config", "doctor")
"""Functions whose first arguments are files."""


def parameters(function: str) -> list[inspect.Parameter]:
    """The options, those without a default first, with their types as text."""
    fields = config_of(function).model_fields
    found = [_parameter(name, field, function) for name, field in fields.items()]
    if function in WITH_PROGRESS:
        found.append(_keyword("progress", "Progress | None", None))
    return sorted(found, key=lambda one: one.default is not inspect.Parameter.empty)


def signed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives the function the signature of its command's options."""
    returns = "Result" if function.__name__ in TRAINING else "dict[str, Any]"
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        parameters(function.__name__), return_annotation=returns
    )
    return function


def _parameter(name: str, field: FieldInfo, function: str) -> inspect.Parameter:
    may_be_left_out = name == "output_dir" and function in TRAINING
    default: Any = inspect.Parameter.empty
    if may_be_left_out:
        default = None
    elif not field.is_required():
        default = field.get_default(call_default_factory=True)
    kind = _type_of(name, field.annotation)
    if default is None and "None" not in kind.split(" | "):
        kind += " | None"
    return _keyword(name, kind, default)


def _keyword(name: str, kind: str, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _type_of(name: str, annotation: Any) -> str:
    optional = " | None" if type(None) in get_args(annotation) else ""
    if name in DATA:
        return "Data" + optional
    if name in REWARDS:
        return "Reward" + optional
    if name in FUNCTIONS and "Literal" not in _text_of(annotation):
        return "str | Callable[..., Any]" + optional
    if name in PATHS:
        return "Path | Sequence[Path]" if get_origin(annotation) is tuple else "Path" + optional
    return {
        "columns": "Mapping[str, str] | str",
        "losses": "Sequence[str | Mapping[str, Any]]",
        "proxies": "Mapping[str, Path | Callable[..., Any]]",
        "report_to": "Sequence[str | type]",
        "policies": "Mapping[str, Path]",
        "text_files": "Sequence[Path]",
        "logps": "Sequence[float] | Path | None",
        "methods": "str | Sequence[str]",
        "amounts": "float | Sequence[float]",
    }.get(name, _text_of(annotation))


def _text_of(annotation: Any) -> str:
    """`int | None` of `Annotated[int, …] | None`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _text_of(arguments[0])
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(_text_of(part) for part in arguments))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is list:
        return f"Sequence[{_text_of(arguments[0])}]"
    if origin is tuple:
        return f"Sequence[{_text_of(arguments[0])}]"
    if origin is dict:
        return f"Mapping[{_text_of(arguments[0])}, {_text_of(arguments[1])}]"
    if annotation in (None, type(None)):
        return "None"
    return "Any" if annotation is Any or issubclass(annotation, BaseModel) else annotation.__name__


def stub(functions: Any) -> str:
    """The text of `assent/__init__.pyi`. `functions` is the module of the public functions."""
    names = [*NAMES, *BY_POSITION, "iterate", "report", "rollback", "run", "update"]
    lines = ['"""Written by `make stubs`, from the options of the commands."""', ""]
    lines += [
        "from collections.abc import Callable, Mapping, Sequence", "from os import PathLike",
        "from typing import Any, Literal, TypeAlias", "", "import datasets", "import pandas", "",
        "from assent.commands.functions import Result as Result", "from assent.pipelines.runner import PipelineResult",
        "from assent.pipelines.shares import Jobs",
        "from assent.runs.progress import Progress", "from assent.types import PromptGroup", "", "__version__: str",
        f"__all__ = {['Result', *sorted(names)]!r}".replace("'", '"'), "",
    ]  # fmt: skip
    lines += [ALIASES]
    for name in sorted(names):
        lines += [_written(getattr(functions, name), name), ""]
    return "\n".join(lines)


def _written(function: Callable[..., Any], name: str) -> str:
    signature = inspect.signature(function)
    kinds: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    out, starred = [f"def {name}("], False
    for one in signature.parameters.values():
        if one.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            out, starred = [*out, "    *,"], True
        starred = starred or one.kind is inspect.Parameter.VAR_POSITIONAL
        kind = str(one.annotation).replace("str | os.PathLike[str]", "Path")
        default = "" if one.default is inspect.Parameter.empty else f" = {_default(one.default)}"
        out.append(f"    {kinds.get(one.kind, '')}{one.name}: {kind}{default},")
    out.append(f") -> {signature.return_annotation}:")
    help_of = config_of(name).model_fields if name in (*NAMES, *BY_POSITION) else {}
    told = [f"{option}: {' '.join((help_of[option].description or '').split())}" for option in help_of]
    doc = [line for text in told for line in textwrap.wrap(text, 112, subsequent_indent="    ")]
    first = inspect.getdoc(function) or ""
    body = [*first.splitlines(), "", *doc] if doc else first.splitlines()
    out += ['    r"""' + body[0], *(f"    {line}".rstrip() for line in body[1:]), '    """']
    return "\n".join(out) + "\n"


def _default(value: Any) -> str:
    return repr(value).replace("'", '"')
