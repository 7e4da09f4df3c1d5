"""What an editor completes and `inspect` shows are the options of the commands, with their types and defaults."""

from __future__ import annotations

import ast
import inspect

import pytest

import assent
from assent.commands import functions
from assent.commands.signatures import NAMES, TRAINING, config_of, stub
from assent.errors import ConfigError
from tests.support.docs import ROOT

STUB = ROOT / "src" / "assent" / "__init__.pyi"


def test_the_stub_is_the_options() -> None:
    assert STUB.read_text(encoding="utf-8") == stub(functions), "write it anew: make stubs (python docs/make_stubs.py)"


def test_the_stub_has_every_public_name_and_nothing_else() -> None:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert defined == set(assent.__all__) - {"Result"}
    (listed,) = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    assert ast.literal_eval(listed) == assent.__all__


@pytest.mark.parametrize("name", NAMES)
def test_a_signature_shows_every_option_with_its_default(name: str) -> None:
    shown = inspect.signature(getattr(assent, name)).parameters
    fields = config_of(name).model_fields
    assert set(shown) - {"progress"} == set(fields)
    for option, field in fields.items():
        default = shown[option].default
        if field.is_required():
            left_out = name in TRAINING and option == "output_dir"
            assert default is (None if left_out else inspect.Parameter.empty), option
        else:
            assert default == field.get_default(call_default_factory=True), option
        assert shown[option].annotation not in ("", "Any"), option


def test_types_are_those_that_the_options_take() -> None:
    shown = {name: one.annotation for name, one in inspect.signature(assent.ppo).parameters.items()}
    assert shown["data"] == "Data"
    assert shown["reward"] == "Reward"
    assert shown["kl_target"] == "float | None"
    assert shown["kl_penalty"] == "Literal['reward', 'k2', 'k3', 'k3+']"
    assert shown["columns"] == "Mapping[str, str] | str"


def test_an_unknown_option_is_our_error_and_no_type_error() -> None:
    with pytest.raises(ConfigError, match="unknown option: bta"):
        assent.dpo(model="m", data="d", bta=0.2)  # type: ignore[call-arg]
