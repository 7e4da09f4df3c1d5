"""Case 14: only demonstrations; only thumbs; rankings of eight; scores of raters who disagree; logs, without and with
log-probabilities. One method for each.

    python examples/cases/14_what_the_data_is.py
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from plan_data import DISAGREEING, labels, planned, prompts, rows, show, written

from assent.data.loading import load_groups


def main() -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = labels(folder / "pairs.jsonl", 1200)
        logged = [replace(group, logps=(-12.0, -15.0)) for group in load_groups(pairs)]
        thumbs = labels(folder / "thumbs.jsonl", 800, labels="thumbs", num_completions=1)
        scores = {"labels": "ratings", "num_completions": 1, "raters": DISAGREEING, "votes": 5}
        plans = {
            "only demonstrations": planned(written(folder / "demonstrations.jsonl", 400), start="base"),
            "only thumbs": planned(thumbs, start="instruct"),
            "rankings of eight": planned(
                labels(folder / "rankings.jsonl", 200, labels="rankings", num_completions=8), start="instruct"
            ),
            "scores of raters who disagree": planned(
                labels(folder / "scores.jsonl", 300, **scores), prompts(folder / "prompts.jsonl", 200), start="instruct"
            ),
            "logs without log-probabilities": planned(thumbs, constraint=["offline-only"], start="instruct"),
            "logs with log-probabilities": planned(
                rows(folder / "logged.jsonl", logged, "comparisons"), constraint=["offline-only"], start="instruct"
            ),
        }
    for title, plan in plans.items():
        show(title, plan)
    return plans


if __name__ == "__main__":
    main()
