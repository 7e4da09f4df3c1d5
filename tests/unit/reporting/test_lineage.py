"""What a stage took from where, by its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assent.reporting.lineage import lineage_of
from assent.reporting.sources import Stage


def stage(name: str, **options: Any) -> Stage:
    return Stage(name=name, command=name, folder=Path("out") / name, options=options, result={})


def test_every_model_of_a_reward_is_linked_and_its_options_are_not() -> None:
    reward = [
        {"reward": "out/reward/model", "weight": 2.0, "supervision": "outcome"},
        {"reward": "implicit:out/dpo/model,out/sft/model", "beta": 0.1},
        {
            "reward": "ensemble",
            "combine": "min",
            "members": ["out/second/model", {"reward": "length", "unit": "words"}],
        },
    ]
    stages = [stage(name) for name in ("sft", "reward", "second", "dpo")]
    (link,) = lineage_of([*stages, stage("ppo", reward=reward)]).rows[-1].links
    assert (link.option, link.origins) == ("reward", ("reward", "dpo", "sft", "second", "length"))


def test_a_row_is_as_high_as_its_links_and_the_dots_follow() -> None:
    policies = {f"policy{n}": f"/elsewhere/model-{n:03}" for n in range(30)}
    long = stage("eval", policies=policies)
    first, second, third = lineage_of([stage("sft", model="m"), long, stage("report", data="out/eval/x")]).rows
    assert third.y - second.y == second.height == 64 + 16 * 3  # 342 letters are five lines, and two have room
    assert second.y - first.y == first.height == 64
    assert len(second.links[0].origins) == 30


def test_what_is_read_from_outside_is_an_input_under_every_name_that_commands_have_for_it() -> None:
    stages = [stage("split", file="/data/pizza.csv"), stage("base", text_files=["a.txt", "b.txt"])]
    stages.append(stage("best", samples="/data/drawn.jsonl"))
    links = [[(link.option, link.origins) for link in row.links] for row in lineage_of(stages).rows]
    assert links == [
        [("file", ("pizza.csv",))],
        [("text_files", ("a.txt", "b.txt"))],
        [("samples", ("drawn.jsonl",))],
    ]
