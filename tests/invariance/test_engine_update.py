"""Law 2: an update does not depend on how the step is cut into micro-batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from assent.engine import learner as learner_file
from assent.engine.learner import Learner
from assent.engine.micro_batches import Budget
from assent.engine.runtime import Runtime
from assent.models.batch import GroupBatch, Outputs, TokenGroup
from assent.models.packing import pack
from tests.support.engine import Nll, Settings, TinyPolicy, make_groups, make_learner

pytestmark = pytest.mark.usefixtures("threads")

GROUPS = make_groups(9)


def one_update(tokens: int) -> tuple[dict[str, float], dict[str, torch.Tensor], int]:
    learner = make_learner(micro_batch_tokens=tokens)
    metrics = learner.update(GROUPS, Nll())
    return metrics, dict(learner.module.named_parameters()), int(metrics["perf/micro_batches"])


@pytest.mark.parametrize("tokens", [1, 30, 70])
def test_update_does_not_depend_on_the_budget(tokens: int, threads: int) -> None:
    whole, weights, one = one_update(10_000)
    cut, others, many = one_update(tokens)
    assert one < many
    assert (one == 1) == (threads == 1)
    assert cut["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert cut["logps/chosen"] == pytest.approx(whole["logps/chosen"], rel=1e-6)
    assert cut["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=0, atol=1e-5 * float(weight.detach().abs().max()))


def test_update_is_the_textbook_step() -> None:
    """AdamW on the mean over all counted tokens, written out with torch alone in one batch."""
    module = TinyPolicy()
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in module.parameters() if p.ndim == 2], "weight_decay": 0.1},
            {"params": [p for p in module.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=1e-2,
    )
    loss = -module(pack(GROUPS, device="cpu"), frozenset({"logprobs"})).logprobs.mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimiser.step()

    learner = make_learner(micro_batch_tokens=40)
    metrics = learner.update(GROUPS, Nll())
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert metrics["learning_rate"] == 1e-2
    for ours, theirs in zip(learner.module.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_read_gives_the_groups_order() -> None:
    learner = make_learner(micro_batch_tokens=25)
    outputs = learner.read(GROUPS, want={"logprobs", "entropy"})
    batch = pack(GROUPS, device="cpu")
    expected = learner.module(batch, frozenset({"logprobs", "entropy"}))
    torch.testing.assert_close(outputs.logprobs, expected.logprobs.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(outputs.entropy, expected.entropy.detach(), rtol=0, atol=1e-6)
    assert outputs.values is None
    assert not outputs.logprobs.requires_grad


class Small(TinyPolicy):
    """Runs out of memory at more than 60 tokens."""

    def forward(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
        if len(batch.input_ids) > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(batch, want)


@pytest.mark.parametrize("module", [TinyPolicy(), Small()], ids=["fits", "halved"])
def test_an_update_cuts_its_groups_once_and_packs_each_once(
    module: TinyPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once more each time that memory runs out, by a smaller budget."""
    cut: list[int] = []
    packed: Counter[str] = Counter()
    bins, halve = Budget.bins, Budget.halve

    def counted_bins(self: Budget, groups: Sequence[TokenGroup], *, hands: int = 1) -> list[list[int]]:
        cut.append(self.tokens)
        return bins(self, groups, hands=hands)

    def uncounted_halve(self: Budget, groups: Sequence[TokenGroup], *, hands: int = 1) -> None:
        asked = len(cut)
        halve(self, groups, hands=hands)
        del cut[asked:]

    def counted_pack(groups: Sequence[TokenGroup], *, device: str) -> GroupBatch:
        packed.update(group.source for group in groups)
        return pack(groups, device=device)

    monkeypatch.setattr(Budget, "bins", counted_bins)
    monkeypatch.setattr(Budget, "halve", uncounted_halve)
    monkeypatch.setattr(learner_file, "pack", counted_pack)
    learner = Learner(module, runtime=Runtime("cpu"), optim=Settings(micro_batch_tokens=200), total_steps=1)
    learner.update([replace(group, source=str(i)) for i, group in enumerate(GROUPS)], Nll())
    assert (cut[0], cut[-1]) == (200, learner.budget.tokens)
    assert cut == sorted(set(cut), reverse=True)
    assert (len(cut) > 1) == isinstance(module, Small)
    assert packed == {str(i): len(cut) for i in range(len(GROUPS))}
