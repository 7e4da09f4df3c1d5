"""A run of a stage's own session on a model of a few hundred weights, in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors.torch import save_file

from assent.config.stages import SftConfig
from assent.engine import weights
from assent.engine.checkpoint import FOLDER
from assent.engine.runtime import Runtime
from assent.models.saving import _replacing
from assent.runs.files import file_facts
from assent.runs.folder import RunFolder
from assent.runs.log import RunLog
from assent.stages.run_models import RunModels
from assent.stages.session import Session
from tests.support.engine import Nll, make_groups, make_learner
from tests.support.stages import UNTOLD, told

STEPS = 2
GROUPS = make_groups(2 * STEPS)
DATA: Any = SimpleNamespace(train=SimpleNamespace(groups=GROUPS, tokens=GROUPS, labelled=True), parts={})


class LittleModels(RunModels):
    """Saves its one model as a safetensors file, in a folder that is written as every model's is."""

    def save(self) -> None:
        with _replacing(self.folder.model_path) as part:
            save_file(weights.named_weights(self.learner.module), part / "model.safetensors")
        self.folder.record(model_files=file_facts(self.folder.model_path))
        self.folder.record(fingerprints={"model_end": self.learner.fingerprint()})


class LittleSession(Session):
    """`kept` gets the step of every checkpoint that was written."""

    kept: list[int]

    def checkpoint(self) -> None:
        super().checkpoint()
        self.kept.append(self.step)

    def _examine(self) -> None:
        self.folder.write_findings({"findings": [], "not_checked": []})


def little_run(path: Path, kept: list[int] | None = None) -> None:
    """Trains for two steps, with a checkpoint after the first, as `assent sft` would: a folder that is begun
    is continued, and a finished one is left alone."""
    config = SftConfig(
        model="tiny", data="rows.jsonl", output_dir=str(path), max_steps=STEPS, save_steps=1, batch_size=2
    )
    with RunFolder.open(path, config.model_dump(), command="sft", resume=True, hashes={"model": "0"}) as folder:
        log = RunLog(folder)
        session = LittleSession(config, DATA, folder, log, Runtime("cpu"))
        session.kept = [] if kept is None else kept
        if folder.is_finished and folder.damage() is None:
            return
        folder.go_on()
        session.models = LittleModels(config, DATA, folder, log, session.runtime, ledger=session.ledger)
        learner = session.models.learners["model"] = make_learner(total_steps=STEPS)
        session.models.note_start("model", learner.fingerprint())
        session.resume()
        for step in session.steps():
            session.log_step(step, learner.update(session.batch(step), Nll()))
            log.samples(step + 1, [{"prompt": f"row {step}", "completion": "é"}])
        session.finish()


def outcome(path: Path) -> dict[str, Any]:
    """All that a little run leaves which does not depend on how long it took, nor on how often it was begun."""
    record = json.loads((path / "run.json").read_text())
    result = {name: value for name, value in record["result"]["metrics"].items() if not name.startswith(UNTOLD)}
    return {
        "weights": (path / "model" / "model.safetensors").read_bytes(),
        "status": record["status"],
        "result": result,
        "metrics": told(path / "metrics.jsonl"),
        "samples": (path / "samples.jsonl").read_text(),
        "findings": (path / "findings.json").read_text(),
        "files": sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()),
        "checkpoints": {
            file.relative_to(path).as_posix(): file.read_bytes() for file in (path / FOLDER).rglob("*.safetensors")
        },
    }
