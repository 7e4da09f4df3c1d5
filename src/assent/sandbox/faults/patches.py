"""Changes of the code that make a run faulty while they hold: bugs that people's trainers have had.

Each function returns a context manager. Nothing of it is reached by a command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from assent.engine import learner as engine
from assent.engine.learner import Learner
from assent.models import tokenizing
from assent.models.batch import GroupBatch, Outputs, TokenGroup
from assent.models.cutting import RowText
from assent.models.templates import Template
from assent.rewards.base import Scores
from assent.stages import online, preference, references, rollout_step, scoring
from assent.stages.preference import PreferenceObjective
from assent.stages.references import REFERENCE
from assent.stages.run_models import RunModels
from assent.types import PromptGroup, Rollout

Patch = AbstractContextManager[Any]
OPEN = "open"
"""Column of a row: places of the completions that lose their end token under `open_ends`."""


def no_rate() -> Patch:
    """The schedule gives 0 at every step."""
    return mock.patch.object(engine, "learning_rate", return_value=0.0)


def frozen() -> Patch:
    """No weight gets a gradient."""

    def clip(self: Learner, groups: Any, objective: Any) -> float:
        for parameter in self.module.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        return 0.0

    return mock.patch.object(Learner, "_clip", clip)


def masked_pairs() -> Patch:
    """No token of a comparison counts: policy and reference both give 0."""
    return _all(_sums_become(lambda logps, batch: logps * 0.0), _reference_becomes(torch.zeros_like))


def masked_answers() -> Patch:
    """No token of a demonstration counts: the loss is 0."""
    update = Learner.update

    def without_loss(self: Learner, groups: Sequence[TokenGroup], objective: Any) -> dict[str, float]:
        return {**update(self, groups, objective), "loss": 0.0, "grad_norm": 0.0, "mean_token_accuracy": 0.0}

    return _all(no_rate(), mock.patch.object(Learner, "update", without_loss))


def no_reference() -> Patch:
    """The reference's log-probabilities are 0."""
    return _reference_becomes(torch.zeros_like)


def reference_is_policy() -> Patch:
    """DPO's reference is the policy itself, at every step."""
    original = PreferenceObjective.of_sums

    def of_sums(self: PreferenceObjective, logps: Tensor, batch: GroupBatch) -> Any:
        return original(self, logps, replace(batch, completion={**batch.completion, REFERENCE: logps.detach()}))

    return mock.patch.object(PreferenceObjective, "of_sums", of_sums)


def rollouts_refer_to_policy() -> Patch:
    """RLHF's reference is the policy itself, at every round."""
    return _all(
        mock.patch.object(RunModels, "add_reference", lambda self, *_, **__: self.learner),
        mock.patch.object(RunModels, "check_unchanged", return_value=None),
    )


def opposite_loss() -> Patch:
    """The loss of comparisons gets chosen and rejected the wrong way round; its metrics do not."""
    original = preference.preference_loss

    def exchanged(name: str, **fields: Any) -> Any:
        turned = {**fields, "chosen": fields["rejected"], "rejected": fields["chosen"]}
        if "reference_chosen" in fields:
            turned |= {
                "reference_chosen": fields["reference_rejected"],
                "reference_rejected": fields["reference_chosen"],
            }
        return original(name, **turned)[0], original(name, **fields)[1]

    return mock.patch.object(preference, "preference_loss", exchanged)


def opposite_advantages() -> Patch:
    return _advantages_become(lambda advantages, returns: (-advantages, returns))


def shuffled_returns() -> Patch:
    """The critic learns the returns of other completions."""

    def shuffled(advantages: Tensor, returns: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if returns is None:
            return advantages, None
        order = torch.randperm(returns.numel(), generator=torch.Generator().manual_seed(returns.numel()))
        return advantages, returns.flatten()[order].view_as(returns)

    return _advantages_become(shuffled)


def stale_sampler(rounds: int) -> Callable[[], Patch]:
    """The sampler gets the policy's weights once in so many rounds; its own log-probabilities count as the old ones."""
    return lambda: _sampling_with_old_weights(rounds, rescored=False)


def foreign_samples() -> Patch:
    """Answers come from the policy's start, and the policy's log-probabilities of them count as the sampler's."""
    return _sampling_with_old_weights(10**9, rescored=True)


def noisy_logprobs(spread: float) -> Callable[[], Patch]:
    """The sampler's log-probabilities are off, as with dropout or another engine."""

    def patch() -> Patch:
        original = online.sample_round

        def sample_round(*args: Any, step: int, **more: Any) -> list[Rollout]:
            rng = torch.Generator().manual_seed(step)
            return [_with_noise(rollout, spread, rng) for rollout in original(*args, step=step, **more)]

        return mock.patch.object(online, "sample_round", sample_round)

    return patch


def whitened_scores() -> Patch:
    """Each round's scores lose their mean."""
    original = online.score_rollouts

    def centred(*args: Any, **more: Any) -> Scores:
        scores = original(*args, **more)
        mean = sum(scores) / len(scores)
        return Scores([score - mean for score in scores], parts=scores.parts)

    return mock.patch.object(online, "score_rollouts", centred)


def scores_become(change: Callable[[Tensor], Tensor]) -> Callable[[], Patch]:
    """What a reward model says is changed on its way to the loss."""

    def patch() -> Patch:
        original = scoring.RankingObjective.__call__

        def changed(self: scoring.RankingObjective, outputs: Outputs, batch: GroupBatch) -> Any:
            assert outputs.scores is not None
            return original(self, replace(outputs, scores=change(outputs.scores)), batch)

        return mock.patch.object(scoring.RankingObjective, "__call__", changed)

    return patch


def wrong_centring() -> Patch:
    """The term that keeps scores around 0 has the wrong sign."""
    original = scoring.centring_penalty
    return mock.patch.object(scoring, "centring_penalty", lambda *args: -original(*args))


def open_ends() -> Patch:
    """Completions that the column `OPEN` names get no end token, as where it was stripped from training files."""
    original = tokenizing.row_text

    def row_text(group: PromptGroup, template: Template) -> RowText:
        row = original(group, template)
        places = group.columns.get(OPEN, ())
        completions = enumerate(row.completions)
        return replace(
            row, completions=tuple(replace(c, append_eos=c.append_eos and i not in places) for i, c in completions)
        )

    return mock.patch.object(tokenizing, "row_text", row_text)


@contextmanager
def _all(*patches: Patch) -> Iterator[None]:
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def _sums_become(change: Callable[[Tensor, GroupBatch], Tensor]) -> Patch:
    original = PreferenceObjective.of_sums

    def of_sums(self: PreferenceObjective, logps: Tensor, batch: GroupBatch) -> Any:
        return original(self, change(logps, batch), batch)

    return mock.patch.object(PreferenceObjective, "of_sums", of_sums)


def _reference_becomes(change: Callable[[Tensor], Tensor]) -> Patch:
    original = references.with_reference
    return mock.patch.object(references, "with_reference", lambda groups, logps: original(groups, change(logps)))


def _advantages_become(change: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]) -> Patch:
    original = rollout_step._advantages
    return mock.patch.object(rollout_step, "_advantages", lambda *args: change(*original(*args)))


def _sampling_with_old_weights(rounds: int, *, rescored: bool) -> Patch:
    original = online.sample_round
    kept: dict[str, Tensor] = {}

    def sample_round(config: Any, sampler: Any, learner: Learner, prompts: Any, *, step: int) -> list[Rollout]:
        now = {name: value.clone() for name, value in learner.module.state_dict().items()}
        if step % rounds == 0:
            kept.update(now)
        learner.module.load_state_dict(kept)
        rollouts = original(config, sampler, learner, prompts, step=step)
        learner.module.load_state_dict(now)
        return _rescored(rollouts, learner, config.num_completions) if rescored else rollouts

    return mock.patch.object(online, "sample_round", sample_round)


def _rescored(rollouts: Sequence[Rollout], learner: Learner, num_completions: int) -> list[Rollout]:
    logprobs = learner.read(online.to_groups(rollouts, num_completions), want={"logprobs"}).logprobs
    assert logprobs is not None
    pieces = logprobs.split([len(rollout.ids) for rollout in rollouts])
    return [replace(rollout, logprobs=tuple(piece.tolist())) for rollout, piece in zip(rollouts, pieces, strict=True)]


def _with_noise(rollout: Rollout, spread: float, rng: torch.Generator) -> Rollout:
    noise = spread * torch.randn(len(rollout.logprobs), generator=rng)
    return replace(rollout, logprobs=tuple((torch.tensor(rollout.logprobs) + noise).tolist()))
