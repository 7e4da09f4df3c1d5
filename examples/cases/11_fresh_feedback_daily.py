"""Case 11: the task moves, and feedback arrives daily. Why does a fixed set not suffice?

The sandbox's shop moves in time: products come and go, policies change, and so does taste. The file measures how many
of the labels of day 0 are still right later, with the same answers to the same prompts, and what share of a later
day's products they ever mention. The monitor reads logs of a model that was released on day 0, and says from when on
such labels do not suffice. Then the file plans with fixed and with fresh feedback.

    python examples/cases/11_fresh_feedback_daily.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from plan_data import labels, planned, prompts, show

import assent
from assent.data.loading import load_groups
from assent.data.texts import last_content
from assent.sandbox.gold import gold, total
from assent.sandbox.traffic import Traffic, served_rows
from assent.sandbox.world import World

DAYS = (0.0, 1.0, 2.0, 4.0)
RELEASED, LATER, ROWS_A_DAY = range(20_000, 20_014), range(20_014, 20_021), 150
"""Two weeks of logs of day 0's shop, with which the monitor compares a week of another day's; requests of a day."""


def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = labels(folder / "pairs.jsonl", 1200)
        groups = list(load_groups(pairs))
        day0 = _products(0.0)
        release = _logged(folder / "release.jsonl", 0.0, days=RELEASED)
        print(f"{'day':>5}{'labels still right':>22}{'of its products known':>24}   what the monitor finds in its logs")
        measured, found = {}, {}
        for day in DAYS:
            right = [_still_right(group, World(0, time=day).taste) for group in groups]
            known = [right_one for right_one in right if right_one is not None]
            later = _products(day)
            measured[day] = (sum(known) / len(known), len(later & day0) / len(later))
            logs = _logged(folder / f"day-{day:g}.jsonl", day, days=LATER)
            found[day] = assent.monitor(baseline=release, logs=logs)["causes"]
            told = ", ".join(found[day]) or "nothing"
            print(f"{day:>5.0f}{measured[day][0]:>22.0%}{measured[day][1]:>24.0%}   {told}")
        data = (pairs, prompts(folder / "prompts.jsonl", 400))
        plans = {feedback: planned(*data, feedback=feedback, start="instruct") for feedback in ("fixed", "fresh")}
    for feedback, plan in plans.items():
        show(f"{feedback} feedback", plan)
    return {"measured": measured, "found": found, **plans}


def _still_right(group: Any, taste: Any) -> bool | None:
    """Whether the answer that was preferred on day 0 is the better one by a later taste; None if both are equal."""
    chosen, rejected = (
        total(gold(group.columns, last_content(answer)).attributes, taste) for answer in group.completions
    )
    return None if chosen == rejected else chosen > rejected


def _logged(path: Path, day: float, *, days: range) -> str:
    """A log in which the shop is all the time as on that day."""
    traffic, first = Traffic(world=World(0, time=day)), days.start
    rows = served_rows(traffic, first_day=first, days=len(days), rows_a_day=ROWS_A_DAY, seed=first)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _products(day: float) -> set[str]:
    return {group.columns["facts"]["item"] for group in World(0, time=day).prompts("rl", 400, 0)}


if __name__ == "__main__":
    main()
