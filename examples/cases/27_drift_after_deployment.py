"""Case 27: drift after deployment. Prompts moved, taste moved, the reward model aged, or the serving stack differs?

Five weeks of logs for each: four weeks of the release, and two weeks in which one of them moved, or nothing. They are
composed of the sandbox's writers, raters and gold, without a model. The monitor reads each as it would read yours.

    python examples/cases/27_drift_after_deployment.py          (a minute)
    python examples/cases/27_drift_after_deployment.py --small  (fewer rows, in seconds)
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import assent
from assent.sandbox.traffic import Traffic, moved, served_rows
from assent.sandbox.world import World

SCENES: tuple[tuple[str, str | None], ...] = (
    ("nothing moved", None),
    ("users ask for other things", "prompts"),
    ("users like other answers", "taste"),
    ("the reward model cannot tell answers apart any more", "reward model"),
    ("the server computes other log-probabilities", "serving"),
)
FIRST_DAY = 20_000


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def main(*, small: bool = False) -> dict[str, list[str]]:
    """Returns the findings of each scene."""
    rows_a_day, base_days, later_days = (200, 14, 7) if small else (400, 28, 14)
    release = Traffic(world=World())
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = served_rows(release, first_day=FIRST_DAY, days=base_days, rows_a_day=rows_a_day, seed=1)
        baseline = write(folder / "release.jsonl", base)
        for number, (title, what) in enumerate(SCENES):
            traffic = release if what is None else moved(release, what, 1.0)
            later = served_rows(traffic, first_day=FIRST_DAY + base_days, days=later_days, rows_a_day=rows_a_day,
                                seed=2 + number)  # fmt: skip
            logs = write(folder / f"logs-{number}.jsonl", later)
            document = assent.monitor(baseline=baseline, logs=logs)
            found[title] = document["causes"]
            print(f"\n{title}: {', '.join(document['causes']) or 'nothing that this much data could show'}")
            first = next((day["day"] for day in document["days"] if day["found"]), None)
            if first is not None:
                place = [day["day"] for day in document["days"]].index(first) + 1
                print(f"  first found on day {place} of {later_days}")
            for finding in document["findings"]:
                print(f"  {finding['verdict']}")
                for fact in finding["evidence"][:3]:
                    print(f"    {fact['metric']}: {fact['value']:.3f}, expected {fact['expected']}")
                print(f"  to do: {finding['next_action']}")
    return found


if __name__ == "__main__":
    main(small="--small" in sys.argv[1:])
