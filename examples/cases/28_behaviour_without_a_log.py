"""Case 28: a model's behaviour and no training log. Which stage is missing?

It continues the text: no instruction tuning. It answers, but unpleasantly or unsafely: no preference alignment. It has
facts wrong: neither will mend that. Asked of the sandbox's base, instruction-tuned and DPO models, and of yours.

    python examples/cases/28_behaviour_without_a_log.py                    (some 3 minutes on two cores)
    python examples/cases/28_behaviour_without_a_log.py --small            (without the DPO model)
    python examples/cases/28_behaviour_without_a_log.py POLICY PROMPTS     (your own)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import assent
from assent.config.loading import parse_options
from assent.diagnosis.probes import FACTS, QUESTIONS, Answer, Behaviour
from assent.pipelines.steps import STEPS
from assent.runs.progress import Progress, Silent, progress_for_stderr

COSINE = {"lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "max_length": 256}
FULL, SMALL = {"demonstrations": 1500, "pairs": 2000, "batch": 32}, {"demonstrations": 300, "pairs": 90, "batch": 8}


def ask(name: str, policy: str, prompts: str) -> dict[str, Any]:
    """What the doctor says of a policy, printed."""
    report = assent.doctor(policy, probe=True, prompts=prompts, max_length=256)["reports"][0]
    measured = report["measured"]
    print(f"\n{name}: {report['verdict']}")
    print(f"  {measured['continues']['value']:.0%} of its answers go on with the prompt, "
          f"{measured['ends']['value']:.0%} "
          "end" + (f"; between worse and better answers it stands at {measured['drawn']['value']:+.2f}"
             if "drawn" in measured else ""))  # fmt: skip
    print(f"  e.g. {measured['answers'][0]['text'][:70]!r}")
    for finding in report["findings"]:
        print(
            f"  {finding['severity'].upper()} {finding['rule']}: {finding['verdict']}\n    to do: "
            f"{finding['next_action']}"
        )
    return {**report, "rules": [finding["rule"] for finding in report["findings"]]}


def of_facts() -> list[str]:
    """What the doctor says of a model that answers well and does not know: the same rules, on figures written down."""
    from assent.diagnosis.case import Case
    from assent.diagnosis.examine import examine
    from assent.diagnosis.model_rules import model_rules

    answers = [Answer(prompt=question, text=answer, ended=True) for question, answer in QUESTIONS]
    facts = [(-1.2, -0.9 if i % 2 else -1.5) for i in range(len(FACTS))]
    report = examine(Case(models=Behaviour(has_template=True, answers=answers, facts=facts)), model_rules())
    print("\nanswers, but with the facts wrong:")
    for finding in report.findings:
        print(f"  {finding.severity.upper()} {finding.rule}: {finding.verdict}\n    to do: {finding.next_action}")
    return [finding.rule for finding in report.findings]


def main(*, small: bool = False, progress: Progress | None = None) -> dict[str, list[str]]:
    """Returns the names of the findings about each model."""
    size, progress = SMALL if small else FULL, progress or Silent()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def step(command: str, **options: Any) -> dict[str, Any]:
            run = STEPS[command]
            config = parse_options(run.config_class(), {**options, "output_dir": str(folder / command)})
            return run.run(config, progress=progress)

        world = step("sandbox-world", num_demonstrations=size["demonstrations"], num_prompts=1, num_test_prompts=1)
        sft = step("sft", model=world["model"], data=world["demonstrations"], learning_rate=1e-3, num_train_epochs=2,
                   batch_size=size["batch"], **COSINE)  # fmt: skip
        labels = step("sandbox-labels", model=sft["model_path"], num_pairs=size["pairs"], num_test_pairs=2)
        models = {"base": world["model"], "sft": sft["model_path"]}
        if not small:
            dpo = step("dpo", model=sft["model_path"], data=labels["train"], beta=0.3, learning_rate=2e-4,
                       num_train_epochs=2, batch_size=size["batch"], **COSINE)  # fmt: skip
            models["dpo"] = dpo["model_path"]
        found = {name: ask(name, path, labels["train"])["rules"] for name, path in models.items()}
    found["facts"] = of_facts()
    return found


if __name__ == "__main__":
    if len(sys.argv) == 3:
        ask(sys.argv[1], *sys.argv[1:])
    else:
        main(small="--small" in sys.argv[1:], progress=progress_for_stderr())
