"""Rows of every layout that holds a judgement."""

from __future__ import annotations

from typing import Any

from assent.types import PromptGroup

Q = [{"role": "user", "content": "Hi"}]
A, B, C = ([{"role": "assistant", "content": text}] for text in ("Yes", "No", "Perhaps"))
ROWS: dict[str, list[dict[str, Any]]] = {
    "comparisons": [
        {"prompt": Q, "chosen": A, "rejected": B, "margin": 2.0, "annotator": "mia"},
        {"prompt": Q, "chosen": B, "rejected": A, "weight": 0.5, "annotator": "ben", "topic": "x"},
        {"prompt": "Hi", "chosen": " Yes", "rejected": " No", "chosen_logps": -1.5, "rejected_logps": -2.5},
    ],
    "implicit_comparisons": [{"chosen": Q + A, "rejected": Q + B, "chosen_probability": 0.75}],
    "rankings": [
        {"prompt": Q, "completions": [A, B, C], "ranking": [1, 2, 2], "annotator": "mia"},
        {"prompt": Q, "completions": [A, B], "ranking": [1, 1]},
    ],
    "scores": [{"prompt": Q, "completions": [C, A, B], "scores": [0.5, 3.0, -1.0], "annotator": "mia"}],
    "thumbs": [{"prompt": Q, "completion": A, "label": True}, {"prompt": Q, "completion": B, "label": False}],
    "ratings": [{"prompt": "Hi", "completion": " Yes", "score": 4.0}],
    "stepwise": [{"prompt": "1 + 1 + 1?", "completions": ["2", "3"], "labels": [True, True]}],
    "sharegpt_comparisons": [
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Yes"},
            "rejected": {"from": "gpt", "value": "No"},
        }
    ],
}


def as_sets(found: PromptGroup) -> Any:
    """A group whatever the order of its completions."""
    known = found.preference
    assert known is not None
    entries = known.ranking or known.scores or known.thumbs or known.step_labels
    assert entries is not None
    texts = sorted(zip(map(repr, found.completions), entries, found.logps or entries, strict=True))
    rest = (known.margin, known.chosen_probability, known.weight, known.kind, dict(found.columns), found.steps)
    return repr((found.prompt, texts, rest))
