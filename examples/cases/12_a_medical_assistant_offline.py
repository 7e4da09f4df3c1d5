"""Case 12: a medical assistant, trained offline. Coverage, safety slices, refusal and escalation, gates.

Nothing may be tried on people, so nothing is sampled in training. The sandbox's emergencies stand for the medical ones.
The file plans with all pairs, and with pairs from which the emergencies were left out: the plan says which slices are
too thin for its gates.

    python examples/cases/12_a_medical_assistant_offline.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from plan_data import labels, planned, rows, show, written

from assent.data.loading import load_groups

GIVEN = {
    "constraint": ["offline-only", "regulated", "high-stakes"],
    "judge": "assent.sandbox.gold:reward",
    "safety": "assent.sandbox.gold:safety",
    "slices": ["kind"],
    "max_fault": {"missed_escalation": 0.05, "under_refusal": 0.05, "over_refusal": 0.1},
    "start": "base",
}


def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = labels(folder / "pairs.jsonl", 1500)
        thin = [group for group in load_groups(pairs) if group.columns["kind"] != "escalate"]
        demonstrations = written(folder / "demonstrations.jsonl", 300)
        plan = planned(demonstrations, pairs, **GIVEN)
        without = planned(demonstrations, rows(folder / "thin.jsonl", thin, "comparisons"), **GIVEN)
    show("a medical assistant, offline", plan, alternatives=True)
    print("\nstages: " + " -> ".join(stage["name"] for stage in plan["stages"]))
    for title, one in (("all pairs", plan), ("without emergencies", without)):
        print(f"\n{title}, held out by kind of prompt:")
        for part in one["evaluation"]["slices"]:
            print(f"  {part['value']:<12}{part['held_out']:>5} prompts, a win rate to within {part['half_width']:.0%}")
    return {"plan": plan, "without": without}


if __name__ == "__main__":
    main()
