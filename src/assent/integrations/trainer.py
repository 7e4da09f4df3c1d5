"""The doctor as a callback of transformers' Trainer, and so of TRL's trainers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from assent.diagnosis.case import infer_stage, make_case
from assent.diagnosis.doctor_text import lines_of_finding
from assent.diagnosis.examine import examine
from assent.diagnosis.finding import Finding
from assent.diagnosis.watch import Watch
from assent.errors import StopRun
from assent.runs.foreign_names import our_figures
from assent.runs.foreign_options import our_options

if TYPE_CHECKING:
    from transformers import TrainerCallback


def doctor_callback(
    stage: str | None = None, *, stop: bool = True, report: Callable[[Finding], None] | None = None
) -> TrainerCallback:
    """A callback that asks the doctor's rules about what the trainer logs: `Trainer(callbacks=[doctor_callback()])`.

    Rules that read a few last values are asked at each line, the others at held-out figures; all when training ends.

    stage    command of Assent that trains alike (sft, reward, dpo, kto, grpo …); None: what the metrics show
    stop     whether a fatal finding ends the training, as `control.should_training_stop` does
    report   called with each finding; by default it is printed on stderr
    """
    from transformers import TrainerCallback

    class DoctorCallback(TrainerCallback):
        def __init__(self) -> None:
            self.watch: Watch | None = None
            self.told: set[str] = set()

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
            figures = our_figures(logs or {}, stage=stage)
            if not state.is_world_process_zero or not figures:
                return
            if self.watch is None:
                columns = {name: ([state.global_step], [value]) for name, value in figures.items()}
                options = {name: value for name, value in vars(args).items() if not name.startswith("_")}
                about = make_case(
                    columns, config=our_options(options, stage or infer_stage(columns), "trl"), stage=stage,
                    source="trl", planned_steps=state.max_steps or None,
                )  # fmt: skip
                self.watch = Watch(report=self.tell, stop_on="fatal" if stop else None, about=about)
            try:
                self.watch(state.global_step, figures)
            except StopRun:
                control.should_training_stop = True

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.watch is None:
                return
            has_ended = state.global_step >= (state.max_steps or 0)
            for finding in examine(self.watch.whole("finished" if has_ended else "stopped")).findings:
                if finding.severity != "info" and finding.rule not in self.told:
                    self.tell(finding)

        def tell(self, finding: Finding) -> None:
            self.told.add(finding.rule)
            if report is not None:
                report(finding)
            elif self.watch is not None:
                print("\n".join(lines_of_finding(finding, self.watch.about)), file=sys.stderr, flush=True)

    return DoctorCallback()
