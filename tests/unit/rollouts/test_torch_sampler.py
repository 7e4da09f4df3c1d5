"""TorchSampler: exact log-probabilities, the right distribution, nothing of one completion in another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from assent.errors import ConfigError, NonFiniteError
from assent.models.segments import rows_read
from assent.rollouts import cohorts, decoding, torch_sampler
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.torch_sampler import TorchSampler
from tests.support.architectures import ARCHITECTURES, WHOLE, make_model, seen_by_last_mlp
from tests.support.engine import torch_threads
from tests.support.rollouts import KEY, PROMPTS, IdTokenizer, plain_logprobs, same, sampler, sharp_llama


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_are_those_of_a_full_read(temperature: float) -> None:
    made = sampler()
    params = SamplingParams(max_new_tokens=20, temperature=temperature)
    rollouts = made.sample(PROMPTS, num_completions=3, params=params, seed=KEY)
    assert made.tier == "cohorts"
    assert [(r.prompt_index, r.completion_index) for r in rollouts] == [(p, k) for p in range(5) for k in range(3)]
    assert len({len(r.ids) for r in rollouts}) > 3, "rows end at different times, so some were dropped on the way"
    for r in rollouts:
        expected = plain_logprobs(made.model, PROMPTS[r.prompt_index], r.ids, temperature)
        np.testing.assert_allclose(r.logprobs, expected, atol=1e-4)
        assert r.prompt_ids == PROMPTS[r.prompt_index]
        assert r.policy_version == "v1"


def test_flops_are_those_of_prompts_read_once_and_tokens_read_against_the_cache() -> None:
    made = sampler()
    params = SamplingParams(max_new_tokens=20)
    rollouts = made.sample(PROMPTS, num_completions=3, params=params, seed=KEY)
    lengths = [[len(r.ids) for r in rollouts if r.prompt_index == p] for p in range(len(PROMPTS))]
    expected = sum(made.cost.sample(len(prompt), own) for prompt, own in zip(PROMPTS, lengths, strict=True))
    assert made.flops == expected > 0
    apart = sampler(max_batch_tokens=1)  # each completion in a batch of its own: its prompt is read again
    rollouts = apart.sample(PROMPTS, num_completions=3, params=params, seed=KEY)
    assert apart.flops == sum(apart.cost.sample(len(r.prompt_ids), [len(r.ids)]) for r in rollouts) > expected


def test_a_completion_ends_with_the_first_eos_or_at_the_limit() -> None:
    rollouts = sampler(eos_ids=(2, 7, 9, 14)).sample(
        PROMPTS, num_completions=20, params=SamplingParams(max_new_tokens=8), seed=KEY
    )
    eos = {2, 7, 9, 14}
    assert {r.finish_reason for r in rollouts} == {"stop", "length"}
    for r in rollouts:
        assert not eos & set(r.ids[:-1])
        assert (r.ids[-1] in eos) == (r.finish_reason == "stop")
        assert len(r.ids) == 8 or r.finish_reason == "stop"
        assert r.text == " ".join(str(i) for i in r.ids if i >= 3)
        assert len(r.logprobs) == len(r.ids)


def test_a_stop_string_ends_a_completion_where_the_text_has_it() -> None:
    """Against a search in the text after each token of what is drawn without. "4" is also a part of "14" and "24"."""
    params, tokenizer, strings = SamplingParams(max_new_tokens=24), IdTokenizer(), ("4", "1 2", "8 8")
    made = sampler(eos_ids=(7,), max_batch_tokens=200)
    whole = made.sample(PROMPTS, num_completions=8, params=params, seed=KEY)
    cut = made.sample(PROMPTS, num_completions=8, params=replace(params, stop=strings), seed=KEY)
    ended = set()
    for one, other in zip(whole, cut, strict=True):
        texts = [tokenizer.batch_decode([one.ids[: t + 1]])[0] for t in range(len(one.ids))]
        end = next((t + 1 for t, text in enumerate(texts) if any(string in text for string in strings)), len(one.ids))
        assert other.ids == one.ids[:end]
        assert other.finish_reason == (
            "stop" if end < len(one.ids) or any(s in texts[-1] for s in strings) else one.finish_reason
        )
        ended |= {string for string in strings if string in texts[end - 1]}
    assert len(ended) > 1
    with pytest.raises(ConfigError, match="ASCII"):
        sampler().sample(PROMPTS, num_completions=1, params=replace(params, stop=("é",)), seed=KEY)


def test_greedy_is_generate() -> None:
    model = sharp_llama()
    rollouts = sampler(model, eos_ids=()).sample(
        PROMPTS, num_completions=1, params=SamplingParams(max_new_tokens=12, greedy=True), seed=KEY
    )
    for prompt, r in zip(PROMPTS, rollouts, strict=True):
        row = torch.tensor([prompt])
        expected = model.generate(row, attention_mask=row > -1, do_sample=False, max_new_tokens=12, pad_token_id=0)
        assert list(r.ids) == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("options", "kept"), [({}, 32), ({"top_k": 5}, 5), ({"top_p": 0.6}, None), ({"temperature": 2.0}, 32)]
)
def test_distribution_of_two_tokens(options: dict, kept: int | None) -> None:
    """Chi-square of 6000 samples of two tokens against the exact, truncated distributions of each."""
    made = sampler(sharp_llama(scale=4.0), eos_ids=())
    params = SamplingParams(max_new_tokens=2, **options)
    rollouts = made.sample([(3, 4, 5)], num_completions=6000, params=params, seed=KEY)
    commonest = max(set(firsts := [r.ids[0] for r in rollouts]), key=firsts.count)
    for prefix, drawn in (
        ((3, 4, 5), firsts),
        ((3, 4, 5, commonest), [r.ids[1] for r in rollouts if r.ids[0] == commonest]),
    ):
        with torch.no_grad():
            logits = made.model(input_ids=torch.tensor([prefix])).logits[0, -1].double()
        p = (logits / params.temperature).softmax(-1)
        order = p.argsort(descending=True)
        count = kept if kept is not None else int((p[order].cumsum(0) < params.top_p).sum()) + 1
        allowed = order[:count]
        assert set(drawn) <= set(allowed.tolist())
        expected = p[allowed] / p[allowed].sum() * len(drawn)
        observed = np.bincount(drawn, minlength=32)[allowed.numpy()]
        often = expected.numpy() >= 5
        cells = [np.append(x[often], x[~often].sum() + 1e-9) for x in (observed, expected.numpy())]
        assert chisquare(*cells, sum_check=False).pvalue > 1e-3


def test_truncated_sampling_records_untruncated_logprobs() -> None:
    made = sampler(eos_ids=())
    for options in ({"top_k": 2}, {"top_p": 0.3}, {"greedy": True}):
        for r in made.sample(PROMPTS, num_completions=1, params=SamplingParams(max_new_tokens=5, **options), seed=KEY):
            np.testing.assert_allclose(r.logprobs, plain_logprobs(made.model, r.prompt_ids, r.ids), atol=1e-4)


def test_completions_do_not_depend_on_batch_mates() -> None:
    made, params = sampler(), SamplingParams(max_new_tokens=16)
    together = made.sample(PROMPTS, num_completions=4, params=params, seed=KEY)
    alone = [
        r
        for i, prompt in enumerate(PROMPTS)
        for r in made.sample([prompt], num_completions=4, params=params, seed=KEY, prompt_numbers=[i])
    ]
    same(together, alone)
    fewer = made.sample(PROMPTS, num_completions=2, params=params, seed=KEY)
    same([r for r in together if r.completion_index < 2], fewer)
    same(together, sampler(max_batch_tokens=48).sample(PROMPTS, num_completions=4, params=params, seed=KEY))


def test_the_seed_key_is_what_matters() -> None:
    made, params = sampler(eos_ids=()), SamplingParams(max_new_tokens=16)

    def drawn(key: SeedKey) -> list[tuple[int, ...]]:
        return [r.ids for r in made.sample(PROMPTS, num_completions=2, params=params, seed=key)]

    first = drawn(KEY)
    assert first == drawn(KEY)
    assert len(set(first)) == len(first)
    for other in (SeedKey(1, "rollout", 0), SeedKey(0, "eval", 0), SeedKey(0, "rollout", 1)):
        assert all(a != b for a, b in zip(first, drawn(other), strict=True))


@pytest.mark.parametrize("tier", ["cohorts", "dynamic"])
def test_each_prompt_is_read_once_and_the_budget_holds(monkeypatch: pytest.MonkeyPatch, tier: str) -> None:
    made = sampler(eos_ids=(), max_batch_tokens=60)
    made.tier = tier
    seen: list[tuple[int, ...]] = []
    decoder = decoding.DECODERS[tier]
    original = decoder.admit

    def spy(self: decoding.Decoder, prompts: decoding.Prompts, repeats: list[int], room: int) -> torch.Tensor:
        read = original(self, prompts, repeats, room)  # type: ignore[arg-type]
        assert self.tokens <= 60
        seen.extend(prompts)
        return read

    monkeypatch.setattr(decoder, "admit", spy)
    made.sample(PROMPTS, num_completions=4, params=SamplingParams(max_new_tokens=5), seed=KEY)
    assert sorted(seen) == sorted(PROMPTS)


@pytest.mark.parametrize("budget", [90, 200])
def test_rows_that_end_make_room_for_others(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    """Prompts are admitted while rows are in flight, rows of several ages decode together, and nothing else changes."""
    params = SamplingParams(max_new_tokens=16)
    prompts = [tuple(3 + (5 * i + j) % 29 for j in range(1 + i % 6)) for i in range(14)]
    apart = sampler(eos_ids=(2, 30, 31)).sample(prompts, num_completions=3, params=params, seed=KEY)
    made = sampler(eos_ids=(2, 30, 31), max_batch_tokens=budget)
    made.tier = "cohorts"
    ages: list[set[int]] = []
    original = decoding.CohortDecoder.step

    def spy(self: decoding.CohortDecoder, ids: torch.Tensor) -> torch.Tensor:
        ages.append({cohort.age for cohort in self.flight.cohorts})
        assert len(ids) == sum(cohort.rows for cohort in self.flight.cohorts)
        return original(self, ids)

    monkeypatch.setattr(decoding.CohortDecoder, "step", spy)
    same(apart, made.sample(prompts, num_completions=3, params=params, seed=KEY))
    assert max(map(len, ages)) > 1, "rows of several ages at once"


def test_prompts_that_are_read_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    params = SamplingParams(max_new_tokens=6)
    together = sampler().sample(PROMPTS, num_completions=2, params=params, seed=KEY)
    monkeypatch.setattr(decoding, "CPU_PREFILL_TOKENS", 8)
    made = sampler()
    made.tier = "cohorts"
    assert len(decoding.CohortDecoder(made.model)._chunks(PROMPTS)) > 2
    same(together, made.sample(PROMPTS, num_completions=2, params=params, seed=KEY))


@torch.no_grad()
def test_rows_of_any_lengths_are_reread_in_their_order() -> None:
    model = sharp_llama()
    decoder = decoding.RereadDecoder(model)
    prompts = [(3, 4, 5), (6, 7), (8, 9, 10)]
    decoder.admit(prompts, [1, 2, 1], 4)
    rows = [(3, 4, 5, 11), (6, 7, 12), (6, 7, 13), (8, 9, 10, 14)]
    expected = [model(input_ids=torch.tensor([row])).logits[0, -1] for row in rows]
    torch.testing.assert_close(decoder.step(torch.tensor([11, 12, 13, 14])), torch.stack(expected))


TIERS = {
    **dict.fromkeys(["gpt2", "opt", "qwen3", "gemma3", "mistral"], "cohorts"),
    "bloom": "dynamic",
    **dict.fromkeys(["mamba", "recurrent-gemma"], "reread"),
}


@pytest.mark.parametrize("name", TIERS)
def test_every_architecture_gets_a_tier_that_is_exact(name: str) -> None:
    made = sampler(make_model(name), eos_ids=(2, 30, 31))
    rollouts = made.sample(PROMPTS[:3], num_completions=2, params=SamplingParams(max_new_tokens=12), seed=KEY)
    assert made.tier == TIERS[name], made.tier_reason
    # alone a prompt is not padded, and a window reaches its first token at its own time
    rollouts += made.sample(PROMPTS[:1], num_completions=1, params=SamplingParams(max_new_tokens=12), seed=KEY)
    for r in rollouts:
        np.testing.assert_allclose(r.logprobs, plain_logprobs(made.model, r.prompt_ids, r.ids), atol=1e-4)


@pytest.mark.parametrize("name", [n for n, (_, _, tier) in ARCHITECTURES.items() if tier == "segments"])
def test_what_reads_packed_rows_shares_its_prompts(name: str) -> None:
    """And reads no more of them in the last layer's MLP than their ends, where it can be told apart."""
    model = make_model(name)
    assert decoding.probe(model) == ("cohorts", "fastest")
    seen = [] if name in WHOLE else seen_by_last_mlp(model)
    decoder = decoding.CohortDecoder(model)
    assert decoder.reads_ends == (name not in WHOLE)
    with torch.no_grad():
        decoder.admit(PROMPTS, [2] * len(PROMPTS), 4)
        decoder.step(torch.arange(2 * len(PROMPTS)) + 3)
    assert seen == ([] if name in WHOLE else [len(PROMPTS), 2 * len(PROMPTS)])


def test_a_last_layer_that_is_wrong_alone_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe finds out, and cohorts stay."""
    monkeypatch.setattr(decoding, "rows_read", lambda is_read, device: rows_read(np.roll(is_read, 1), device=device))
    model = sharp_llama()
    assert decoding.probe(model) == ("cohorts", "fastest")
    assert not decoding.CohortDecoder(model).reads_ends


def test_probe_refuses_a_tier_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that forgets to mask the padding of shorter prompts is found out."""
    monkeypatch.setattr(cohorts.Cohort, "bias", lambda *_: None)
    tier, reason = decoding.probe(sharp_llama())
    assert tier == "dynamic"
    assert "cohorts: differs by" in reason


def test_training_mode_is_put_back_and_dropout_is_off() -> None:
    model = make_model("gpt2", resid_pdrop=0.5)
    model.train()
    rollouts = sampler(model).sample(PROMPTS, num_completions=1, params=SamplingParams(max_new_tokens=5), seed=KEY)
    assert model.training
    model.eval()
    for r in rollouts:
        np.testing.assert_allclose(r.logprobs, plain_logprobs(model, r.prompt_ids, r.ids), atol=1e-4)


def test_requests_that_cannot_be_served() -> None:
    made, params = sampler(), SamplingParams(max_new_tokens=60)
    with pytest.raises(ConfigError, match="do not fit the model's context"):
        made.sample(PROMPTS, num_completions=1, params=params, seed=KEY)
    full = made.sample([(3,) * 60], num_completions=1, params=SamplingParams(max_new_tokens=4), seed=KEY)
    assert len(full[0].prompt_ids) + 4 == made.model.config.max_position_embeddings
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 32}
    made.model.config.rope_parameters = rope
    with pytest.raises(ConfigError, match="at most 32 together"):
        made.sample([(3,) * 30], num_completions=1, params=SamplingParams(max_new_tokens=4), seed=KEY)
    with pytest.raises(ConfigError, match="prompt 1 has no tokens"):
        made.sample([(3,), ()], num_completions=1, params=SamplingParams(max_new_tokens=2), seed=KEY)
    with pytest.raises(ConfigError, match="num_completions"):
        made.sample([(3,)], num_completions=0, params=SamplingParams(max_new_tokens=2), seed=KEY)
    with pytest.raises(ConfigError, match="prompt_numbers"):
        made.sample([(3,)], num_completions=1, params=SamplingParams(max_new_tokens=2), seed=KEY, prompt_numbers=[1, 2])
    assert made.sample([], num_completions=1, params=SamplingParams(max_new_tokens=2), seed=KEY) == []


def test_load_takes_only_the_shared_weights() -> None:
    made = sampler()
    made.load(dict(made.model.named_parameters()), "v2")
    assert made.version == "v2"
    with pytest.raises(ConfigError, match="not a weight"):
        made.load({name: p.clone() for name, p in made.model.named_parameters()}, "v3")
    with pytest.raises(ConfigError, match="version"):
        made.load({}, "")


def test_non_finite_weights_are_reported() -> None:
    model = sharp_llama()
    made = sampler(model)
    made.tier = "cohorts"
    with torch.no_grad():
        model.lm_head.weight[3, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="non-finite log-probability"):
        made.sample([(3, 4)], num_completions=1, params=SamplingParams(max_new_tokens=2), seed=KEY)


def test_finished_rows_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    made = sampler(eos_ids=tuple(range(2, 12)))
    made.tier = "cohorts"
    widths: list[int] = []
    original = decoding.CohortDecoder.step

    def spy(self: decoding.CohortDecoder, ids: torch.Tensor) -> torch.Tensor:
        widths.append(len(ids))
        return original(self, ids)

    monkeypatch.setattr(decoding.CohortDecoder, "step", spy)
    rollouts = made.sample(PROMPTS, num_completions=8, params=SamplingParams(max_new_tokens=24), seed=KEY)
    needed = [sum(len(r.ids) > t + 1 for r in rollouts) for t in range(len(widths))]
    assert widths[0] <= 40
    assert widths[-1] < 10
    assert all(alive <= width <= max(1, alive / 0.7) for alive, width in zip(needed, widths, strict=True))


def test_autocast_changes_the_precision_and_nothing_else() -> None:
    made = sampler(sharp_llama(scale=3.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rollouts = made.sample(PROMPTS, num_completions=2, params=SamplingParams(max_new_tokens=12), seed=KEY)
    assert made.tier == "cohorts", made.tier_reason
    for r in rollouts:
        np.testing.assert_allclose(r.logprobs, plain_logprobs(made.model, r.prompt_ids, r.ids), atol=0.1)


def test_decoders_at_the_same_time_draw_what_one_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """With rows for two, and two threads; stop strings included. A way that is not our own decodes alone."""
    monkeypatch.setattr(torch_sampler, "FEWEST_ROWS", 4)
    params, found, hands = SamplingParams(max_new_tokens=9, stop=("11 12",)), [], []
    decode = TorchSampler._decode

    def counted(self: TorchSampler, parts: Any, *others: Any, **options: Any) -> Any:
        hands.append(sum(part.count for part in parts))
        return decode(self, parts, *others, **options)

    monkeypatch.setattr(TorchSampler, "_decode", counted)
    for threads in (1, 2):
        with torch_threads(threads):
            made = sampler()
            found.append(made.sample(PROMPTS, num_completions=4, params=params, seed=KEY))
            few = made.sample(PROMPTS[:1], num_completions=2, params=params, seed=KEY)
        same(few, [one for one in found[-1] if one.prompt_index == 0 and one.completion_index < 2])
    same(*found)
    rows = 4 * len(PROMPTS)
    assert hands[:2] == [rows, 2]
    assert len(hands) == 5
    assert hands[2] + hands[3] == rows
    assert min(hands[2:4]) > 4


def test_decoders_at_the_same_time_share_the_room_for_their_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of many completions is read by each in parts that fit its share."""
    monkeypatch.setattr(torch_sampler, "FEWEST_ROWS", 2)
    most: list[int] = []
    admit = decoding.CohortDecoder.admit

    def counted(self: Any, prompts: Any, repeats: Any, room: int) -> torch.Tensor:
        read = admit(self, prompts, repeats, room)
        most.append(self.tokens)
        return read

    made = sampler(max_batch_tokens=120)
    made.sample(PROMPTS[:1], num_completions=1, params=SamplingParams(max_new_tokens=1), seed=KEY)  # the probe
    monkeypatch.setattr(decoding.CohortDecoder, "admit", counted)
    with torch_threads(2):
        made.sample(PROMPTS[:2], num_completions=12, params=SamplingParams(max_new_tokens=8), seed=KEY)
    assert len(most) > 2
    assert max(most) <= 60
