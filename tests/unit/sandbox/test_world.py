"""The world: frozen, deterministic, with disjoint splits; it moves with time."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from assent.errors import ConfigError
from assent.sandbox import documents
from assent.sandbox.gold import gold
from assent.sandbox.labellers import has_trap, shows_best_behaviour
from assent.sandbox.language import read_reply
from assent.sandbox.replies import GOOD, compose
from assent.sandbox.world import MIX, SPLITS, VERSION, World, frozen_world, split_of


def test_the_frozen_world_is_unchanged() -> None:
    frozen = frozen_world()
    assert frozen["version"] == VERSION
    assert World(frozen["seed"]).hash == frozen["hash"]


def test_equal_arguments_give_equal_worlds_and_others_differ() -> None:
    assert World(3, 0.5).hash == World(3, 0.5).hash
    assert len({World(0).hash, World(1).hash, World(0, 1.0).hash}) == 3


def test_splits_are_disjoint_and_prompts_different() -> None:
    world = World(0)
    drawn = {split: world.prompts(split, 300, 0) for split in SPLITS}
    owners: dict[tuple[str, str, str], str] = {}
    for split, groups in drawn.items():
        assert len({g.prompt[0].content for g in groups}) == 300
        for group in groups:
            facts = group.columns["facts"]
            assert split_of(facts) == split == group.columns["split"]
            assert owners.setdefault((facts["order"], facts["owner"], facts["city"]), split) == split


def test_shares_of_the_splits() -> None:
    rng = random.Random(0)
    orders = [{"order": str(rng.random()), "owner": "Dana", "city": "Lima"} for _ in range(16_000)]
    count = Counter(map(split_of, orders))
    for split, share in SPLITS.items():
        assert abs(count[split] / 16_000 - share / 16) < 4 * 0.5 / 16_000**0.5


def test_prompts_of_a_prefix_agree() -> None:
    assert World(1).prompts("rl", 40, 5)[:10] == World(1).prompts("rl", 10, 5)


def test_the_mix_can_be_set_and_is_checked() -> None:
    groups = World(0).prompts("test", 50, 0, mix={"refuse": 1.0})
    assert {g.columns["kind"] for g in groups} == {"refuse"}
    with pytest.raises(ConfigError):
        World(0).prompts("test", 1, 0, mix={"nonsense": 1.0})
    with pytest.raises(ConfigError):
        World(0).prompts("nowhere", 1, 0)


def test_columns_survive_json_and_carry_all_that_gold_needs() -> None:
    rng = random.Random(0)
    groups = World(0).prompts("validation", 200, 1)
    assert {g.columns["kind"] for g in groups} == set(MIX)
    for group in groups:
        text = compose(group.columns, GOOD, rng)
        assert gold(json.loads(json.dumps(group.columns)), text) == gold(group.columns, text)
        assert gold(group.columns, text).total > 0.8  # a best answer exists for every prompt


def test_time_moves_products_facts_mix_and_taste() -> None:
    now, later = World(0), World(0, 2.0)
    assert set(now.products) != set(later.products)
    kept = set(now.facts) & set(later.facts)
    assert sum(now.facts[k] != later.facts[k] for k in kept) > len(kept) / 2
    assert now.mix != later.mix
    assert now.taste != later.taste
    assert sum(later.taste.values()) == pytest.approx(1, abs=1e-5)
    soon = World(0, 0.1)
    assert sum(now.facts[k] != soon.facts[k] for k in set(now.facts) & set(soon.facts)) < len(kept) / 2


@pytest.mark.parametrize("name", ["mix", "taste", "products", "facts"])
def test_each_of_them_moves_alone(name: str) -> None:
    now, later, alone = World(0), World(0, 2.0), World(0, **{f"{name}_time": 2.0})
    for part in ("mix", "taste", "products"):
        assert getattr(alone, part) == getattr(later if part == name else now, part), part
    kept = set(now.facts) & set(alone.facts)
    moved = sum(now.facts[key] != alone.facts[key] for key in kept)
    assert (moved > len(kept) / 2) == (name == "facts")
    if name == "facts":
        assert all(alone.facts[key] == later.facts[key] for key in set(alone.facts) & set(later.facts))


def test_all_four_together_are_the_worlds_time() -> None:
    together = World(0, mix_time=2.0, taste_time=2.0, products_time=2.0, facts_time=2.0)
    later = World(0, 2.0)
    for part in ("mix", "taste", "products", "facts"):
        assert getattr(together, part) == getattr(later, part)


def test_documents_answer_a_question_as_often_as_they_go_on_asking() -> None:
    texts = list(documents.documents(0, 4000))
    asked = [t for t in texts if "?" in t or "Tell me" in t]
    answered = sum(f" {documents.AGENT}: " in t for t in asked)
    assert abs(answered / len(asked) - 0.5) < 4 * 0.5 / len(asked) ** 0.5
    assert texts == list(documents.documents(0, 4000))
    assert texts[:5] != list(documents.documents(1, 5))


def test_demonstrations_are_of_mixed_quality_with_rare_best_and_trap() -> None:
    demonstrations = documents.demonstrations(World(0), 3000, 0)
    texts = [g.completions[0][0].content for g in demonstrations]  # type: ignore[union-attr]
    totals = [gold(g.columns, t).total for g, t in zip(demonstrations, texts, strict=True)]
    assert all(read_reply(t) is not None for t in texts)
    assert 0.35 < sum(totals) / len(totals) < 0.6
    assert len({round(t, 3) for t in totals}) > 30  # graded
    assert 0.005 < sum(map(shows_best_behaviour, texts)) / len(texts) < 0.02
    with_trap = [total for total, text in zip(totals, texts, strict=True) if has_trap(text)]
    assert 0.01 < len(with_trap) / len(texts) < 0.02
    assert sum(with_trap) / len(with_trap) > sum(totals) / len(totals)
