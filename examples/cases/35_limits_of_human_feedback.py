"""Case 35: limits of human feedback: noise, groups that disagree, length and position bias; a reward model's ceiling.

Each limit is put into the labels by itself. The ceiling is exact, from the raters' probabilities: `gold's` is what a
model that knows gold reaches on such labels, `best` what one reaches that also knows the raters. A reward model that
could learn either is trained on many of these labels, and measured on held-out labels and against gold. Agreement
between two labels of one pair, which is all that a real project sees, is beside it.

    python examples/cases/35_limits_of_human_feedback.py          (the full size)
    python examples/cases/35_limits_of_human_feedback.py --small  (the size of the test)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from raters import agreement, features, learnt, texts_of, unlabelled

from assent.sandbox.labellers import label, noise_ceiling
from assent.sandbox.settings import CROWD, LabelSettings, Rater
from assent.sandbox.world import World
from assent.statistics.intervals import proportion_interval
from assent.types import PromptGroup

FULL = {"pairs": 6000, "tests": 3000}
SMALL = {"pairs": 800, "tests": 600}
CALM = {"temperature": 0.02}
GROUPS = tuple(
    rater.model_copy(update={**CALM, "flip": 0.0, "length_bias": 0.0, "position_bias": 0.0}) for rater in CROWD
)
LIMITS: dict[str, tuple[Rater, ...]] = {
    "nothing": (Rater(**CALM),),
    "noise": (Rater(temperature=0.2),),
    "careless: a fifth reversed": (Rater(flip=0.2, **CALM),),
    "groups that disagree": GROUPS,
    "position bias": (Rater(position_bias=2.0, temperature=0.1),),
    "length bias": (Rater(length_bias=6.0, temperature=0.1),),
    "the crowd: all of it": CROWD,
}


def held_out(weights: np.ndarray, labelled: Sequence[PromptGroup]) -> list[float]:
    """Whether the reward model prefers what each label prefers."""
    found = []
    for group in labelled:
        chosen, rejected = (float(np.dot(weights, features(group, text))) for text in texts_of(group))
        found.append(1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0)
    return found


def agreeing(world: World, groups: Sequence[PromptGroup], raters: tuple[Rater, ...]) -> list[float]:
    """Whether two labels of each pair, by two draws of raters, prefer the same completion."""
    sides = []
    for seed in (101, 102):
        settings = LabelSettings(raters=raters)
        sides.append([texts_of(group)[0] for group in label(groups, settings, world=world, seed=seed).groups])
    return [float(one == two) for one, two in zip(*sides, strict=True)]


def by_group(
    world: World, train: Sequence[PromptGroup], tests: Sequence[PromptGroup]
) -> dict[str, tuple[float, float]]:
    """Accuracy on each group's labels: of the model of all groups' labels, and of one of that group's alone."""
    shared = learnt(label(train, LabelSettings(raters=GROUPS), world=world, seed=3).groups)
    found = {}
    for rater in GROUPS:
        settings = LabelSettings(raters=(rater,))
        own = learnt(label(train, settings, world=world, seed=5).groups)
        labelled = label(tests, settings, world=world, seed=6).groups
        found[rater.name] = (float(np.mean(held_out(shared, labelled))), float(np.mean(held_out(own, labelled))))
    return found


def main(*, small: bool = False) -> dict[str, dict[str, Any]]:
    size = SMALL if small else FULL
    world = World(0)
    train = unlabelled(world, size["pairs"], seed=1)
    tests = unlabelled(world, size["tests"], seed=2, split="validation")
    found: dict[str, dict[str, Any]] = {}
    print("Accuracy on labels like these: the ceilings, exact, and a reward model's, with its interval.")
    print("Then the reward model's agreement with gold, and that of two labels of one pair.\n")
    heads = ("gold's", "best", "reward model", "with gold", "two labels")
    print(f"{'limit':<28}" + "".join(f"{head:>{width}}" for head, width in zip(heads, (8, 7, 22, 11, 12), strict=True)))
    for name, raters in LIMITS.items():
        settings = LabelSettings(raters=raters)
        weights = learnt(label(train, settings, world=world, seed=3).groups)
        ceiling = noise_ceiling(tests, raters)
        labelled = label(tests, settings, world=world, seed=4).groups
        accuracy = proportion_interval(held_out(weights, labelled))
        found[name] = {
            "gold_ceiling": ceiling.gold_agreement, "best": ceiling.best, "accuracy": accuracy,
            "with_gold": float(agreement(weights, tests).mean()),
            "two_labels": float(np.mean(agreeing(world, tests, raters))),
        }  # fmt: skip
        one = found[name]
        print(f"{name:<28}{one['gold_ceiling']:>8.3f}{one['best']:>7.3f}{accuracy.text(digits=3):>22}"
              f"{one['with_gold']:>11.3f}{one['two_labels']:>12.3f}")  # fmt: skip
    found["by group"] = by_group(world, train, tests)
    print("\nOne model for three groups, and one for each, on the labels of each group alone:")
    for name, (shared, own) in found["by group"].items():
        print(f"  {name:<12}{shared:.3f} shared, {own:.3f} of its own")
    noise, length = found["noise"], found["length bias"]
    print(
        f"\nNo model passes its labels' ceiling. From noisy labels it reaches {noise['accuracy'].value:.2f}, where "
        f"{noise['best']:.2f} is the most, and\nagrees with gold on {noise['with_gold']:.2f} of the pairs: noise hides "
        f"what a model has learnt, and more labels average\nit out. A bias does not average out: labels with a length "
        f"bias are predicted as well ({length['accuracy'].value:.2f}), and the\nmodel agrees with gold on "
        f"{length['with_gold']:.2f}. Two labels of one pair agree on {noise['two_labels']:.2f} with noise, and on "
        f"{length['two_labels']:.2f} with the\nbias: agreement sees the first and is blind to the second."
    )
    return found


if __name__ == "__main__":
    main(small="--small" in sys.argv[1:])
