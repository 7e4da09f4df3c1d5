"""Case 9: a fixed set of pairs, little compute, and no way to sample while training. Which method?

DPO: it reads the pairs and a frozen reference, and samples nothing. The file prints what is given up for that, and
which facts would change the answer.

    python examples/cases/09_static_pairs_little_compute.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from plan_data import labels, planned, show


def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        pairs = labels(Path(folder) / "pairs.jsonl", 1200)
        plan = planned(pairs, constraint=["no-sampling"], start="instruct")
    show("1,200 pairs, nothing may be sampled", plan, alternatives=True)
    return plan


if __name__ == "__main__":
    main()
