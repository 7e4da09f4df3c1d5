"""How much of a large first step the step-0 gate reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from assent.config.online import PpoConfig
from assent.config.stages import PreferenceConfig, SftConfig
from assent.engine.learner import Learner
from assent.models.batch import TokenCompletion, TokenGroup
from assent.stages import gate as module
from assent.stages import online, preference, sft
from assent.stages.gate import ENOUGH, GROUPS, groups_to_read
from tests.support.stages import write_inputs

ONLINE = {"reward": "tests.support.stages:brevity", "total_steps": 1, "max_new_tokens": 6, "num_completions": 1}


@pytest.mark.parametrize(
    ("stage", "name", "config", "data", "options"),
    [
        (sft, "_gate", SftConfig, "demonstrations", {"max_steps": 1}),
        (preference, "check_start", PreferenceConfig, "comparisons", {"max_steps": 1}),
        (online, "_gate", PpoConfig, "prompts", ONLINE),
    ],
    ids=["sft", "dpo", "ppo"],
)
def test_a_large_first_step_is_read_in_part(
    stage: ModuleType,
    name: str,
    config: Callable[..., Any],
    data: str,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No reading within the gate has more groups than it asks for, though the step has eight."""
    read: list[int] = []
    chosen: list[tuple[int, int]] = []
    original, gate = Learner.read, getattr(stage, name)

    def counting(self: Learner, groups: Sequence[TokenGroup], *, want: Any) -> Any:
        read.append(len(groups))
        return original(self, groups, want=want)

    def watched(*args: Any, **keywords: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(Learner, "read", counting)
            return gate(*args, **keywords)

    def choosing(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
        found = groups_to_read(groups)
        chosen.append((len(groups), len(found)))
        return found

    monkeypatch.setattr(module, "ENOUGH", 1)  # the rows are a few tokens long
    monkeypatch.setattr(stage, name, watched)
    if stage is not online:
        monkeypatch.setattr(stage, "groups_to_read", choosing)
    inputs = write_inputs(tmp_path)
    given = {"model": inputs["model"], "data": inputs[data], "output_dir": str(tmp_path / "run"), "max_length": 64}
    stage.train(config(**given, batch_size=8, **options))
    assert read
    assert max(read) == GROUPS
    assert stage is online or chosen == [(8, GROUPS)]


def test_the_shortest_groups_are_read_and_more_where_they_are_short() -> None:
    """Four, in the step's order, or as many as have 64 counted tokens; all where the step is small."""
    step = [TokenGroup((1,) * prompt, (TokenCompletion((2,) * 16),)) for prompt in (9, 90, 2, 70, 5, 80, 60)]
    assert GROUPS * 16 == ENOUGH
    assert groups_to_read(step) == [step[i] for i in (0, 2, 4, 6)]
    shorter = [TokenGroup(group.prompt_ids, (TokenCompletion((2,) * 11),)) for group in step]
    assert groups_to_read(shorter) == [shorter[i] for i in (0, 2, 3, 4, 5, 6)]
    assert groups_to_read(step[:3]) == step[:3]
