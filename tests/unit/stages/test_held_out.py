"""Figures of held-out data by hand: intervals clustered by prompt, and the KL of answers to held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, sqrt
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from assent.config.loss_options import LossEntry
from assent.engine.runtime import Runtime
from assent.errors import NonFiniteError
from assent.models.batch import Outputs, TokenCompletion, TokenGroup
from assent.stages.held_out import held_out_metrics
from assent.stages.held_out_samples import HeldOutPrompts, answers
from assent.stages.preference import PreferenceObjective
from assent.stages.references import REFERENCE
from assent.types import Rollout
from tests.support.rows import group


class Known:
    """A learner or reference that gives the log-probabilities it was made with."""

    def __init__(self, logprobs: Sequence[float]) -> None:
        self.logprobs, self.fingerprint_step, self.runtime = torch.tensor(logprobs), "step-0", Runtime("cpu")

    def read(self, groups: Sequence[TokenGroup], *, want: set[str]) -> Outputs:
        return Outputs(logprobs=self.logprobs)

    def whole(self, function: Any, *args: Any, **keywords: Any) -> Any:
        return function(*args, **keywords)


def pair(prompt: int, chosen: tuple[int, ...], mask: tuple[bool, ...] | None = None) -> TokenGroup:
    zero = {REFERENCE: np.zeros(2, np.float32)}
    return TokenGroup((prompt,), (TokenCompletion(chosen, mask), TokenCompletion((4,))), completion=zero)


def test_intervals_are_clustered_by_prompt() -> None:
    """Margins 3, 1 of one prompt and 2, -2 of two others: three clusters."""
    groups = [pair(5, (4, 4)), pair(5, (4, 4), (True, False)), pair(6, (4,)), pair(7, (4,))]
    learner: Any = Known([-1.0, -1.0, -5.0, -1.0, -2.0, -1.0, -3.0, -4.0, -2.0])
    objective = PreferenceObjective([LossEntry(name="sigmoid", hyperparameters={"beta": 1.0})])
    found = held_out_metrics(learner, groups, objective, intervals=True)
    assert found["eval_rewards/margins"] == pytest.approx(1.0)
    # Liang and Zeger: residuals 2 and 0 of the first prompt, 1 and -3 of the others, summed within prompts
    error = sqrt((2**2 + 1**2 + 3**2) / 4**2 * 3 / 2)
    reach = float(stats.t.ppf(0.975, 2)) * error
    assert found["eval_rewards/margins_low"] == pytest.approx(1 - reach)
    assert found["eval_rewards/margins_high"] == pytest.approx(1 + reach)
    assert 0 < found["eval_rewards/accuracies_low"] < found["eval_rewards/accuracies"] == 0.75
    assert found["eval_rewards/accuracies_high"] < 1
    plain = held_out_metrics(learner, groups, objective)
    assert plain == {name: value for name, value in found.items() if not name.endswith(("_low", "_high"))}
    diverged: Any = Known([float("nan"), -1.0, -5.0, -1.0, -2.0, -1.0, -3.0, -4.0, -2.0])
    assert "eval_rewards/margins_low" not in held_out_metrics(diverged, groups, objective, intervals=True)
    alone: Any = Known([-1.0, -1.0, -5.0])
    assert "eval_rewards/margins_low" not in held_out_metrics(alone, groups[:1], objective, intervals=True)


def test_the_kl_of_answers_is_that_of_their_own_tokens() -> None:
    class Sampler:
        def load(self, tensors: object, version: str) -> None: ...

        def sample(self, prompts: Sequence[tuple[int, ...]], **_: Any) -> list[Rollout]:
            ids, ends = ((4, 2), (4,)), ("stop", "length")
            return [
                Rollout(
                    prompt_ids=prompt, ids=own, logprobs=(0.0,) * len(own), finish_reason=end, text=f"answer {i}",
                    prompt_index=i, completion_index=0, policy_version="step-0",
                )
                for i, (prompt, own, end) in enumerate(zip(prompts, ids, ends, strict=True))
            ]  # fmt: skip

    policy, start = Known([-1.0, -2.0, -0.5]), Known([-1.5, -2.5, -1.5])
    prompts = HeldOutPrompts([group(0), group(1)], [(5,), (6,)], [])
    config = SimpleNamespace(seed=0, eval_max_new_tokens=4, temperature=1.0)
    figures, rows = answers(config, prompts, sampler=Sampler(), learner=policy, reference=start)  # type: ignore[arg-type]
    assert figures["eval_kl"] == pytest.approx((1.0 + 1.0) / 2)
    assert figures["eval_kl_k3"] == pytest.approx((2 * (exp(-0.5) - 1 + 0.5) + exp(-1.0) - 1 + 1.0) / 2)
    assert (figures["eval_rollout/completion_length"], figures["eval_rollout/eos_rate"]) == (1.5, 0.5)
    assert [row["kl"] for row in rows] == pytest.approx([1.0, 1.0])
    assert [row["completion"] for row in rows] == ["answer 0", "answer 1"]


class Bounded:
    want = frozenset({"logprobs"})

    def __call__(self, outputs: Outputs, batch: Any) -> Any:
        raise OverflowError("it ends at 88")


def test_a_loss_beyond_its_range_says_so() -> None:
    learner: Any = Known([-1.0, -2.0])
    objective: Any = Bounded()
    with pytest.raises(NonFiniteError, match=r"(?s)held-out data is beyond its range.*it ends at 88"):
        held_out_metrics(learner, [pair(1, (2,))], objective)
