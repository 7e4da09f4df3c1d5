"""Case 11: the task moves, and feedback arrives daily. Why does a fixed set not suffice?

The sandbox's shop moves in time: products come and go, policies change, and so does taste. The file measures how many
of the labels of day 0 are still right later, with the same answers to the same prompts, and what share of a later
day's products they ever mention. Then it plans with fixed and with fresh feedback.

    python examples/cases/11_fresh_feedback_daily.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from plan_data import labels, planned, prompts, show

from assent.data.loading import load_groups
from assent.data.texts import last_content
from assent.sandbox.gold import gold, total
from assent.sandbox.world import World

DAYS = (0.0, 1.0, 2.0, 4.0)


def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = labels(folder / "pairs.jsonl", 1200)
        groups = list(load_groups(pairs))
        day0 = _products(0.0)
        print(f"{'day':>5}{'labels still right':>22}{'of its products known':>24}")
        measured = {}
        for day in DAYS:
            right = [_still_right(group, World(0, time=day).taste) for group in groups]
            known = [right_one for right_one in right if right_one is not None]
            later = _products(day)
            measured[day] = (sum(known) / len(known), len(later & day0) / len(later))
            print(f"{day:>5.0f}{measured[day][0]:>22.0%}{measured[day][1]:>24.0%}")
        data = (pairs, prompts(folder / "prompts.jsonl", 400))
        plans = {feedback: planned(*data, feedback=feedback, start="instruct") for feedback in ("fixed", "fresh")}
    for feedback, plan in plans.items():
        show(f"{feedback} feedback", plan)
    return {"measured": measured, **plans}


def _still_right(group: Any, taste: Any) -> bool | None:
    """Whether the answer that was preferred on day 0 is the better one by a later taste; None if both are equal."""
    chosen, rejected = (
        total(gold(group.columns, last_content(answer)).attributes, taste) for answer in group.completions
    )
    return None if chosen == rejected else chosen > rejected


def _products(day: float) -> set[str]:
    return {group.columns["facts"]["item"] for group in World(0, time=day).prompts("rl", 400, 0)}


if __name__ == "__main__":
    main()
