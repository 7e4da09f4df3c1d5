"""Case 10: a direct or a staged pipeline? What each method needs, for one model and one set of data.

DPO is one phase with one model in memory. The staged road has a reward model first, and then rounds of sampling,
scoring and training with up to four models. The file prints the list for every method, and the choice.

    python examples/cases/10_direct_or_staged.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from plan_data import labels, planned, prompts, show


def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = planned(labels(folder / "pairs.jsonl", 1200), prompts(folder / "prompts.jsonl", 400), start="instruct")
    excluded = {one["method"]: one["excluded"] for one in plan["choice"]["alternatives"]}
    for method, needs in plan["methods"].items():
        print(f"\n{method}{'' if not excluded.get(method) else ' (not possible here)'}: {needs['title']}")
        for what in ("wants", "phases", "resident", "samples", "fails_by"):
            print(f"  {what.replace('_', ' '):<9} {needs[what]}")
    show("the choice", plan)
    return plan


if __name__ == "__main__":
    main()
