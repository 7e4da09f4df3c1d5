"""PPO of one epoch and one full batch, lambda 0, without clips, whitening and entropy, is A2C (Huang et al. 2022,
arXiv:2205.09123)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from assent.cli import main
from assent.objectives.advantages import ADVANTAGES, Episodes
from assent.objectives.policy import policy_gradient_loss, ppo_loss
from assent.objectives.value import squared_error, value_loss
from tests.support.rows import read_rows
from tests.support.stages import write_inputs

F64 = torch.float64
MASK = torch.tensor([[True] * 4, [True, True, False, False], [True, True, True, False]])
GAMMA = 0.9


def rollout() -> tuple[Episodes, Tensor, Tensor]:
    """Three completions, the second cut; the parameters of policy (logits) and critic that sampled them."""
    generator = torch.Generator().manual_seed(0)
    rewards, features = (torch.randn(3, 4, generator=generator, dtype=F64) for _ in range(2))
    logits, weights = (
        torch.randn(3, 4, 5, generator=generator, dtype=F64),
        torch.randn(2, generator=generator, dtype=F64),
    )
    values = weights[0] * features + weights[1]
    last = torch.tensor([0.0, 0.7, 0.0], dtype=F64)
    rewards, values = torch.where(MASK, rewards, 0.0), torch.where(MASK, values, 0.0)
    episodes = Episodes(rewards=rewards, mask=MASK, prompt=torch.arange(3), values=values, last_values=last)
    return episodes, logits.requires_grad_(), torch.stack([features, torch.ones_like(features)])


def test_gradients_are_equal() -> None:
    """Of both parts, in float64; and the value's is that of (1/2)(r + gamma V(s') - V(s))^2 with V(s') detached."""
    episodes, logits, features = rollout()
    logprobs = logits.log_softmax(-1)[..., 2]
    old = logprobs.detach()
    ppo_advantages, ppo_returns = ADVANTAGES["gae"](episodes, gamma=GAMMA, lam=0.0, whiten_advantages=False)
    advantages, returns = ADVANTAGES["td"](episodes, gamma=GAMMA)
    surrogate, _ = ppo_loss(logprobs, old, ppo_advantages, MASK, cliprange=0.0)
    plain, _ = policy_gradient_loss(logprobs, old, advantages, MASK)
    of_ppo, of_a2c = (torch.autograd.grad(x.sum(), logits, retain_graph=True)[0] for x in (surrogate, plain))
    torch.testing.assert_close(of_ppo, of_a2c, rtol=0, atol=1e-14)
    assert of_a2c.abs().max() > 0.1

    weights = torch.tensor([0.3, -0.2], dtype=F64, requires_grad=True)
    values = torch.einsum("k,ksl->sl", weights, features)
    assert episodes.values is not None
    assert episodes.last_values is not None
    assert ppo_returns is not None
    assert returns is not None
    clipped, _ = value_loss(values, episodes.values, ppo_returns, MASK, cliprange_value=0.0)
    squared, _ = squared_error(values, episodes.values, returns, MASK)
    following = torch.cat([episodes.values[:, 1:], torch.zeros(3, 1, dtype=F64)], dim=1)
    ends = MASK.sum(1) - 1
    following[torch.arange(3), ends] = episodes.last_values
    by_hand = 0.5 * (episodes.rewards + GAMMA * following.detach() - values).square()[MASK]
    found = [torch.autograd.grad(x.sum(), weights, retain_graph=True)[0] for x in (clipped, squared, by_hand)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-14)
    torch.testing.assert_close(found[1], found[2], rtol=0, atol=1e-14)


def test_the_commands_train_the_same_policy(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    common = ["--model", inputs["model"], "--data", inputs["prompts"], "--reward", "tests.support.stages:brevity"]
    common += ["--total-steps", "3", "--batch-size", "4", "--max-new-tokens", "6", "--max-length", "64"]
    common += ["--learning-rate", "3e-3", "--adam-epsilon", "1e-3", "--kl-coef", "0.1", "--bootstrap-truncated"]
    common += ["--num-completions", "1"]
    a2c = ["--num-ppo-epochs", "1", "--lam", "0", "--cliprange", "0", "--cliprange-value", "0"]
    runs = {"a2c": ["a2c"], "as a2c": ["ppo", *a2c, "--no-whiten-advantages"], "other": ["ppo", *a2c]}
    weights, critic_losses = {}, {}
    for name, (command, *options) in runs.items():
        folder = tmp_path / name
        assert main([command, *common, *options, "--output-dir", str(folder)]) == 0
        weights[name] = load_file(folder / "model" / "model.safetensors")
        rows = read_rows(folder / "metrics.jsonl")
        critic_losses[name] = [row["critic/loss"] for row in rows if "critic/loss" in row]
    distance = {
        name: max(float((weights["a2c"][key] - tensor).abs().max()) for key, tensor in weights[name].items())
        for name in runs
    }
    assert distance["as a2c"] < 1e-5
    assert distance["other"] > 1e-3  # whitening alone makes another policy
    torch.testing.assert_close(critic_losses["a2c"], critic_losses["as a2c"], rtol=1e-5, atol=0)
