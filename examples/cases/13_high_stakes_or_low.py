"""Case 13: high stakes against low. Demonstrations, rankings, or both?

With the same kinds of data the answer differs: where an error is dear and the raters disagree, imitate those who know;
where it is cheap and they agree, rankings buy more. Raters who agree change the answer at high stakes, too.

    python examples/cases/13_high_stakes_or_low.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from plan_data import AGREEING, DISAGREEING, labels, planned, show, written


def main() -> dict[str, Any]:
    plans = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many, few = written(folder / "many.jsonl", 600), written(folder / "few.jsonl", 150)
        crowd = labels(folder / "crowd.jsonl", 1200, raters=DISAGREEING, votes=2)
        careful = labels(folder / "careful.jsonl", 1200, raters=AGREEING, votes=2)
        plans["high stakes, raters disagree"] = planned(many, crowd, constraint=["high-stakes"], start="base")
        plans["high stakes, raters agree"] = planned(many, careful, constraint=["high-stakes"], start="base")
        plans["low stakes, raters agree"] = planned(few, careful, start="base")
    for title, plan in plans.items():
        facts = plan["facts"]
        print(f"\n{title}: {facts['demonstrations']} demonstrations, {facts['pairs']} labels of pairs, "
              f"agreement {facts['agreement']:.0%}")  # fmt: skip
        show(title, plan)
    return plans


if __name__ == "__main__":
    main()
