"""Case 19: a small budget, and a chatbot that has facts wrong, ignores instructions, is rude and unsafe.

Each problem needs data of its own kind. No preference method mends wrong facts, so no money for labels goes there.

    python examples/cases/19_a_small_budget.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from plan_data import planned, prompts, show

PROBLEMS = ("wrong-facts", "ignores-instructions", "rude", "unsafe")


def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        asked = prompts(Path(folder) / "prompts.jsonl", 400)
        plan = planned(asked, problem=PROBLEMS, feedback="fresh", start="instruct")
    show("400 prompts, no labels", plan)
    print()
    for one in plan["spending"]:
        share = f"{one['share']:.0%} of the budget" if one["mends"] else "nothing; no preference method mends it"
        print(f"  {one['problem']:<22}{share}\n    needs {one['needs']}")
    return plan


if __name__ == "__main__":
    main()
