"""Ctrl-C in a pipeline: what is finished stands, the stage at hand goes on from its checkpoint."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.support.stages import Fault, run, told, write_inputs

PIPELINE = """
name: interrupted
stages:
  - name: sft
    command: sft
    options: {{model: {model}, data: {demonstrations}, max_steps: 2, max_length: 64, learning_rate: 1e-3}}
  - name: dpo
    command: dpo
    options:
      model: ${{sft.model_path}}
      data: {comparisons}
      max_steps: 5
      batch_size: 4
      max_length: 64
      learning_rate: 1e-3
      reference_cache: {cache}
"""


def test_an_interrupted_pipeline_ends_as_one_that_never_was(tmp_path: Path) -> None:
    inputs, messages = write_inputs(tmp_path), tmp_path / "messages"
    file = tmp_path / "pipeline.yaml"
    file.write_text(PIPELINE.format(**inputs, cache=tmp_path / "cache"))

    def argv(name: str) -> list[str]:
        return ["run", str(file), "--output-dir", str(tmp_path / name)]

    assert run(argv("whole"), messages) == 0, messages.read_text()
    messages.write_text("")
    assert run(argv("broken"), messages, Fault(after=4, number=signal.SIGINT)) == 130
    text = messages.read_text()
    assert text.count("interrupted: the same command continues") == 1
    assert "Traceback" not in text
    entries = json.loads((tmp_path / "broken" / "pipeline.json").read_text())["stages"]
    assert [entry["finished_at"] is None for entry in entries] == [False, True]
    assert not (tmp_path / "broken" / "report.html").exists()
    messages.write_text("")
    assert run(argv("broken"), messages) == 0, messages.read_text()
    assert "sft is already finished" in messages.read_text()
    assert "resumed after step 4" in messages.read_text()
    weights = [tmp_path / name / "dpo" / "model" / "model.safetensors" for name in ("broken", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    steps = [[row["step"] for row in told(tmp_path / name / "dpo" / "metrics.jsonl")] for name in ("broken", "whole")]
    assert steps[0] == steps[1]
    assert (tmp_path / "broken" / "report.html").exists()
