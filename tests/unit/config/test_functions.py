"""Functions that a Python caller gives have a name: where they are, or what they do."""

from __future__ import annotations

import functools

import pytest

from assent.config.functions import LENT, import_function, name_of
from assent.config.rewards import is_function
from assent.errors import ConfigError
from tests.support.stages import brevity


def made(scale):
    def score(prompts, completions, per=1):
        return [scale * len(text) / per for text in completions]

    return score


class Scorer:
    def __call__(self, prompts, completions):
        return [0.0 for _ in completions]


def test_a_function_of_a_module_is_named_by_its_place():
    assert name_of(brevity) == "tests.support.stages:brevity"


@pytest.mark.parametrize(
    "function", [lambda p, c: [0.0] * len(c), made(1), Scorer(), functools.partial(made(1), per=2)]
)
def test_another_function_is_lent_by_its_name_and_source(function):
    spec = name_of(function)
    assert spec.startswith(f"{LENT}:")
    assert is_function(spec)
    assert import_function(spec, what="reward") is function
    assert name_of(function) == spec


def test_what_a_function_closes_over_and_is_given_is_part_of_it():
    names = [name_of(function) for function in (made(1), made(2), functools.partial(made(1), per=2))]
    assert len(set(names)) == 3
    assert name_of(made(1)) == names[0], "the same content, the same name"


def test_a_function_that_another_process_lent_is_asked_for():
    with pytest.raises(ConfigError, match="given in Python"):
        import_function(f"{LENT}:score_123456789abc", what="reward")
