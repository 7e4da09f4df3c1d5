"""The reward that a DPO policy holds: beta times the log-ratio of the completion's tokens, by ids or by text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from assent.config.rewards import read_sources
from assent.errors import ConfigError, ModelError
from assent.models.loading import load_policy, load_scorer, load_tokenizer
from assent.models.saving import save_model
from assent.models.templates import resolve_template
from assent.models.tokenizing import encode_prompt
from assent.rewards.loading import check_reward, judges_alone, load_reward, readers_of, reward_hash
from assent.types import Rollout
from tests.support.models import tiny_model
from tests.support.rows import turns

BETA = 0.3
PROMPTS = [turns(("user", "what is 1 plus 1?"))] * 2 + [turns(("user", "what is 2 plus 2?"))]
TEXTS = ["it is 2.", "no", "it is 4. no, I will not say."]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    found = {name: tiny_model(root / name, seed=seed) for seed, name in enumerate(("policy", "reference", "trained"))}
    save_model(root / "scorer", load_scorer(found["policy"], seed=3), load_tokenizer(found["policy"]))
    tiny_model(root / "alien", texts=["wholly other words"] * 9)
    return {path.name: str(path) for path in root.iterdir()}


@torch.no_grad()
def plain_reward(folders: dict[str, str], prompt: tuple[int, ...], ids: tuple[int, ...]) -> float:
    """By transformers' own logits, in float64."""
    sums = []
    for name in ("policy", "reference"):
        logits = load_policy(folders[name])(input_ids=torch.tensor([prompt + ids])).logits[0].double()
        logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        sums.append(float(logprobs.gather(1, torch.tensor(ids)[:, None]).sum()))
    return BETA * (sums[0] - sums[1])


@pytest.mark.parametrize("cut", [False, True])
def test_it_is_beta_times_the_log_ratio_over_the_completions_tokens(folders: dict[str, str], cut: bool) -> None:
    tokenizer = load_tokenizer(folders["policy"])
    template = resolve_template(tokenizer)
    prompts = [encode_prompt(prompt, template=template) for prompt in PROMPTS]
    end = [] if cut else [template.eos_id]
    ids = [tuple(tokenizer.encode(text, add_special_tokens=False) + end) for text in TEXTS]
    rollouts = [
        Rollout(
            prompt_ids=p, ids=i, logprobs=(0.0,) * len(i), finish_reason="length" if cut else "stop", text=text,
            prompt_index=0, completion_index=0, policy_version="v",
        )
        for p, i, text in zip(prompts, ids, TEXTS, strict=True)
    ]  # fmt: skip
    expected = [plain_reward(folders, p, i) for p, i in zip(prompts, ids, strict=True)]
    assert np.std(expected) > 1e-3
    source = read_sources({"reward": f"implicit:{folders['policy']},{folders['reference']}", "beta": BETA})
    for policy_tokenizer in (tokenizer, load_tokenizer(folders["alien"])):  # ids, and text
        reward = load_reward(source, policy_tokenizer=policy_tokenizer)
        np.testing.assert_allclose(reward.score(PROMPTS, TEXTS, rollouts=rollouts), expected, atol=1e-5)
    assert len(readers_of(reward)) == 2
    assert readers_of(reward)[0].flops > 0
    assert judges_alone(reward)
    assert reward.score([], []) == []


def test_two_that_cannot_be_compared_are_refused_before_weights_are_read(folders: dict[str, str]) -> None:
    def refuse(policy: str, reference: str) -> None:
        check_reward(read_sources({"reward": f"implicit:{policy},{reference}", "beta": 1}))

    refuse(folders["policy"], folders["reference"])
    with pytest.raises(ConfigError, match="different tokenizers"):
        refuse(folders["policy"], folders["alien"])
    with pytest.raises(ModelError, match="not a policy"):
        refuse(folders["scorer"], folders["reference"])
    with pytest.raises(ModelError, match="does not exist"):
        refuse(folders["policy"], str(Path(folders["policy"]) / "nowhere"))


def test_its_hash_is_that_of_both_and_of_beta(folders: dict[str, str]) -> None:
    def hashed(policy: str, reference: str, beta: float) -> str:
        return reward_hash(read_sources({"reward": f"implicit:{folders[policy]},{folders[reference]}", "beta": beta}))

    found = [hashed("policy", "reference", 1), hashed("policy", "trained", 1), hashed("trained", "reference", 1)]
    assert len({*found, hashed("policy", "reference", 2)}) == 4
