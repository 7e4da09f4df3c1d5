"""What cases 31 and 35 share: comparisons of the sandbox, and a reward model that could learn gold exactly.

The reward model is Bradley and Terry's, linear in what a reader can see of a reply. Gold is such a function, and so are
the biases that the raters have, so nothing but the labels limits it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from assent.data.texts import last_content
from assent.sandbox import language
from assent.sandbox.gold import gold
from assent.sandbox.labellers import foreign_completions, has_trap, with_completions
from assent.sandbox.world import World
from assent.types import PromptGroup

OWN_PHRASE = "Happy to help"
SEEN = ("right", "follows", "courteous", "concise")


def unlabelled(world: World, number: int, *, seed: int, split: str = "preference", k: int = 2) -> list[PromptGroup]:
    """Prompts with k different completions by the sandbox's own writers."""
    prompts = world.prompts(split, number, seed)
    texts = foreign_completions(prompts, k, seed)
    return [with_completions(group, own) for group, own in zip(prompts, texts, strict=True) if len(set(own)) == k]


def texts_of(group: PromptGroup) -> list[str]:
    return [last_content(completion) for completion in group.completions]


def features(group: PromptGroup, text: str) -> list[float]:
    """What a reader sees of a reply. The first nine make up gold; the last three are worth nothing."""
    score = gold(group.columns, text).attributes
    safe, right = score["safe"], score["right"]
    plain = [safe * score[name] for name in SEEN]
    with_right = [safe * right * score[name] for name in SEEN[1:]]
    unsafe_by_kind = [1 - safe, (1 - safe) * (group.columns["kind"] == "stereotype")]
    return [*plain, *with_right, *unsafe_by_kind, language.count_words(text) / 10, float(OWN_PHRASE in text),
            float(has_trap(text))]  # fmt: skip


def learnt(pairs: Sequence[PromptGroup]) -> np.ndarray:
    """Weights of the features from comparisons, the chosen completion first: logistic regression both ways."""
    seen = np.array([[features(group, text) for text in texts_of(group)] for group in pairs])
    difference = seen[:, 0] - seen[:, 1]
    both, labels = np.concatenate([difference, -difference]), np.repeat([1, 0], len(difference))
    weights: np.ndarray = LogisticRegression(C=10.0, fit_intercept=False, max_iter=1000).fit(both, labels).coef_[0]
    return weights


def agreement(weights: np.ndarray, groups: Sequence[PromptGroup]) -> np.ndarray:
    """(N,) whether the reward model orders two completions as gold does, for the pairs that gold tells apart."""
    found = []
    for group in groups:
        first, second = texts_of(group)
        a, b = (gold(group.columns, text).total for text in (first, second))
        if a != b:
            scores = [float(np.dot(weights, features(group, text))) for text in (first, second)]
            found.append(1.0 if (scores[0] - scores[1]) * (a - b) > 0 else 0.5 if scores[0] == scores[1] else 0.0)
    return np.array(found)
