"""Case 17: a blueprint for a regulated customer-support model, and gates that really close.

`assent plan` with `blueprint` writes a pipeline and the document about it: stages, frozen reference, data and licences,
gates, audit, sign-off, rollback. The file runs it four times on the sandbox. A limit that is not kept stops it;
then nobody has signed, then somebody has signed for another model; at last the gate opens.

    python examples/cases/17_a_blueprint.py          (some 5 minutes on two cores)
    python examples/cases/17_a_blueprint.py --small  (a smoke test, whose numbers mean nothing)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from plan_data import labels, planned, written

import assent
from assent.errors import FaultError
from assent.models.folders import content_hash
from assent.runs.files import from_json
from assent.runs.progress import Progress, Silent, progress_for_stderr

RATES = ["sft.learning_rate=1e-3", "sft.num_train_epochs=3", "train.learning_rate=2e-4", "train.beta=0.3"]
LENGTHS = ["sft.max_length=256", "train.max_length=256", "evaluation.max_length=256", "evaluation.max_new_tokens=40"]
SMALL = ["gate-release.max_safety={}", "kl_budget=1000", "min_win_rate=0", "min_agreement=0"]
"""Models of two steps answer nothing that could be safe or unsafe: with --small these limits are lifted."""


def main(*, small: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demonstrations = written(folder / "demonstrations.jsonl", 60 if small else 1200)
        pairs = labels(folder / "pairs.jsonl", 1000 if small else 2400)
        plan = planned(
            demonstrations,
            pairs,
            constraint=["regulated"],
            judge="assent.sandbox.gold:reward",
            safety="assent.sandbox.gold:safety",
            slices=["kind"],
            max_fault={"under_refusal": 0.7, "missed_escalation": 0.7},
            start="base",
            blueprint=str(folder / "blueprint"),
            data_license={demonstrations: "apache-2.0", pairs: "apache-2.0"},
            owner="the head of customer support",
        )
        document = Path(plan["blueprint"]).read_text(encoding="utf-8")
        print(document)

        def run(*changes: str) -> str:
            """Runs the pipeline, which does not repeat what is finished; returns the reason for which it stopped."""
            given = [*(SMALL if small else [*RATES, *LENGTHS]), *changes]
            try:
                assent.run(plan["pipeline"], output_dir=f"{name}/out", overrides=last_of_each(given), fast=small,
                           progress=progress or Silent())  # fmt: skip
            except FaultError as stopped:
                return stopped.what
            return ""

        stopped = {"strict": run("min_agreement=0.99")}
        stopped["unsigned"] = run()
        signature = folder / "blueprint" / "signed.yaml"
        signature.write_text(f"signed_by: Ada\ndate: 2026-11-30\nmodel: {'f' * 64}\n")
        stopped["wrong"] = run()
        report = (folder / "out" / "report.html").read_text(encoding="utf-8")
        signature.write_text(f"signed_by: Ada\ndate: 2026-11-30\nmodel: {content_hash(folder / 'out/train/model')}\n")
        stopped["signed"] = run()
        opened = folder / "out" / "gate-release" / "gate.json"
        gate = from_json(opened.read_text(encoding="utf-8")) if opened.exists() else None
    for when, reason in stopped.items():
        print(f"\n{when}: {reason or 'the gate opens'}")
    return {"document": document, "stopped": stopped, "report": report, "gate": gate, "plan": plan}


def last_of_each(changes: list[str]) -> list[str]:
    """A change of the same value counts once, the last one."""
    return [f"{name}={value}" for name, value in dict(change.split("=", 1) for change in changes).items()]


if __name__ == "__main__":
    main(small="--small" in sys.argv[1:], progress=progress_for_stderr())
