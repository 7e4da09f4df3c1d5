"""The step-0 gate: every check stays quiet on a healthy run, with room to spare, and fires on its fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from assent.config.online import PpoConfig
from assent.config.stages import PreferenceConfig, RewardConfig, SftConfig
from assent.engine.learner import Learner
from assent.engine.references import Reference
from assent.errors import ConfigError, GateError, RunFolderError
from assent.models.batch import GroupBatch, TokenCompletion, TokenGroup
from assent.models.loading import load_policy, load_scorer, load_tokenizer, save_model
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from assent.rewards.base import Scores
from assent.rewards.reward_model import RewardModel
from assent.rollouts.sampler import SamplingParams
from assent.rollouts.torch_sampler import TorchSampler
from assent.runs.folder import RunFolder
from assent.runs.log import RunLog
from assent.sandbox.base_model import base_folder
from assent.stages import gate as gates
from assent.stages import online, preference, reward, run_models, sft
from assent.stages.gate import (
    Gate,
    check_loss_tokens,
    check_positions,
    check_reward_batch_mates,
    check_tokens,
)
from assent.types import PromptGroup, Rollout
from tests.support.models import tiny_model
from tests.support.stages import gate_lines, write_inputs

STAGES: dict[str, tuple[Callable[..., Any], type]] = {
    "sft": (sft.train, SftConfig),
    "reward": (reward.train, RewardConfig),
    "dpo": (preference.train, PreferenceConfig),
    "ppo": (online.train, PpoConfig),
}
MATES = ("logprobs_alone_or_together", "logprobs_alone_or_together_max")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    paths = {**write_inputs(folder), "other": tiny_model(folder / "other", seed=1), "folder": str(folder)}
    save_model(folder / "reward", load_scorer(paths["model"], seed=3), load_tokenizer(paths["model"]))
    return {**paths, "reward": str(folder / "reward")}


def train(command: str, inputs: dict[str, str], output_dir: Path, **options: Any) -> Path:
    function, config_class = STAGES[command]
    data = {"sft": "demonstrations", "ppo": "prompts"}.get(command, "comparisons")
    given: dict[str, Any] = {"model": inputs["model"], "data": inputs[data], "output_dir": str(output_dir)}
    given |= {"max_length": 64, "learning_rate": 1e-2, "batch_size": 4}
    if command == "ppo":
        given |= {"reward": "tests.support.stages:brevity", "total_steps": 1, "max_new_tokens": 6}
    else:
        given |= {"max_steps": 1}
    if command == "dpo":
        given |= {"reference_cache": str(output_dir.parent / "cache")}
    function(config_class(**{**given, **options}))
    return output_dir


@pytest.mark.parametrize(
    ("command", "checks"),
    [
        ("sft", {"loss_tokens", "positions", *MATES}),
        ("reward", {"loss_at_zero_margin", "positions", "score_alone_or_together"}),
        ("dpo", {"loss_tokens", "positions", *MATES, "log_ratios", "loss_at_zero_margin"}),
        ("ppo", {"positions", *MATES, "ratio", "ratio_max", "kl", "kl_max"}),
    ],
)
@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_a_healthy_run_passes_all_its_checks(
    command: str, checks: set[str], mixed_precision: str, inputs: dict[str, str], tmp_path: Path
) -> None:
    found = gate_lines(train(command, inputs, tmp_path / "run", mixed_precision=mixed_precision))
    assert set(found) == {f"gate/{name}" for name in checks}
    if mixed_precision == "no":
        assert max(found.values()) <= 1e-5  # a hundredth of the tolerance
        assert all(found[name.removesuffix("_max")] <= 1e-6 for name in found if name.endswith("_max"))  # the means
    notes = json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
    assert f"step-0 gate: {len(checks)} checks passed" in notes


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"num_completions": 2}])
def test_ppo_checks_a_reward_model_and_not_a_function(
    options: dict[str, Any], inputs: dict[str, str], tmp_path: Path
) -> None:
    name = "gate/score_alone_or_together"
    found = gate_lines(train("ppo", inputs, tmp_path / "run", reward=inputs["reward"], **options))
    assert found[name] <= (0.05 if "dtype" in options else 1e-5)
    assert name not in gate_lines(train("ppo", inputs, tmp_path / "function", **options))
    notes = json.loads((tmp_path / "function" / "run.json").read_text())["notes"]
    assert any("score_alone_or_together: does not apply, the reward is a function" in note for note in notes)


def fires(name: str, command: str, inputs: dict[str, str], folder: Path, **options: Any) -> str:
    """The gate's message; nothing was trained."""
    with pytest.raises(GateError, match=f"step-0 check failed: {name}") as caught:
        train(command, inputs, folder / "run", **options)
    assert "likely cause" in str(caught.value)
    assert caught.value.exit_status == 1
    assert not (folder / "run" / "model").exists()
    assert all(json.loads(line)["step"] == 0 for line in (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return str(caught.value)


@pytest.mark.parametrize("shift", [0.01, -0.01])
def test_a_reference_cache_of_another_policy_fires(
    shift: float, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where chosen and rejected are off alike, so that margins and loss are right."""
    original = run_models.reference_logps
    monkeypatch.setattr(run_models, "reference_logps", lambda *a, **k: (original(*a, **k)[0] + shift, True))
    message = fires("log_ratios", "dpo", inputs, tmp_path)
    assert "cache" in message


def test_a_reference_of_other_weights_fires_in_ppo(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference says that it is the policy's start (its fingerprint) and computes something else."""

    def read(self: Reference, groups: Sequence[TokenGroup], *, want: set[str]) -> Any:
        outputs = Reference.__dict__["plain_read"](self, groups, want=want)
        return replace(outputs, logprobs=outputs.logprobs * 1.01)

    monkeypatch.setattr(Reference, "plain_read", Reference.read, raising=False)
    monkeypatch.setattr(Reference, "read", read)
    fires("kl", "ppo", inputs, tmp_path)


def test_a_reference_that_is_another_model_is_no_fault_and_is_said(inputs: dict[str, str], tmp_path: Path) -> None:
    for command, name in (("ppo", "kl"), ("dpo", "loss_at_zero_margin")):
        folder = train(command, inputs, tmp_path / command, reference=inputs["other"])
        assert f"gate/{name}" not in gate_lines(folder)
        notes = json.loads((folder / "run.json").read_text())["notes"]
        assert any(f"check {name}: does not apply, the reference is not the policy's start" in note for note in notes)


def test_a_loss_with_its_sign_turned_fires(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = preference.preference_loss

    def scaled(*args: Any, **keywords: Any) -> tuple[Tensor, Any]:
        losses, metrics = original(*args, **keywords)
        return -losses, metrics

    monkeypatch.setattr(preference, "preference_loss", scaled)
    fires("loss_at_zero_margin", "dpo", inputs, tmp_path)


@pytest.mark.parametrize("change", ["temperature", "weights"])
def test_a_sampler_that_disagrees_with_the_trainer_fires(
    change: str, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change == "temperature":
        original = TorchSampler.sample

        def hotter(self: TorchSampler, prompts: Any, *, params: SamplingParams, **rest: Any) -> Any:
            return original(self, prompts, params=replace(params, temperature=1.05), **rest)

        monkeypatch.setattr(TorchSampler, "sample", hotter)
        options = {"model": str(base_folder(0))}  # an untrained model's distribution is flat: no temperature matters
    else:
        other = load_policy(inputs["other"])
        monkeypatch.setattr(run_models, "module_of", lambda learner: SimpleNamespace(base=other, hf=other))
        options = {}
    assert "sampler" in fires("ratio", "ppo", inputs, tmp_path, **options)


@pytest.mark.parametrize("command", list(STAGES))
@pytest.mark.parametrize("field", ["read_at", "last_at"])
def test_positions_that_are_shifted_fire(
    field: str, command: str, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(groups: Sequence[TokenGroup], *, device: Any) -> GroupBatch:
        batch = pack(groups, device=device)
        return replace(batch, **{field: getattr(batch, field) - 1})

    monkeypatch.setattr(gates, "pack", shifted)
    fires("positions", command, inputs, tmp_path)


def test_a_mask_that_is_lost_or_shifted_fires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, mask = (5, 6, 7, 8), (False, True, True, False)
    group = TokenGroup(prompt_ids=(3, 4), completions=(TokenCompletion(ids, mask), TokenCompletion(ids)))
    with RunFolder.open(tmp_path / "run", {}, command="sft", resume=True) as folder:
        gate = Gate(RunLog(folder), precision="float32")
        check_loss_tokens(gate, [group], 2 + 4)
        check_positions(gate, [group])
        with pytest.raises(GateError, match="loss_tokens"):
            check_loss_tokens(gate, [group], 8)
        moved = replace(group, completions=(TokenCompletion(ids, (True, True, False, False)), TokenCompletion(ids)))
        monkeypatch.setattr(gates, "pack", lambda groups, device: pack([moved], device=device))
        with pytest.raises(GateError, match="positions"):
            check_positions(gate, [group])


@pytest.mark.parametrize(
    ("precision", "few", "fires"),
    [
        ("float32", (1, 5e-4), None),  # one token of a thousand, far above the mean: rounding
        ("float32", (1, 5e-3), "ratio_max"),
        ("float32", (1000, 5e-5), "ratio"),
        ("bfloat16", (1, 0.5), None),
        ("bfloat16", (1, -2.0), "ratio_max"),  # in either direction
        ("bfloat16", (1000, 0.1), "ratio"),
        ("bfloat16", (1, float("nan")), "ratio"),
    ],
)
def test_one_odd_token_is_rounding_and_a_shift_of_all_is_not(
    precision: str, few: tuple[int, float], fires: str | None, tmp_path: Path
) -> None:
    number, size = few
    log_ratios = torch.zeros(1000)
    log_ratios[:number] = size
    with RunFolder.open(tmp_path / "run", {}, command="ppo", resume=True) as folder:
        gate = Gate(RunLog(folder), precision=precision)
        if fires is None:
            check_tokens(gate, "ratio", log_ratios, cause="c")
            return
        with pytest.raises(GateError, match=f"step-0 check failed: {fires}\n"):
            check_tokens(gate, "ratio", log_ratios, cause="c")


def test_rows_that_leak_into_their_mates_fire(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = AlignmentModel.forward

    def leaking(self: AlignmentModel, batch: GroupBatch, want: frozenset[str]) -> Any:
        outputs = original(self, batch, want)
        name = "scores" if outputs.scores is not None else "logprobs"
        return replace(outputs, **{name: getattr(outputs, name) + 1e-3 * (batch.num_groups - 1)})

    monkeypatch.setattr(AlignmentModel, "forward", leaking)
    fires("logprobs_alone_or_together", "sft", inputs, tmp_path / "sft")
    fires("score_alone_or_together", "reward", inputs, tmp_path / "reward")


@pytest.mark.parametrize("leak", ["num_groups", "num_completions"])
def test_a_reward_model_whose_scores_depend_on_their_mates_fires(
    leak: str, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other prompts of the round, or on other completions of the same prompt; the policy's rows are in order."""
    original = AlignmentModel.forward

    def leaking(self: AlignmentModel, batch: GroupBatch, want: frozenset[str]) -> Any:
        outputs = original(self, batch, want)
        mates = batch.num_groups if leak == "num_groups" else len(batch.last_at) / batch.num_groups
        return outputs if outputs.scores is None else replace(outputs, scores=outputs.scores + 1e-3 * (mates - 1))

    monkeypatch.setattr(AlignmentModel, "forward", leaking)
    message = fires("score_alone_or_together", "ppo", inputs, tmp_path, reward=inputs["reward"], num_completions=2)
    assert "this reward model" in message


def test_the_ledger_of_ppo_counts_every_model_that_was_read_and_holds(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their own counts are tested by hand where they are made."""
    made: list[Any] = []
    for counting in (Learner, Reference, RewardModel, TorchSampler):
        original = counting.__init__

        def init(self: Any, *args: Any, original: Any = original, **keywords: Any) -> None:
            original(self, *args, **keywords)
            made.append(self)

        monkeypatch.setattr(counting, "__init__", init)
    folder = train("ppo", inputs, tmp_path / "run", reward=inputs["reward"], total_steps=2)
    metrics = json.loads((folder / "run.json").read_text())["result"]["metrics"]
    assert sorted(type(model).__name__ for model in made) == [
        *("Learner", "Learner", "Reference", "RewardModel", "TorchSampler")
    ]
    assert all(model.flops > 0 for model in made)
    assert metrics["cost/flops"] == sum(model.flops for model in made)
    assert metrics["cost/models_resident"] == 4  # policy, critic, reference, reward model; the sampler has the policy's


def test_a_reward_that_has_changed_is_another_run(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "a_reward_of_this_test.py").write_text(
        "def score(prompts, completions):\n    return [0.0] * len(prompts)\n"
    )
    copy = tmp_path / "reward"
    shutil.copytree(inputs["reward"], copy)
    for name, spec, file in (
        ("function", "a_reward_of_this_test:score", tmp_path / "a_reward_of_this_test.py"),
        ("model", str(copy), copy / "config.json"),
    ):
        train("ppo", inputs, tmp_path / name, reward=spec)
        assert train("ppo", inputs, tmp_path / name, reward=spec) == tmp_path / name
        file.write_text(file.read_text() + "\n")
        with pytest.raises(RunFolderError, match="hash of reward"):
            train("ppo", inputs, tmp_path / name, reward=spec)


@pytest.mark.parametrize(("total_steps", "fits"), [(2, True), (3, False)])
def test_a_last_round_too_small_for_its_updates_is_refused(
    total_steps: int, fits: bool, inputs: dict[str, str], tmp_path: Path
) -> None:
    """Ten prompts in rounds of four: the third has two."""
    options = {"num_mini_batches": 4, "total_steps": total_steps, "num_completions": 2}
    if fits:
        train("ppo", inputs, tmp_path / "run", **options)
        return
    with pytest.raises(ConfigError, match="the last round of a pass") as caught:
        train("ppo", inputs, tmp_path / "run", **options)
    assert "the last has 2" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_reference_that_shares_the_policys_weights_fires_at_the_end(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[run_models.RunModels] = []
    original = run_models.RunModels.add_learner

    def add_learner(self: run_models.RunModels, name: str, *args: Any, **keywords: Any) -> Learner:
        made.append(self)
        return original(self, name, *args, **keywords)

    def init(self: Reference, *args: Any, **keywords: Any) -> None:
        plain_init(self, *args, **keywords)
        self.module = made[-1].learner.module

    plain_init = Reference.__init__
    monkeypatch.setattr(run_models.RunModels, "add_learner", add_learner)
    monkeypatch.setattr(Reference, "__init__", init)
    with pytest.raises(GateError, match="the reference changed"):
        train("ppo", inputs, tmp_path / "run")


class Shortening:
    """A reward model that cuts a prompt's completions together: each score depends on the longest one beside it."""

    name, judges_alone = "shortening", True

    def __init__(self, *, says_so: bool) -> None:
        self.figures = {"texts_shortened": 0.5} if says_so else {}

    def score(self, prompts: Any, completions: Any, *, groups: Any = None, rollouts: Any = None) -> Scores:
        longest = [max(len(t) for t, g in zip(completions, groups, strict=True) if g is own) for own in groups]
        return Scores(map(float, longest), statistics=self.figures)


@pytest.mark.parametrize("says_so", [True, False])
def test_mates_of_one_prompt_may_be_cut_together_where_texts_are_shortened(says_so: bool, tmp_path: Path) -> None:
    groups = [PromptGroup(prompt="a", source="1"), PromptGroup(prompt="b", source="2")]
    rollouts = [
        Rollout(
            prompt_ids=(5,),
            ids=(6,) * n,
            logprobs=(0.0,) * n,
            finish_reason="stop",
            text="x" * n,
            prompt_index=p,
            completion_index=0,
            policy_version="0",
        )
        for p, n in ((0, 1), (0, 9), (1, 4))
    ]
    given: dict[str, Any] = {"reward": Shortening(says_so=says_so), "rollouts": rollouts, "prompts": groups}
    with RunFolder.open(tmp_path / "run", {}, command="ppo", resume=True) as folder:
        gate = Gate(RunLog(folder), precision="float32")
        if says_so:
            return check_reward_batch_mates(gate, dtype="float32", **given)
        with pytest.raises(GateError, match="score_alone_or_together"):
            check_reward_batch_mates(gate, dtype="float32", **given)
