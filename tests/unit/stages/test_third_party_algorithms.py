"""Triples of RLHF that a user brings: `--algorithm module:NAME`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from assent.config.loading import parse_options
from assent.config.online import PpoConfig
from assent.errors import ConfigError, RunError, RunFolderError
from assent.stages import online
from tests.support.stages import write_inputs

MODULE = '''
import torch
from assent.config.algorithms import Algorithm, Part
from assent.objectives.advantages import gae, leave_one_out


def others(episodes):
    """Score minus that of the others."""
    return leave_one_out(episodes.scores, episodes.prompt)[:, None] * episodes.mask, None

others.part = Part(summary="as rloo", needs_mates=True, around=("scale_scores",))


def clip(logprobs, old, advantages, mask, *, cliprange, cliprange_high, dual_clip):
    ratio = (logprobs - old).exp()
    kept = ratio.clamp(1 - cliprange, 1 + (cliprange_high or cliprange))
    zero = torch.zeros_like(ratio)
    metrics = {"policy/approxkl_k3": ratio.log().neg().expm1() * 0, "policy/clipfrac_avg": zero}
    return torch.maximum(-advantages * ratio, -advantages * kept), metrics

clip.part = Part(summary="as ppo", around=("num_ppo_epochs", "num_mini_batches"))


def one_step(episodes, *, gamma):
    return gae(episodes.rewards, episodes.values, episodes.mask, gamma=gamma, lam=0.0, last_values=episodes.last_values)


def squares(values, old, returns, mask):
    return 0.5 * (values - returns) ** 2, {}


def unknown_option(episodes, *, momentum):
    return episodes.rewards, None


def wrong_shape(episodes):
    return episodes.scores, None


def nothing(episodes):
    return None, None


def infinite(episodes):
    return episodes.rewards / 0, None


def no_targets(episodes):
    return torch.zeros_like(episodes.rewards), None


def silent(logprobs, old, advantages, mask):
    return -advantages * (logprobs - old).exp(), {}

silent.part = Part(summary="tells nothing", around=("num_ppo_epochs", "num_mini_batches", "target_kl"))


def mean(logprobs, old, advantages, mask):
    return (-advantages * logprobs).mean(), {}


def mean_error(values, old, returns, mask):
    return ((values - returns) ** 2).mean(), {}


def triple(advantage, policy="clip", value=None):
    return Algorithm(name="mine", summary="of mine", advantage=advantage, policy=policy, value=value)

RLOO = triple("my_triples:others", "my_triples:clip")
A2C = triple("my_triples:one_step", "policy_gradient", "my_triples:squares")
UNKNOWN, SHAPE, NOTHING = (triple("my_triples:" + name) for name in ("unknown_option", "wrong_shape", "nothing"))
INFINITE, SILENT = triple("my_triples:infinite"), triple("leave_one_out", "my_triples:silent")
MEAN, MEAN_ERROR = triple("leave_one_out", "my_triples:mean"), triple("td", "clip", "my_triples:mean_error")
NO_TARGETS = triple("my_triples:no_targets", value="clipped")
MISSPELT, ELSEWHERE = triple("gea"), triple("my_triples:absent")
squares.part, NO_PART = "half of the square", triple("td", value="my_triples:squares")
NO_PART_EITHER = triple("my_triples:others", "my_triples:RLOO")
'''
GIVEN = {"model": "m", "data": "d", "reward": "r", "output_dir": "o"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my_triples.py"
    file.write_text(MODULE.replace('squares.part, NO_PART = "half of the square", ', "NO_PART = "))
    yield file
    sys.modules.pop("my_triples", None)


def weights_of(home: Path, name: str, inputs: dict[str, str], **options: Any) -> dict[str, torch.Tensor]:
    given: dict[str, Any] = {"model": inputs["model"], "data": inputs["prompts"], "output_dir": str(home / name)}
    given |= {"reward": "tests.support.stages:brevity", "device": "cpu", "max_length": 96, "max_new_tokens": 6}
    given |= {"total_steps": 2, "batch_size": 4, "num_completions": 2, "learning_rate": 1e-2}
    online.train(PpoConfig(**given | options))
    return load_file(home / name / "model" / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_triple_of_ones_own_trains_as_the_same_of_ours(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    passes = {"num_ppo_epochs": 2, "num_mini_batches": 2, "cliprange": 0.05}
    ours = weights_of(tmp_path, "rloo", inputs, algorithm="rloo", **passes)
    mine = weights_of(tmp_path, "mine", inputs, algorithm="my_triples:RLOO", **passes)
    assert equal(ours, mine)
    assert not equal(
        mine, weights_of(tmp_path, "wider", inputs, algorithm="my_triples:RLOO", **passes | {"cliprange": 1})
    )
    ours = weights_of(tmp_path, "a2c", inputs, algorithm="a2c", gamma=0.9)
    mine = weights_of(tmp_path, "mine too", inputs, algorithm="my_triples:A2C", gamma=0.9)
    assert equal(ours, mine)
    assert not equal(mine, weights_of(tmp_path, "far", inputs, algorithm="my_triples:A2C", gamma=0.1))


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        ("my_triples:others", {}, "does not name an Algorithm"),
        ("my_triples:MISSING", {}, "no such name"),
        ("no_such_module:X", {}, "the algorithm's module cannot be imported"),
        ("my_triples:UNKNOWN", {}, "needs options that this command does not have: momentum$"),
        ("my_triples:MISSPELT", {}, "did you mean gae"),
        ("my_triples:ELSEWHERE", {}, "no such function"),
        ("my_triples:NO_PART_EITHER", {}, "cannot be called"),
        ("my_triples:RLOO", {"num_completions": 1}, "num_completions of at least 2"),
        ("my_triples:RLOO", {"lam": 0.9}, "lam has no effect with algorithm my_triples:RLOO"),
        ("my_triples:RLOO", {"critic": "c"}, "critic has no effect"),
        ("my_triples:A2C", {"num_ppo_epochs": 2}, "num_ppo_epochs has no effect"),
    ],
)
def test_what_is_no_triple_of_this_commands_options_is_refused(
    algorithm: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(PpoConfig, {**GIVEN, "algorithm": algorithm, **options})


def test_a_part_that_is_none_is_refused(here: Path) -> None:
    here.write_text(MODULE)
    with pytest.raises(ConfigError, match="`part` of my_triples:squares is not a Part"):
        parse_options(PpoConfig, {**GIVEN, "algorithm": "my_triples:NO_PART"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SHAPE", "did not return advantages for each token of each completion"),
        ("NOTHING", "did not return advantages for each token of each completion\n  got:      NoneType"),
        ("INFINITE", "returned advantages that are not finite"),
        ("NO_TARGETS", r"did not return returns \(the critic's targets\) for"),
        ("MEAN", "the policy objective did not return a value for each token"),
        ("MEAN_ERROR", "the value objective did not return a value for each token"),
    ],
)
def test_what_a_part_gives_is_looked_at(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        weights_of(tmp_path, "run", write_inputs(tmp_path), algorithm=f"my_triples:{name}")


def test_target_kl_needs_an_objective_that_tells_how_far_it_is(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    weights_of(tmp_path, "without", inputs, algorithm="my_triples:SILENT")
    with pytest.raises(RunError, match=r"target_kl needs the distance(.|\n)*policy/approxkl_k3"):
        weights_of(tmp_path, "with", inputs, algorithm="my_triples:SILENT", target_kl=0.1)


def test_a_run_is_tied_to_the_source_of_its_triple(tmp_path: Path, here: Path) -> None:
    inputs = write_inputs(tmp_path)
    weights_of(tmp_path, "run", inputs, algorithm="my_triples:RLOO", save_steps=1)
    here.write_text(here.read_text() + "\n# another\n")
    with pytest.raises(RunFolderError, match="hash of algorithm"):
        weights_of(tmp_path, "run", inputs, algorithm="my_triples:RLOO", save_steps=1)
