"""What the step-0 gate tolerates: the rounding of healthy models, with room to spare, and not much more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assent.config.stages import SftConfig
from assent.engine.learner import Learner
from assent.engine.runtime import Runtime
from assent.errors import GateError
from assent.models.batch import Outputs, TokenCompletion, TokenGroup
from assent.models.loading import load_policy, load_scorer
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from assent.runs.folder import RunFolder
from assent.runs.log import RunLog
from assent.sandbox.base_model import base_folder
from assent.stages.gate import TOLERANCES, Gate, check_batch_mates, check_log_ratios
from tests.support.models import tiny_model
from tests.support.stages import gate_lines

GROUPS = [TokenGroup((1,), (TokenCompletion((2,)),)) for _ in range(2)]


class Scorer:
    """Scores of `size`, off by `shift` where groups are read together."""

    def __init__(self, size: float, shift: float) -> None:
        self.size, self.shift = size, shift

    def read(self, groups: Sequence[TokenGroup], *, want: set[str]) -> Outputs:
        return Outputs(scores=torch.full((len(groups),), self.size + self.shift * (len(groups) - 1)).double())


@pytest.mark.parametrize(
    ("size", "share", "passes"), [(0.5, 0.9, True), (0.5, 1.1, False), (50, 0.9, True), (50, 1.1, False)]
)
def test_scores_are_held_to_a_share_of_the_largest(size: float, share: float, passes: bool, tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", {}, command="reward", resume=True) as folder:
        gate = Gate(RunLog(folder), precision="float32")
        learner: Any = Scorer(size, share * TOLERANCES["float32"]["score"] * max(1.0, size))
        together = learner.read(GROUPS, want={"scores"}).scores
        if passes:
            check_batch_mates(gate, learner, GROUPS, want="scores", together=together)
            return
        with pytest.raises(GateError, match="score_alone_or_together"):
            check_batch_mates(gate, learner, GROUPS, want="scores", together=together)


@pytest.mark.parametrize(("tokens", "alone"), [(40, 2), (20, 4), (1, 4)])
def test_few_groups_are_read_again_and_more_where_they_are_short(tokens: int, alone: int, tmp_path: Path) -> None:
    """The two shortest, or as many as have 64 tokens; each by itself, and compared with its own place."""
    groups = [TokenGroup((1,), (TokenCompletion(tuple(range(2, tokens + extra + 2))),)) for extra in (3, 0, 2, 1)]
    read: list[int] = []

    class Policy:
        def read(self, groups: Sequence[TokenGroup], *, want: set[str]) -> Outputs:
            read.extend(group.num_tokens - 1 - tokens for group in groups)
            return Outputs(logprobs=torch.cat([torch.full((group.num_tokens - 1,), -1.0) for group in groups]))

    policy: Any = Policy()
    together = torch.cat([torch.full((group.num_tokens - 1,), -1.0) for group in groups])
    with RunFolder.open(tmp_path / "run", {}, command="sft", resume=True) as folder:
        gate = Gate(RunLog(folder), precision="float32")
        check_batch_mates(gate, policy, groups, want="logprobs", together=together)
        assert read == [0, 1, 2, 3][:alone]
        together[tokens + 3] -= 0.5  # the first token of the shortest, which is the second group
        with pytest.raises(GateError, match="logprobs_alone_or_together"):
            check_batch_mates(gate, policy, groups, want="logprobs", together=together)


def random_groups(count: int, longest: int, *, vocabulary: int) -> list[TokenGroup]:
    numbers = np.random.default_rng(count)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(i) for i in numbers.integers(5, vocabulary, numbers.integers(low, high)))

    return [
        TokenGroup(ids(2, 40), tuple(TokenCompletion(ids(longest // 2, longest)) for _ in range(2)), source=f"row {i}")
        for i in range(count)
    ]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("model", "count", "longest"), [("base", 12, 30), ("tiny", 3, 1700)])
def test_the_tolerances_leave_room_above_what_healthy_models_deviate(
    model: str, count: int, longest: int, precision: str, tmp_path: Path
) -> None:
    """And not too much: see the comment in stages/gate.py. Long completions: float32 sums of thousands of nats."""
    path = str(base_folder(0)) if model == "base" else tiny_model(tmp_path / "model", context=2048)
    runtime = Runtime("cpu", mixed_precision="bf16" if precision == "bfloat16" else "no")
    config = SftConfig(model=path, data="none", output_dir="none")
    policy = Learner(AlignmentModel(load_policy(path), kind="policy"), runtime=runtime, optim=config, total_steps=1)
    scorer = Learner(AlignmentModel(load_scorer(path), kind="scorer"), runtime=runtime, optim=config, total_steps=1)
    groups = random_groups(count, longest, vocabulary=250)
    with RunFolder.open(tmp_path / "run", {}, command="sft", resume=True) as folder:
        gate = Gate(RunLog(folder), precision=precision)
        scores = scorer.read(groups, want={"scores"}).scores
        assert scores is not None
        check_batch_mates(gate, scorer, groups, want="scores", together=scores)
        alone = torch.cat([policy.read([group], want={"logprobs"}).logprobs for group in groups])  # type: ignore[misc]
        together = policy.read(groups, want={"logprobs"}).logprobs
        assert together is not None
        check_batch_mates(gate, policy, groups, want="logprobs", together=together)
        batch = pack(groups, device="cpu")
        lengths = [c.num_counted for group in groups for c in group.completions]
        sums = torch.stack([piece.double().sum() for piece in alone.split(lengths)]).float()
        tolerance = check_log_ratios(gate, together, sums, batch)
    found = gate_lines(tmp_path / "run")
    row = TOLERANCES[precision]
    assert found["gate/logprobs_alone_or_together"] <= row["mean"] / 2
    assert found["gate/logprobs_alone_or_together_max"] <= row["token"] / 2
    assert found["gate/score_alone_or_together"] <= row["score"] / 2
    assert found["gate/log_ratios"] <= tolerance / 2
