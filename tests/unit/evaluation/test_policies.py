"""Policies side by side: every figure against a hand calculation, the KL against enumeration."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from assent.commands.evaluate import evaluate as evaluate_configured
from assent.config.evaluation import EvalConfig
from assent.errors import ConfigError, DataError, ModelError
from assent.evaluation.lines import table_lines
from assent.evaluation.policies import BestOfN, EvaluationPlan, Judges, Policy, answers_of, reference_logprobs
from assent.evaluation.policy_table import evaluate_policies
from assent.evaluation.table import KLFigures
from assent.inference.curve import best_of_n_kl_estimate
from assent.models.module import AlignmentModel
from assent.rewards.function import FunctionReward
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.scripted import ScriptedSampler
from assent.rollouts.torch_sampler import TorchSampler
from assent.statistics.intervals import mean_interval
from assent.types import PromptGroup
from tests.support.models import tiny_model
from tests.support.rollouts import IdTokenizer, plain_logprobs, sharp_llama

EOS = 2
GROUPS = [PromptGroup(prompt=f"prompt {i}", columns={"target": i}) for i in range(4)]
PROMPT_IDS = [(3, 4 + i) for i in range(4)]


class LastId:
    """Scores a text by its last number; with `target`, by whether it equals the prompt's column."""

    def __init__(self, name: str = "last id", *, target: bool = False) -> None:
        self.name, self.target = name, target

    def score(self, prompts, completions, *, groups=None, rollouts=None):
        assert [group.prompt for group in groups] == list(prompts)
        last = [float(text.split()[-1]) if text else 0.0 for text in completions]
        return [float(x == g.columns["target"]) for x, g in zip(last, groups, strict=True)] if self.target else last


def small_llama(seed: int) -> PreTrainedModel:
    sizes = {"intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32}
    return sharp_llama(seed=seed, scale=4.0, vocab_size=8, **sizes)


@pytest.fixture(scope="module")
def reference() -> AlignmentModel:
    return AlignmentModel(small_llama(seed=0), kind="policy")


def scripted(name: str, script) -> Policy:
    decode = lambda ids: " ".join(map(str, ids))
    return Policy(name=name, open=lambda: ScriptedSampler(script, eos_ids={EOS}, decode=decode))


def evaluate(policies, reference, *, groups=GROUPS, scorer=None, **options):
    defaults = {"prompt_ids": PROMPT_IDS, "baseline": "a", "max_new_tokens": 4}
    judges = Judges(scorer=scorer or LastId())
    plan = EvaluationPlan(groups=groups, judges=judges, reference=reference, **{**defaults, **options})
    return evaluate_policies(policies, plan)


def test_every_figure_is_as_worked_out_by_hand(reference):
    # a: always 5 EOS. b: 3 + k, cut at four tokens, never ends; greedy draws are k = 0
    a = scripted("a", lambda prompt, k, seed: [(5, -1.0), (EOS, -0.5)])
    b = scripted("b", lambda prompt, k, seed: [(3, -1.0), (3, -1.0), (3, -1.0), (3 + 2 * k, -1.0), (EOS, 0.0)])
    table = evaluate([a, b], reference, samples_per_prompt=3)
    row = table.row("b")
    assert row.sampled.scores == ((3.0, 5.0, 7.0),) * 4
    assert row.sampled.gold.value == 5.0
    assert row.sampled.gold.clusters == 4
    assert row.sampled.gold.n == 12
    assert row.sampled.win_rate.value == pytest.approx((0 + 0.5 + 1) / 3)
    assert row.greedy.win_rate.value == 0.0
    assert (row.sampled.length.value, row.sampled.eos_rate.value) == (4.0, 0.0)
    baseline = table.row("a")
    assert baseline.sampled.win_rate is None
    assert (baseline.sampled.length.value, baseline.sampled.eos_rate.value) == (2.0, 1.0)
    expected = -1.5 - float(plain_logprobs(reference.hf, PROMPT_IDS[0], [5, EOS]).sum())
    sums = [-1.5 - float(plain_logprobs(reference.hf, p, [5, EOS]).sum()) for p in PROMPT_IDS]
    assert baseline.kl.value == pytest.approx(sum(sums) / 4, abs=1e-4)
    assert sums[0] == expected
    wide, narrow = row.sampled, evaluate([a, b], reference, samples_per_prompt=3, confidence=0.5).row("b").sampled
    for name in ("characters", "win_rate", "distinct_1"):
        assert (getattr(wide, name).confidence, getattr(narrow, name).confidence) == (0.95, 0.5)
    assert table.samples[2]["completions"]["b"] == {"text": "3 3 3 3", "score": 3.0}


def test_the_scorer_sees_the_prompts_own_columns(reference):
    right_for_one = scripted("a", lambda prompt, k, seed: [(3, -1.0), (EOS, -1.0)])
    table = evaluate([right_for_one], reference, scorer=LastId(target=True))
    assert table.row("a").greedy.scores == ((0.0,), (0.0,), (0.0,), (1.0,))


def test_best_of_n_keeps_the_rewards_first_best(reference):
    tokens = [3, 6, 5, 6]
    script = lambda prompt, k, seed: [(4, -1.0)] * k + [(tokens[k], -1.0), (EOS, -1.0)]
    a = scripted("a", lambda prompt, k, seed: [(5, -1.0), (EOS, -0.5)])
    best = BestOfN(name="best-of-4", open=scripted("", script).open, n=4, reward=LastId("proxy"))
    row = evaluate([a, best], reference, max_new_tokens=6).row("best-of-4")
    assert row.greedy is None
    assert row.sampled.scores == ((6.0,),) * 4
    assert row.sampled.length.value == 3.0  # the second sample, not its equal the fourth
    assert row.sampled.win_rate.value == 1.0
    assert (row.sampled.k1, row.sampled.entropy) == (None, None)  # chosen, not sampled
    lowest = FunctionReward(lambda prompts, texts: [-float(text.split()[-1]) for text in texts], name="lowest")
    worst = BestOfN(name="best-of-4", open=best.open, n=4, reward=lowest)
    assert evaluate([a, worst], reference, max_new_tokens=6).row("best-of-4").sampled.scores == ((3.0,),) * 4
    with pytest.raises(ConfigError, match="at least 1"):
        BestOfN(name="none", open=a.open, n=0, reward=LastId())


def test_the_kl_of_best_of_n_is_that_of_choosing_and_that_of_what_it_chose_from(reference):
    """Two of four samples tie at the top, a quarter of the policy each; the reference reads what is kept."""
    tokens = [3, 6, 5, 6]
    a = scripted("a", lambda prompt, k, seed: [(tokens[k], math.log(0.25)), (EOS, 0.0)])
    best = BestOfN(name="best-of-4", open=a.open, n=4, reward=LastId("proxy"))
    kl = evaluate([a, best], reference).row("best-of-4").kl
    drawn = [((token, EOS), math.log(0.25)) for token in tokens]
    choice = best_of_n_kl_estimate([3.0, 6.0, 5.0, 6.0], 4, drawn=drawn)
    away = [math.log(0.25) - float(plain_logprobs(reference.hf, p, [6, EOS]).sum()) for p in PROMPT_IDS]
    assert 0 < choice < math.log(4) - 3 / 4
    assert kl.kind == "best_of_n"
    assert kl.value == pytest.approx(choice + sum(away) / 4, abs=1e-4)
    assert (kl.best_of_n.value, kl.best_of_n.clusters) == (kl.value, 4)
    assert kl.choice_bound == pytest.approx(math.log(4) - 3 / 4)
    assert kl.text().startswith(f"{kl.value:.2f} ±")
    alone = evaluate([a, best], None).row("best-of-4").kl
    assert alone.value == pytest.approx(choice)


def test_policies_draw_independently_of_each_other(reference):
    seeds: list[SeedKey] = []
    script = lambda prompt, k, seed: seeds.append(seed) or [(5, -1.0), (EOS, -1.0)]
    evaluate([scripted("a", script), scripted("b", script)], reference)
    assert len({seed.purpose for seed in seeds}) == 4


def test_answers_to_a_part_of_the_prompts_are_those_of_the_whole(reference):
    """What is drawn depends on the prompt's number in the whole evaluation."""
    policy = Policy(name="a", open=lambda: TorchSampler(small_llama(seed=3), IdTokenizer(), eos_ids={EOS}))
    options = {"judges": Judges(scorer=Constant()), "baseline": "a", "reference": reference, "max_new_tokens": 5}
    whole = answers_of(policy, EvaluationPlan(groups=GROUPS, prompt_ids=PROMPT_IDS, **options))
    part = EvaluationPlan(groups=GROUPS[2:], prompt_ids=PROMPT_IDS[2:], first=2, **options)
    for decoding, own in answers_of(policy, part).items():
        assert own.texts == whole[decoding].texts[len(own.texts) :]  # the second half
    assert answers_of(policy, replace(part, first=0))["sampled"].texts != answers_of(policy, part)["sampled"].texts


def test_kl_agrees_with_enumeration(reference):
    model = small_llama(seed=3)
    length, samples, prompts = 2, 300, PROMPT_IDS[:2]
    moments = {"k1": [0.0, 0.0], "k3": [0.0, 0.0]}  # mean and mean square over all completions
    for prompt, ids in itertools.product(prompts, completions(8, length)):
        logp, logq = (plain_logprobs(m, prompt, ids).double() for m in (model, reference.hf))
        probability = float(logp.sum().exp()) / len(prompts)
        values = {"k1": float((logp - logq).sum()), "k3": float((torch.expm1(logq - logp) - (logq - logp)).sum())}
        for name, value in values.items():
            moments[name][0] += probability * value
            moments[name][1] += probability * value**2
    exact = moments["k1"][0]
    assert exact > 0.1
    assert moments["k3"][0] == pytest.approx(exact, abs=1e-6)
    policy = Policy(name="a", open=lambda: TorchSampler(model, IdTokenizer(), eos_ids={EOS}))
    options = {"prompt_ids": prompts, "samples_per_prompt": samples, "max_new_tokens": length}
    table = evaluate([policy], reference, groups=GROUPS[:2], scorer=Constant(), **options)
    for name, (mean, square) in moments.items():
        standard_error = math.sqrt((square - mean**2) / (samples * len(prompts)))
        assert abs(getattr(table.row("a").kl, name).value - exact) < 3 * standard_error
        assert standard_error < 0.25 * exact


def completions(vocabulary: int, length: int) -> list[tuple[int, ...]]:
    others = [i for i in range(vocabulary) if i != EOS]
    ended = [(*p, EOS) for n in range(length) for p in itertools.product(others, repeat=n)]
    return ended + list(itertools.product(others, repeat=length))


class Constant:
    name = "constant"

    def score(self, prompts, completions, *, groups=None, rollouts=None):
        return [0.0] * len(completions)


def test_reference_logprobs_keep_the_rollouts_order_under_any_budget(reference):
    policy = TorchSampler(small_llama(seed=3), IdTokenizer(), eos_ids={EOS})
    params, seed = SamplingParams(max_new_tokens=5), SeedKey(0, "test", 0)
    rollouts = policy.sample(PROMPT_IDS, num_completions=3, params=params, seed=seed)
    rollouts = [rollouts[i] for i in torch.randperm(len(rollouts), generator=torch.Generator().manual_seed(0))]
    for max_tokens in (1, 25, 8192):
        read = reference_logprobs(reference, rollouts, max_tokens=max_tokens)
        for rollout, logprobs in zip(rollouts, read, strict=True):
            expected = plain_logprobs(reference.hf, rollout.prompt_ids, rollout.ids)
            assert logprobs.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_table_is_json_and_text_within_80_columns(reference):
    a = scripted("a", lambda prompt, k, seed: [(5, -1.0), (EOS, -0.5)])
    ledger = {"cost/labels": 2000.0, "cost/flops": 3.2e13, "cost/seconds": 71.3, "cost/peak_memory_bytes": 9e8}
    b = Policy(name="a-policy-with-a-name-that-does-not-end", open=a.open, ledger=ledger)
    best = BestOfN(name="best-of-16", open=a.open, n=16, reward=LastId())
    table = evaluate([a, b, best], reference)
    lines = table_lines(table)
    assert max(map(len, lines)) <= 80
    heads = [line.split()[:2] for line, rule in pairwise(lines) if rule.startswith("─")]
    assert heads[-3:] == [["greedy", "score"], ["sampled", "score"], ["cost", "labels"]]  # where a terminal shows them
    assert len(heads) > 3
    assert any(line.startswith("best-of-16") and " ±" in line for line in lines)
    assert any("71.3" in line and "2,000" in line and "900" in line for line in lines)
    assert json.loads(json.dumps(table.as_dict(), allow_nan=False))["policies"][1]["ledger"] == ledger


def test_rounding_noise_around_zero_has_no_sign():
    kl = KLFigures(kind="estimate", value=-1e-6, k1=mean_interval([-2e-6, 1e-6, -1e-6]))
    assert kl.text() == "0.00 ±0.00"


def test_table_is_written_where_a_report_finds_it(reference, tmp_path):
    table = evaluate([scripted("a", lambda prompt, k, seed: [(5, -1.0), (EOS, -0.5)])], reference)
    path = table.write(tmp_path / "new")
    assert path == tmp_path / "new" / "evaluation.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(table.as_dict()))


def test_bad_requests_are_refused(reference):
    a = scripted("a", lambda prompt, k, seed: [(5, -1.0), (EOS, -0.5)])
    with pytest.raises(ConfigError, match="baseline"):
        evaluate([a], reference, baseline="z")
    with pytest.raises(ConfigError, match="same name"):
        evaluate([a, a], reference)
    with pytest.raises(DataError, match="ids of each"):
        evaluate([a], reference, prompt_ids=PROMPT_IDS[:3])
    with pytest.raises(ConfigError, match="samples_per_prompt"):
        evaluate([a], reference, samples_per_prompt=0)


def test_a_policy_that_reads_other_ids_than_the_baseline_is_refused(tmp_path: Path) -> None:
    for name, text in (("one", "what is two? it is two."), ("two", "quick zebras jump over a lazy fox")):
        tiny_model(tmp_path / name, texts=[text] * 4, context=32)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "what is two?"}\n')
    config = EvalConfig(
        output_dir=str(tmp_path / "out"),
        policies={"one": str(tmp_path / "one"), "two": str(tmp_path / "two")},
        data=str(tmp_path / "prompts.jsonl"),
        judge="no:judge",
        baseline="one",
        max_length=32,
        max_new_tokens=4,
    )
    with pytest.raises(ModelError, match="policy two has another tokenizer than the baseline one"):
        evaluate_configured(config)
