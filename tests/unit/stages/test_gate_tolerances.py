"""The gate on scores: what rounding may do to them grows with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from assent.errors import GateError
from assent.models.batch import Outputs, TokenCompletion, TokenGroup
from assent.runs.folder import RunFolder
from assent.runs.log import RunLog
from assent.stages.gate import TOLERANCES, Gate, check_batch_mates

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
        if passes:
            check_batch_mates(gate, learner, GROUPS, want="scores")
            return
        with pytest.raises(GateError, match="score_alone_or_together"):
            check_batch_mates(gate, learner, GROUPS, want="scores")
