"""The doctor as a callback of transformers' Trainer, and so of TRL's trainers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from assent.diagnosis.case import make_case
from assent.diagnosis.doctor_text import lines_of_finding
from assent.diagnosis.finding import Finding
from assent.diagnosis.watch import Watch
from assent.errors import StopRun
from assent.runs.foreign_names import our_figures, our_options

if TYPE_CHECKING:
    from transformers import TrainerCallback


def doctor_callback(
    stage: str | None = None, *, stop: bool = True, report: Callable[[Finding], None] | None = None
) -> TrainerCallback:
    """A callback that asks the doctor's rules about what the trainer logs: `Trainer(callbacks=[doctor_callback()])`.

    stage    command of Assent that trains alike (sft, reward, dpo, kto, grpo …); None: what the metrics show
    stop     whether a fatal finding ends the training, as `control.should_training_stop` does
    report   called with each finding; by default it is printed on stderr
    """
    from transformers import TrainerCallback

    class DoctorCallback(TrainerCallback):
        def __init__(self) -> None:
            self.watch: Watch | None = None

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
            figures = our_figures(logs or {}, stage=stage)
            if not state.is_world_process_zero or not figures:
                return
            if self.watch is None:
                columns = {name: ([state.global_step], [value]) for name, value in figures.items()}
                options = our_options({name: value for name, value in vars(args).items() if not name.startswith("_")})
                about = make_case(
                    columns, config=options, stage=stage, source="trl", planned_steps=state.max_steps or None
                )
                self.watch = Watch(report=report or _print, stop_on="fatal" if stop else None, about=about)
            try:
                self.watch(state.global_step, figures)
            except StopRun:
                control.should_training_stop = True

    return DoctorCallback()


def _print(finding: Finding) -> None:
    print("\n".join(lines_of_finding(finding, make_case({}))), file=sys.stderr, flush=True)
