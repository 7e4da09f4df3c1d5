"""YAML as people mean it. The only file that needs PyYAML, which the doctor's small distribution goes without."""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_YAML_VALUES = 100_000


class _OptionsLoader(yaml.SafeLoader):
    """Safe YAML in which `no` is the word no, 1e-5 is a number, 1:30 is text, and a repeated key is an error.

    YAML 1.1 reads `mixed_precision: no` as False, `learning_rate: 1e-5` as text and `1:30` as 90. Neither YAML 1.2 nor
    people do.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own protocol)
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float", ":int"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merges `<<` keys. A few lines of them can write out to any number of values."""
        super().flatten_mapping(node)
        if len(node.value) > MAX_YAML_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"merged keys make more than {MAX_YAML_VALUES} values", node.start_mark
            )


_OptionsLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_OptionsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_OptionsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF)|\.(?:nan|NaN))$"
    ),
    list("-+0123456789."),
)


def load_yaml(text: str) -> Any:
    """The value that the text holds. Errors of all kinds are raised for what is not YAML."""
    loader = _OptionsLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def yaml_problem(error: Exception) -> str:
    """What is wrong, and in which line where that is known."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
