"""Models in memory: the critic on the policy's trunk, all on one frozen base, frozen ones offloaded; no logits kept."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from assent.commands.functions import ppo
from assent.config.online import PpoConfig
from assent.config.options import AdapterOptions
from assent.engine.references import Reference
from assent.engine.runtime import Runtime
from assent.errors import ConfigError, ModelError
from assent.models import head
from assent.models.adapters import Base, add_adapter
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.loading import fingerprint, load_policy, load_scorer, load_tokenizer
from assent.models.module import AlignmentModel
from assent.models.one_trunk import VALUE_HEAD, resident, reward_adapter
from assent.models.packing import pack
from assent.rewards.reward_model import RewardModel
from assent.stages import model_loading, online, online_checks
from assent.stages.online_objectives import PolicyObjective, SharedTrunkObjective, ValueObjective
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.stages import Fault, arguments, run, told, write_inputs

ONE = ["--trunk", "one", "--lora-r", "2"]
SHARED = ["--trunk", "shared", "--vf-coef", "0.5"]
GROUPS = [TokenGroup((5, 6, 7), (TokenCompletion((8, 9)), TokenCompletion((10, 11, 12)))) for _ in range(2)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Also `adapter`: a reward model that is an adapter on `model`, which has moved."""
    folder = tmp_path_factory.mktemp("inputs")
    found = write_inputs(folder)
    argv = [*arguments("reward", found, folder / "reward"), "--lora-r", "2"]
    argv[argv.index("--learning-rate") + 1] = "3e-2"
    assert run([*argv, "--normalize-rewards"], folder / "messages") == 0, (folder / "messages").read_text()
    return found | {"adapter": str(folder / "reward" / "model")}


@pytest.fixture
def train(inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    """Runs a command against the reward model that is an adapter; its folder."""

    def done(command: str, name: str, *more: str, model: str | None = None) -> Path:
        argv = arguments(command, inputs | {"model": model or inputs["model"]}, tmp_path / name)
        argv[argv.index("--reward") + 1] = inputs["adapter"]
        status, _, err = said([*argv, *more], capsys)
        assert status == 0, err
        return tmp_path / name

    return done


def steps(folder: Path) -> list[dict[str, Any]]:
    return [row for row in told(folder / "metrics.jsonl") if "objective/kl" in row]


def adapted(path: str, **more: Any) -> Any:
    """The policy of a folder with a fresh adapter."""
    options = AdapterOptions(lora_r=2)
    return add_adapter(load_policy(path), options, base=Base(path), seed=0, **more)


def test_a_reward_model_on_the_policys_base_has_no_weights_of_its_own_and_the_merged_ones_scores(
    inputs: dict[str, str],
) -> None:
    policy = adapted(inputs["model"])
    own = {id(p) for p in policy.parameters()}
    scorer: Any = reward_adapter(policy, inputs["adapter"])
    news = [name for name, p in scorer.named_parameters() if id(p) not in own]
    assert news
    assert all(".lora_" in name or "score" in name for name in news)
    assert not any(p.requires_grad for p in scorer.parameters())
    want, batch = frozenset({"scores"}), pack(GROUPS, device="cpu")
    with torch.no_grad():
        mine = AlignmentModel(scorer, kind="scorer")(batch, want).scores
        merged = AlignmentModel(load_scorer(inputs["adapter"]), kind="scorer")(batch, want).scores
        bare = AlignmentModel(load_scorer(inputs["model"]), kind="scorer")(batch, want).scores
        torch.testing.assert_close(mine, merged, rtol=0, atol=1e-5)
        assert (mine - bare).abs().max() > 1e-2  # the adapter says something
        for name, parameter in policy.named_parameters():
            if ".lora_" in name:
                parameter.normal_()  # the policy learns
        assert torch.equal(AlignmentModel(scorer, kind="scorer")(batch, want).scores, mine)


def test_on_one_trunk_the_first_round_is_that_of_separate_models(
    train: Callable[..., Path], inputs: dict[str, str]
) -> None:
    one, separate = train("ppo", "one", *ONE), train("ppo", "separate", "--lora-r", "2")
    first, other = steps(one)[0], steps(separate)[0]
    for name in ("objective/scores", "objective/kl", "val/explained_variance", "objective/rlhf_reward"):
        assert first[name] == pytest.approx(other[name], abs=1e-4)
    assert first["cost/models_resident"] == 1
    assert other["cost/models_resident"] == 3  # policy and its reference, critic, reward model
    told_of = json.loads((one / "run.json").read_text())["facts"]["fingerprints"]
    assert told_of["reference_start"] == told_of["reference_end"] == fingerprint(load_policy(inputs["model"]))
    assert told_of["model_start"] != told_of["model_end"]
    assert told_of["critic_start"] != told_of["critic_end"]
    stored = load_file(next((one / "checkpoints").glob("*/critic")) / "model.safetensors")
    assert all(".lora_" in name or ".modules_to_save." in name for name in stored)


def test_on_one_trunk_without_a_reward_model_the_critic_is_fresh(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said([*arguments("ppo", inputs, tmp_path / "run"), *ONE], capsys)
    assert status == 0, err
    rows = steps(tmp_path / "run")
    assert rows[-1]["cost/models_resident"] == 1
    assert rows[-1]["critic/val/error"] < rows[0]["critic/val/error"]


@pytest.mark.parametrize("trunk", [ONE, SHARED])
def test_a_killed_run_ends_as_one_that_never_was(trunk: list[str], inputs: dict[str, str], tmp_path: Path) -> None:
    messages, whole, broken = tmp_path / "messages", tmp_path / "whole", tmp_path / "broken"
    more = ["--reward", inputs["adapter"], *trunk]

    def argv(folder: Path) -> list[str]:
        given = arguments("ppo", inputs, folder)
        at = given.index("--reward")
        return [*given[:at], *given[at + 2 :], *more]

    assert run(argv(whole), messages) == 0, messages.read_text()
    assert run(argv(broken), messages, Fault(after=3, number=signal.SIGKILL)) == -signal.SIGKILL
    assert run(argv(broken), messages) == 0, messages.read_text()
    assert "resumed after step 2" in messages.read_text()
    assert told(broken / "metrics.jsonl") == told(whole / "metrics.jsonl")
    files = sorted(path.name for path in (whole / "model").glob("*.safetensors"))
    assert files
    for name in files:
        assert (broken / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()


def test_a_shared_trunk_has_one_model_one_update_and_its_value_head_beside_it(
    train: Callable[..., Path], inputs: dict[str, str]
) -> None:
    folder = train("ppo", "shared", *SHARED)
    rows = steps(folder)
    assert rows[0]["cost/models_resident"] == 3  # policy with critic, reference, reward model
    assert not any(name.startswith("critic/") for row in rows for name in row)
    assert rows[0]["val/explained_variance"] == pytest.approx(0, abs=1e-6)  # the head begins at zero
    assert rows[0]["loss"] == pytest.approx(rows[0]["loss/policy_avg"] + rows[0]["loss/value_avg"], abs=1e-6)
    assert rows[-1]["val/error"] < rows[0]["val/error"]
    assert json.loads((folder / "run.json").read_text())["config"]["vf_coef"] == 0.5
    saved = load_file(folder / "model" / VALUE_HEAD)
    assert saved["weight"].abs().max() > 0
    again = train("ppo", "again", *SHARED, model=str(folder / "model"))
    assert abs(steps(again)[0]["val/explained_variance"]) > 1e-5  # it goes on with that head


def test_the_value_head_reads_the_state_before_each_token_and_after_the_last(inputs: dict[str, str]) -> None:
    policy = load_policy(inputs["model"])
    value = nn.Linear(32, 1)
    module = AlignmentModel(policy, kind="policy", value_head=value)
    with torch.no_grad():
        out = module(pack(GROUPS[:1], device="cpu"), frozenset({"values", "last_values", "logprobs"}))
        alone = module(pack(GROUPS[:1], device="cpu"), frozenset({"values"}))
        states = policy.model(torch.tensor([[5, 6, 7, 10, 11, 12]])).last_hidden_state[0]
        expected = value(states)[:, 0]
    torch.testing.assert_close(out.values[2:], expected[2:5], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.last_values[1], expected[5], rtol=0, atol=1e-5)
    assert out.logprobs.shape == (5,)
    assert alone.logprobs is None
    assert torch.equal(alone.values, out.values)
    early = policy.model.layers[0].self_attn.q_proj.weight  # a critic's loss moves the trunk, too
    module(pack(GROUPS[:1], device="cpu"), frozenset({"values"})).values.sum().backward()
    found, early.grad = early.grad, None
    rows = policy.model(torch.tensor([[5, 6, 7, 8, 9, 9], [5, 6, 7, 10, 11, 12]])).last_hidden_state
    (value(rows[0, 2:4]).sum() + value(rows[1, 2:5]).sum()).backward()
    torch.testing.assert_close(found, early.grad)
    assert found.abs().max() > 0


def test_the_shared_objective_is_the_policys_plus_vf_coef_times_the_critics(inputs: dict[str, str]) -> None:
    batch = pack(GROUPS, device="cpu")
    fields = {name: torch.randn(10) for name in ("old_logprobs", "advantages", "old_values", "returns")}
    object.__setattr__(batch, "token", fields)
    outputs = AlignmentModel(load_policy(inputs["model"]), kind="policy", value_head=nn.Linear(32, 1))(
        batch, frozenset({"logprobs", "values"})
    )
    policy, value = PolicyObjective(options={"cliprange": 0.2}), ValueObjective(options={"cliprange_value": 0.2})
    both = SharedTrunkObjective(policy=policy, value=value, vf_coef=0.3)
    terms, metrics = both(outputs, batch)
    assert both.want == {"logprobs", "values"}
    assert both.counts(batch) == {"policy_avg": 10.0, "value_avg": 10.0}
    assert torch.equal(terms["policy_avg"], policy(outputs, batch)[0]["policy_avg"])
    torch.testing.assert_close(terms["value_avg"], 0.3 * value(outputs, batch)[0]["value_avg"])
    assert "val/error" in metrics
    assert "policy/clipfrac_avg" in metrics


def test_the_options_reach_the_objective_of_a_shared_trunk() -> None:
    given = {"model": "m", "data": "d", "reward": "r", "output_dir": "o"}
    objective = online._objective(PpoConfig(**given, trunk="shared", vf_coef=0.3, cliprange_value=0.7), kl_coef=0.2)
    assert isinstance(objective, SharedTrunkObjective)
    assert (objective.vf_coef, objective.policy.kl_coef) == (0.3, 0.2)
    assert objective.value.options == {"cliprange_value": 0.7}


def test_on_one_trunk_every_model_of_a_run_shares_the_policys_base(
    train: Callable[..., Path], inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[bool, bool]] = {}
    original = model_loading.load_beside

    def spy(policy: AlignmentModel, *args: Any, name: str, trained: bool) -> Any:
        scorer = original(policy, *args, name=name, trained=trained)
        base = {id(p) for p in policy.hf.parameters() if not p.requires_grad}
        own = [p for p in scorer.parameters() if id(p) not in base]
        seen[name] = (len(own) < len(list(scorer.parameters())), any(p.requires_grad for p in own))
        return scorer

    monkeypatch.setattr(model_loading, "load_beside", spy)
    folder = train("ppo", "run", *ONE, "--potential", inputs["adapter"])
    assert seen == {"reward model": (True, False), "critic": (True, True), "potential": (True, False)}
    assert steps(folder)[0]["cost/models_resident"] == 1


def test_what_one_trunk_cannot_hold_is_refused(inputs: dict[str, str]) -> None:
    given = {"data": "d", "output_dir": "o", "trunk": "one", "lora_r": 2}
    with pytest.raises(ConfigError, match="this start is itself an adapter"):
        online_checks._check_memory(PpoConfig(model=inputs["adapter"], reward=inputs["adapter"], **given))
    implicit = {"reward": f"implicit:{inputs['model']},{inputs['model']}", "beta": 0.1}
    with pytest.raises(ConfigError, match="an implicit reward is two such models"):
        online_checks._check_memory(PpoConfig(model=inputs["model"], reward=implicit, **given))
    with pytest.raises(ModelError, match="new tokens need trained embeddings"):
        reward_adapter(adapted(inputs["model"], new_rows=True), inputs["adapter"])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--trunk", "one"], "give lora_r"),
        ([*ONE, "--reference", "MODEL"], "leave reference out"),
        ([*ONE, "--reward", "MODEL"], "no score head"),
        ([*ONE, "--reward", "WHOLE"], "a model with its own weights"),
        ([*ONE, "--critic", "WHOLE"], "the critic must be an adapter on the policy's base"),
        ([*ONE, "--model", "OTHER"], "a base that is not the policy's"),
        ([*ONE, "--offload-frozen"], "offload_frozen"),
        ([*SHARED, "--critic-learning-rate", "1e-3"], "critic_learning_rate has no effect with trunk shared"),
        (["--vf-coef", "0.5"], "vf_coef has no effect"),
        (["--offload-frozen"], "offload_frozen needs CUDA"),
        (["--offload-frozen", "--device", "cpu"], "offload_frozen has no effect on device cpu"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    more: list[str], says: str, inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"MODEL": inputs["model"]}
    if "OTHER" in more:
        places["OTHER"] = tiny_model(tmp_path / "other", seed=1)
    if "WHOLE" in more:
        places["WHOLE"] = str(tmp_path / "whole")
        scorer = load_scorer(inputs["model"])
        scorer.save_pretrained(places["WHOLE"])
        load_tokenizer(inputs["model"]).save_pretrained(places["WHOLE"])
    argv = arguments("ppo", inputs, tmp_path / "run")
    given = {"--reward": inputs["adapter"], **dict(zip(more[::2], more[1::2], strict=False))}
    for option in ("--reward", "--model"):
        if option in given:
            argv[argv.index(option) + 1] = places.get(given[option], given[option])
    rest = [places.get(word, word) for word in _without(more, {"--reward", "--model"})]
    status, _, err = said([*argv, *rest], capsys)
    assert status == 2
    assert says in err
    assert not (tmp_path / "run").exists()


def _without(words: list[str], options: set[str]) -> Iterator[str]:
    skip = False
    for word in words:
        if not skip and word not in options:
            yield word
        skip = word in options


def test_an_algorithm_without_a_critic_shares_no_trunk_but_may_use_one(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments("grpo", inputs, tmp_path / "run")
    argv[argv.index("--reward") + 1] = inputs["adapter"]
    status, _, err = said([*argv, "--trunk", "shared"], capsys)
    assert (status, "has no critic" in err) == (2, True)
    status, _, err = said([*argv, *ONE], capsys)
    assert status == 0, err
    assert steps(tmp_path / "run")[-1]["cost/models_resident"] == 1


class _Watched(nn.Module):
    """Says where it was when it was read."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[str] = []

    def to(self, device: Any) -> _Watched:  # type: ignore[override]
        self.at.append(str(device))
        return self


def test_an_offloaded_module_is_on_its_device_while_it_is_read_and_only_then(inputs: dict[str, str]) -> None:
    module = _Watched()
    with resident(module, "cuda:0", offloaded=True):
        assert module.at == ["cuda:0"]
    assert module.at == ["cuda:0", "cpu"]
    with resident(module, "cuda:0", offloaded=False):
        pass
    assert module.at == ["cuda:0", "cpu"]


def test_the_option_offloads_the_reference_and_the_reward_model(inputs: dict[str, str]) -> None:
    runtime, tokenizer = Runtime("cpu"), load_tokenizer(inputs["model"])
    for asked in (True, False):
        config = PpoConfig(
            model=inputs["model"], data="d", reward=inputs["adapter"], output_dir="o", offload_frozen=asked
        )
        module = AlignmentModel(load_policy(inputs["model"]), kind="policy")
        assert model_loading.frozen(config, module, runtime).offloaded == asked
        _, readers = model_loading.load_rewards(config, config.reward, tokenizer, runtime=runtime, trunk=None)
        assert [reader.offloaded for reader in readers] == [asked]


def test_an_offloaded_reference_and_reward_model_move_for_each_read(
    inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[str] = []
    moved = nn.Module.to

    def to(self: nn.Module, device: Any, *more: Any, **other: Any) -> nn.Module:
        moves.append(str(device))
        return moved(self, device, *more, **other)

    reference = Reference(AlignmentModel(load_policy(inputs["model"]), kind="policy"), Runtime("cpu"), offloaded=True)
    reward = RewardModel(inputs["adapter"])
    reward.reader.offload()
    monkeypatch.setattr(nn.Module, "to", to)
    reference.read(GROUPS, want={"logprobs"})
    assert moves == ["cpu", "cpu"]  # there and back
    assert reward.score(["what is 1 plus 1?"], ["it is 2."])
    assert moves == ["cpu"] * 4


class _Logits(TorchDispatchMode):
    """The most rows that the memory of any tensor with the vocabulary's width holds, of those that operations give."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.ndim and tensor.shape[-1] == self.vocabulary:
                held = tensor.untyped_storage().nbytes() // tensor.itemsize
                self.rows = max(self.rows, held // self.vocabulary)
        return out


def test_no_phase_holds_logits_of_more_than_a_chunk_of_the_rounds_tokens(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CPU_CHUNK_BYTES", 0)
    monkeypatch.setattr(head, "MIN_CHUNK_TOKENS", 12)
    vocabulary = load_policy(inputs["model"]).get_output_embeddings().weight.shape[0]
    with _Logits(vocabulary) as seen:
        result = ppo(
            model=inputs["model"],
            data=inputs["prompts"],
            reward=inputs["adapter"],
            output_dir=str(tmp_path / "run"),
            total_steps=1,
            batch_size=10,
            max_length=64,
            max_new_tokens=16,
            learning_rate=1e-3,
            trunk="one",
            lora_r=2,
            entropy_coef=0.01,
        )
    tokens = 10 * result.metrics["rollout/completion_length"]
    assert tokens > 48
    # a row for each completion in flight, a chunk, a probe, and 32 of the output embeddings; not all tokens
    assert 10 <= seen.rows <= 32
