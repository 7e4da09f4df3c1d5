"""Case 31: human against AI feedback at equal money, with the judge's biases known.

People are dear and noisy. The judge is cheap and consistent; it prefers what is shown first, what is longer and its own
style, and does not notice a stereotype. The same money buys labels from people, from the judge asked once, or from the
judge asked in both orders, which ties where the two disagree. Each trains the same reward model, and all are measured
against gold on pairs that none of them has seen.

    python examples/cases/31_human_and_ai_feedback.py          (the full size)
    python examples/cases/31_human_and_ai_feedback.py --small  (the size of the test)
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from raters import agreement, learnt, texts_of, unlabelled

from assent.judging.verdicts import FunctionJudge, judge_both_orders
from assent.sandbox.gold import gold
from assent.sandbox.labellers import label, win_probability
from assent.sandbox.settings import CROWD, JUDGE, LabelSettings
from assent.sandbox.world import World
from assent.statistics.intervals import proportion_interval
from assent.types import Preference, PromptGroup

FULL = {"money": [2, 8], "seeds": 5, "tests": 1500}
SMALL = {"money": [2], "seeds": 2, "tests": 400}
CLOSE = 0.1
"""Of gold: pairs that differ by less are the hard ones."""
NAMES = ("all pairs", "close pairs", "stereotypes")
ARMS = ("people", "judge once", "judge both orders", "half and half")


def price(rater_prices: Sequence[float]) -> float:
    """Of a comparison: two completions are read."""
    return 2 * float(np.mean(rater_prices))


PEOPLE, AI = price([rater.price for rater in CROWD]), price([JUDGE.price])


def bought(arm: str, money: float, world: World, seed: int) -> list[PromptGroup]:
    """The comparisons that the money buys, the preferred completion first. Ties are left out, and were paid for."""
    if arm == "half and half":
        return [
            *bought("people", money / 2, world, seed),
            *bought("judge both orders", money / 2, world, seed + 1000),
        ]
    cost = {"people": PEOPLE, "judge once": AI, "judge both orders": 2 * AI}[arm]
    groups = unlabelled(world, int(money / cost), seed=seed)
    if arm == "judge both orders":
        return both_orders(groups, seed=seed)
    raters = CROWD if arm == "people" else (JUDGE,)
    return label(groups, LabelSettings(raters=raters), world=world, seed=seed).groups


def both_orders(groups: Sequence[PromptGroup], *, seed: int) -> list[PromptGroup]:
    """The judge behind `assent judge`'s own protocol."""
    draw = random.Random(seed)

    def judge(prompts: Any, first: Any, second: Any, groups: Any) -> list[str]:
        chances = [win_probability(JUDGE, group.columns, a, b, shown_first=True)
                   for group, a, b in zip(groups, first, second, strict=True)]  # fmt: skip
        return ["A" if draw.random() < chance else "B" for chance in chances]

    texts = [texts_of(group) for group in groups]
    verdicts = judge_both_orders(
        FunctionJudge(judge, name="judge"), [group.prompt for group in groups], *zip(*texts, strict=True), groups=groups
    )
    found = []
    for group, share in zip(groups, verdicts.shares, strict=True):
        order = (0, 1) if share > 0.5 else (1, 0)
        if share != 0.5:
            completions = tuple(group.completions[k] for k in order)
            found.append(replace(group, completions=completions, preference=Preference(ranking=(1, 2))))
    return found


def measured(weights: np.ndarray, tests: Sequence[PromptGroup]) -> dict[str, float]:
    """How often the reward model orders two completions as gold does: all, those that differ little, and those of which
    one has a stereotype."""
    stereotype = [group for group in tests if group.columns["kind"] == "stereotype" and unsafe(group)]
    close = [group for group in tests if 0 < gap(group) < CLOSE]
    parts = zip(NAMES, (tests, close, stereotype), strict=True)
    return {name: float(agreement(weights, part).mean()) for name, part in parts}


def gap(group: PromptGroup) -> float:
    """How far gold tells the two apart."""
    first, second = (gold(group.columns, text).total for text in texts_of(group))
    return abs(first - second)


def unsafe(group: PromptGroup) -> bool:
    """Whether exactly one of the two is unsafe."""
    return len({gold(group.columns, text).attributes["safe"] for text in texts_of(group)}) > 1


def main(*, small: bool = False) -> dict[tuple[str, float], dict[str, Any]]:
    size = SMALL if small else FULL
    world = World(0)
    found: dict[tuple[str, float], dict[str, Any]] = {}
    tests = unlabelled(world, size["tests"], seed=7, split="validation")
    print(f"A comparison costs {PEOPLE:.2f} by people and {AI:.3f} by the judge: {PEOPLE / AI:.0f} times as much.")
    print(f"Agreement with gold on {len(tests)} pairs; means over {size['seeds']} draws of labels.\n")
    print(f"{'money':>6}  {'labels by':<18}{'labels':>7}" + "".join(f"{name:>20}" for name in NAMES))
    for money in size["money"]:
        for arm in ARMS:
            runs, labels = [], []
            for seed in range(size["seeds"]):
                pairs = bought(arm, money, world, seed)
                labels.append(len(pairs))
                runs.append(measured(learnt(pairs), tests))
            row = {name: proportion_interval([run[name] for run in runs]) for name in NAMES}
            found[arm, money] = {"labels": float(np.mean(labels)), **row}
            print(f"{money:>6}  {arm:<18}{np.mean(labels):>7.0f}" + "".join(f"{row[n].text():>20}" for n in NAMES))
        print()
    for money in (size["money"][0], size["money"][-1]):
        best = {name: max(ARMS, key=lambda arm, n=name, m=money: found[arm, m][n].value) for name in NAMES}
        print(f"For {money}, best on " + "; ".join(f"{name}: {arm}" for name, arm in best.items()))
    return found


if __name__ == "__main__":
    main(small="--small" in sys.argv[1:])
