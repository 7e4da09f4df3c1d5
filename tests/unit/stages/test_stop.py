"""A finding ends a run in good order: checkpoint and model stay, the run folder says why, --no-stop goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from assent.cli import main
from assent.diagnosis.case import Case
from assent.diagnosis.finding import Finding
from assent.diagnosis.rule import Rule
from assent.diagnosis.watch import Watch
from assent.models.loading import load_policy, load_tokenizer
from assent.models.saving import save_model
from assent.runs.reading import read_run
from assent.stages import session
from tests.invariance.test_stages_processes import in_two_processes
from tests.support.stages import arguments, write_inputs


def at_three(case: Case) -> Finding | None:
    if case["loss"].steps[-1] != 3:
        return None
    return Finding(severity="fatal", verdict="three is enough", evidence=(), next_action="count to two")


THREE = Rule(name="three", title="three", metrics=("loss",), window=1, check=at_three)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    return write_inputs(tmp_path)


def test_a_finding_stops_a_run_and_no_stop_goes_on_to_the_same_bits(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments("sft", inputs, tmp_path / "run")
    assert main([*arguments("sft", inputs, tmp_path / "whole")]) == 0
    examined = json.loads((tmp_path / "whole" / "findings.json").read_text())  # at the end, by every rule
    assert "unfinished" not in {one["rule"] for one in examined["findings"]}
    assert {"held_out_rises", "loss_above_start"} <= {one["rule"] for one in examined["not_checked"]}
    monkeypatch.setattr(session, "Watch", partial(Watch, rules=[THREE]))
    capsys.readouterr()
    assert main(argv) == 1
    said = capsys.readouterr().err
    assert "stopped after step 3" in said
    assert "three is enough" in said
    assert "count to two" in said
    assert "--no-stop" in said
    run = read_run(tmp_path / "run")
    assert run.manifest["status"] == "stopped"
    assert run.manifest["stopped"]["step"] == 3
    assert run.manifest["stopped"]["finding"]["rule"] == "three"
    findings = json.loads((tmp_path / "run" / "findings.json").read_text())
    assert [finding["rule"] for finding in findings["findings"]] == ["three"]
    assert (tmp_path / "run" / "checkpoints" / "step-3").is_dir()
    load_policy(tmp_path / "run" / "model")

    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert main(argv) == 1  # the same command again says the same, and trains nothing
    assert "three is enough" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics

    assert main([*argv, "--no-stop"]) == 0
    assert read_run(tmp_path / "run").manifest["status"] == "finished"
    whole, resumed = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "run"))
    assert all(bool((resumed[name] == tensor).all()) for name, tensor in whole.items())


def test_with_no_stop_a_finding_is_reported_and_the_run_ends_by_itself(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "Watch", partial(Watch, rules=[THREE]))
    assert main([*arguments("sft", inputs, tmp_path / "run"), "--no-stop"]) == 0
    assert capsys.readouterr().err.count("finding: three is enough") == 1
    assert (tmp_path / "run" / "findings.json").is_file()


def ends_at_once(model: Path, folder: Path) -> Path:
    """A copy whose residual stream is the embedding, and whose end token wins whatever was read."""
    policy, tokenizer = load_policy(model), load_tokenizer(model)
    with torch.no_grad():
        policy.get_input_embeddings().weight[:, 0] = 1.0
        policy.get_output_embeddings().weight[:, 0] = 1.0
        policy.get_output_embeddings().weight[tokenizer.eos_token_id, 0] = 5.0
        for layer in policy.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        policy.model.norm.weight.zero_()
        policy.model.norm.weight[0] = 20.0
    save_model(folder, policy, tokenizer)
    return folder


def test_a_policy_that_answers_with_nothing_is_stopped(inputs: dict[str, str], tmp_path: Path) -> None:
    """In two processes: the main one looks at the log, and both end."""
    argv = arguments("ppo", inputs, tmp_path / "run")
    argv[argv.index("--model") + 1] = str(ends_at_once(Path(inputs["model"]), tmp_path / "mute"))
    argv[argv.index("--total-steps") + 1] = "8"
    statuses, texts = in_two_processes(argv, tmp_path)
    assert statuses == [1, 1], [text.read_text() for text in texts]
    assert "every answer of the last 5 rounds is empty" in texts[0].read_text()
    assert read_run(tmp_path / "run").manifest["stopped"]["step"] == 5


def test_a_finding_at_the_last_step_stops_nothing(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_five(case: Case) -> Finding | None:
        if case["loss"].steps[-1] != 5:
            return None
        return Finding(severity="fatal", verdict="five is enough", evidence=(), next_action="count to four")

    rule = Rule(name="five", title="five", metrics=("loss",), window=1, check=at_five)
    monkeypatch.setattr(session, "Watch", partial(Watch, rules=[rule]))
    assert main(arguments("sft", inputs, tmp_path / "run")) == 0
    assert read_run(tmp_path / "run").manifest["status"] == "finished"
    assert (tmp_path / "run" / "findings.json").is_file()


def test_a_fault_ends_a_run_that_is_to_stop_on_one(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    milder = replace(THREE, check=lambda case: (found := at_three(case)) and replace(found, severity="fault"))
    monkeypatch.setattr(session, "Watch", partial(Watch, rules=[milder]))
    argv = arguments("sft", inputs, tmp_path / "run")
    assert main([*argv, "--no-stop", "--stop-on", "fault"]) == 2
    assert main([*argv, "--stop-on", "fault"]) == 1
    assert "stopped after step 3" in capsys.readouterr().err
    assert main([*argv, "--no-stop"]) == 0
    assert main(arguments("sft", inputs, tmp_path / "other")) == 0
