"""How often is `assent doctor REWARD_MODEL --probe` right?

Trains tiny reward models with one known fault each (`assent.sandbox.faults.score_faults`) and healthy ones, measures
each with a file of held-out comparisons as the command does, asks the doctor's rules, counts. What was measured is kept
in the folder --runs and made only once, so that an interrupted measurement goes on and other thresholds can be tried.
`calibration` and `report` are two sets of seeds that never meet, and one task is in the second alone.

Each model is measured a second time, with other held-out comparisons: a finding on a healthy one that comes again
is a symptom that the model has, and one that does not is an accident of the file. Both count as false alarms.

    python benchmarks/doctor_probe.py --runs DIR --purpose report --seeds 8 --healthy 120

Two processes share the work by --part 1/2 and --part 2/2, as in doctor.py. A finding of severity info counts as none.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from doctor import Runs, parser_of

from assent.commands.doctor_reward import scores_of
from assent.config.doctor import DoctorConfig
from assent.config.loading import parse_options
from assent.config.stages import RewardConfig
from assent.data.loading import write_groups
from assent.diagnosis.case import Case
from assent.diagnosis.examine import examine
from assent.diagnosis.model_rules import model_rules
from assent.diagnosis.scored import Scored
from assent.sandbox.faults.confusion import Seen, confusion, interval, table
from assent.sandbox.faults.records import Planned
from assent.sandbox.faults.running import Mute
from assent.sandbox.faults.score_faults import SCORE_FAULTS, plan_scores
from assent.sandbox.faults.score_tasks import CONTEXT, comparisons
from assent.sandbox.faults.settings import Setting
from assent.stages import reward
from assent.types import PromptGroup

AGAIN = 5_000_000
"""Added to the seed of the comparisons that a model is measured with a second time."""
MOST_AGAIN = 100
Models = list[tuple[Planned, dict[str, Any]]]


def main() -> None:
    import torch

    options = parser_of(__doc__, SCORE_FAULTS, seeds=2, healthy=24).parse_args()
    torch.set_num_threads(1)
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else None
    runs = Runs(options.runs, deadline, options.part, making=probed)
    numbers = range(options.first, options.first + options.seeds)
    planned = [one for name in options.only or SCORE_FAULTS for one in plan_scores(name, options.purpose, numbers)]
    planned += plan_scores("", options.purpose, range(options.first, options.first + options.healthy))
    planned.sort(key=lambda one: one.number % 50_000)  # all faults a little, rather than some of them wholly
    models = [*runs.of(planned)]
    result = {
        "purpose": options.purpose,
        "models": len(models),
        "missing": len(planned) - len(models),
        **confusion((_seen(one, record) for one, record in models), SCORE_FAULTS).as_dict(),
        "alarms_again": _again(models),
        "accuracy_of_healthy": _accuracy(models),
        "cpu_seconds": round(time.process_time(), 1),
    }
    print("\n".join(table(result, known=SCORE_FAULTS)), file=sys.stderr)
    print(json.dumps(result, indent=1))


def probed(setting: Setting) -> dict[str, Any]:
    """Trains the reward model, and keeps what `assent doctor --probe --data` measures of it, with two files."""
    with tempfile.TemporaryDirectory() as scratch:
        model = _trained(setting, Path(scratch))
        for change in setting.saved:
            change(model)
        others = comparisons(setting.family, MOST_AGAIN, seed=setting.seed + AGAIN, held_out=True)
        return {
            "family": setting.family,
            "seed": setting.seed,
            "config": {**setting.options, "model": Path(setting.options["model"]).name},
            "scored": _measured(model, setting.held_out),
            "again": _measured(model, others),
        }


def _trained(setting: Setting, scratch: Path) -> Path:
    """The folder of the trained model. Faults of what was saved begin with one model of each seed, which is kept."""
    made = repr([setting.options, setting.rows]).replace(str(setting.models), "models")
    shared = setting.models / "trained" / hashlib.sha256(made.encode()).hexdigest()[:12]
    if setting.saved and shared.exists():
        return Path(shutil.copytree(shared, scratch / "model"))
    with ExitStack() as stack:
        for patch in setting.patches:
            stack.enter_context(patch())
        options = {**setting.options, "output_dir": str(scratch / "run")}
        reward.train(
            parse_options(RewardConfig, options, where=" of a reward model"), progress=Mute(), data=setting.rows
        )
    if setting.saved:
        shutil.copytree(scratch / "run" / "model", shared, dirs_exist_ok=True)
    return scratch / "run" / "model"


def _measured(model: Path, rows: list[PromptGroup]) -> dict[str, Any]:
    """The fields of `Scored`, in seven digits."""
    data = model.parent / "held-out.jsonl"
    write_groups(data, rows, "comparisons")
    config = DoctorConfig(targets=(str(model),), probe=True, data=str(data), max_length=CONTEXT, device="cpu")
    fields = asdict(scores_of(str(model), config))
    return {
        name: [float(f"{number:.7g}") for number in value] if isinstance(value, list | tuple) else value
        for name, value in fields.items()
    }


def _findings(record: Mapping[str, Any], name: str = "scored") -> tuple[str, ...]:
    report = examine(Case(models=Scored(**record[name]), source="model"), model_rules())
    return tuple(finding.rule for finding in report.findings if finding.severity != "info")


def _seen(planned: Planned, record: Mapping[str, Any]) -> Seen:
    found = _findings(record)
    return Seen(planned.faults, planned.stage, found, found[0] if found else None)


def _again(models: Models) -> dict[str, Any]:
    """By rule: of the findings on healthy models, those that other comparisons give again."""
    first: Counter[str] = Counter()
    again: Counter[str] = Counter()
    for planned, record in models:
        if not planned.faults:
            found = _findings(record)
            first.update(found)
            again.update(set(found) & set(_findings(record, "again")))
    return {rule: interval(again[rule], count) for rule, count in first.most_common()}


def _accuracy(models: Models) -> dict[str, float]:
    """How well healthy models rank held-out pairs: the worst, the median, the best."""
    found = sorted(_right(record["scored"]) for planned, record in models if not planned.faults)
    return {"worst": found[0], "median": found[len(found) // 2], "best": found[-1]} if found else {}


def _right(scored: Mapping[str, Any]) -> float:
    margins = Scored(**scored).margins
    return sum(margin > 0 for margin in margins) / len(margins)


if __name__ == "__main__":
    main()
