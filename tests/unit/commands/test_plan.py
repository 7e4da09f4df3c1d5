"""`assent plan` on the sandbox: what it says, and that `assent run` executes the file that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from assent.config.loading import parse_options
from assent.config.plan import FAULTS, PlanConfig
from assent.data.loading import load_groups
from assent.judging.chat import _safety
from assent.pipelines.plan import read_plan
from tests.support.cli import files_in, said
from tests.support.rows import write_rows
from tests.support.sandbox_data import asked, base_model, labelled, written

GOLD = "assent.sandbox.gold:reward"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    return {
        "demonstrations": written(folder / "demonstrations.jsonl", 24),
        "pairs": labelled(folder / "pairs.jsonl", number=120),
        "rankings": labelled(folder / "rankings.jsonl", number=120, labels="rankings", num_completions=4),
        "thumbs": labelled(folder / "thumbs.jsonl", number=60, labels="thumbs", num_completions=1),
        "scores": labelled(folder / "scores.jsonl", number=60, labels="ratings", num_completions=1),
        "prompts": asked(folder / "prompts.jsonl", 40),
    }


def planned(data: dict[str, str], kinds: list[str], *flags: str) -> list[str]:
    return ["plan", "--model", base_model(), *(word for kind in kinds for word in ("--data", data[kind])), *flags]


CASES = {
    "sft": (["demonstrations"], []),
    "dpo": (["demonstrations", "pairs"], ["--constraint", "one-answer", "--start", "base"]),
    "dpo on the chosen first": (["pairs"], ["--constraint", "one-answer", "--start", "base"]),
    "pl-dpo": (["rankings"], []),
    "kto": (["thumbs"], []),
    "best-of-n": (["scores", "prompts"], []),
    "best-of-n, pairs": (["pairs"], []),
    "iterated-dpo": (["pairs", "prompts"], ["--feedback", "fresh"]),
    "grpo": (["prompts"], ["--reward", GOLD]),
    "collect": (["prompts"], []),
}
JUDGED = {"dpo", "kto", "best-of-n, pairs"}
"""Cases whose file ends with an evaluation; the others have it too, and reading their file checks it."""


@pytest.mark.parametrize("case", CASES)
def test_the_file_that_it_writes_runs_as_it_stands(
    case: str, data: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds, flags = CASES[case]
    file = tmp_path / "pipeline.yaml"
    judge = ["--judge", GOLD] if case in JUDGED else []
    status, out, err = said([*planned(data, kinds, *flags), *judge, "--output", file, "--json"], capsys)
    assert status == 0, err
    document = json.loads(out)
    assert document["choice"]["method"] == case.partition(",")[0].partition(" ")[0]
    stages = [stage.name for stage in read_plan(file).stages]
    assert stages == [stage["name"] for stage in document["stages"]]
    assert ("evaluation" in stages) == (case in JUDGED)
    run = ["run", file, "--output-dir", tmp_path / "out", "--fast"]
    status, out, err = said(run, capsys)
    assert status == 0, err
    assert (tmp_path / "out" / "report.html").is_file()


def test_it_prints_facts_reasons_and_what_the_others_give_up_in_80_columns(
    data: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*planned(data, ["demonstrations", "pairs"], "--constraint", "no-sampling"), "--problem", "rude"]
    status, out, err = said(command, capsys)
    assert status == 0, err
    for part in ("pairs             120", "The method:", "What the others give up", "When the answer would change",
                 "Where to spend", "What is likely to go wrong", "381 prompts"):  # fmt: skip
        assert part in out
    text = out.replace(data["pairs"], "").replace(data["demonstrations"], "")  # paths may be longer than a line
    assert max(map(len, text.splitlines())) <= 80
    assert "What each method needs" not in out
    assert "What each method needs" in said([*command, "--verbose"], capsys)[1]


def test_bad_input_is_refused_and_nothing_is_written(
    data: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    taken = tmp_path / "taken.yaml"
    taken.write_text("mine")
    before = files_in(tmp_path)
    file = ["--output", tmp_path / "new.yaml"]
    for command, message in (
        ([*planned({**data, "none": str(empty)}, ["none"]), *file], "has no rows"),
        ([*planned(data, ["pairs"]), "--output", taken], "exists already"),
        ([*planned(data, ["prompts"], "--constraint", "no-sampling"), *file], "lift no-sampling"),
        ([*planned(data, ["pairs"], "--constraint", "no-samplng"), *file], "no-sampling"),
        ([*planned(data, ["pairs"], "--reward", GOLD, "--judge", GOLD), *file], "give another"),
        ([*planned(data, ["pairs", "pairs"]), *file], "twice"),
        (["plan", "--model", tmp_path / "none", "--data", data["pairs"], *file], "does not exist"),
    ):
        status, out, err = said(command, capsys)
        assert (status, out) == (2, ""), err
        assert message in err
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "max_fault limits what only safety measures"),
        (("--safety", "my_safety:faults", "--max-fault.undr_refusal", "0.1"), "did you mean under_refusal?"),
        (("--safety", "http://localhost:1/v1", "--max-fault.leak", "0.1"), "harm_in_answer"),
    ],
)
def test_a_fault_that_nobody_measures_is_refused_before_the_training(
    flags: tuple[str, ...], message: str, data: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    gates = ("--constraint", "regulated", "--judge", GOLD, "--max-fault.under_refusal", "0.1")
    status, out, err = said(planned(data, ["pairs"], *gates, *flags), capsys)
    assert (status, out) == (2, "")
    assert message in err


def test_known_faults_are_those_that_a_chat_model_is_asked_about_and_a_function_may_have_others(
    data: dict[str, str],
) -> None:
    assert set(FAULTS) == set(_safety("yes no no"))
    given = {"model": base_model(), "data": [data["pairs"]], "judge": GOLD, "constraint": ["regulated"]}
    limits = {"missed_escalation": 0.1, "over_refusal": 0.2}  # the first is a name of the sandbox's own measure
    config = parse_options(PlanConfig, {**given, "safety": "assent.sandbox.gold:safety", "max_fault": limits})
    assert config.max_fault == limits


def test_it_loads_no_torch(data: dict[str, str]) -> None:
    import subprocess
    import sys

    command = planned(data, ["pairs"])
    code = f"import sys, assent.cli; assert assent.cli.main({command!r}) == 0 and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("kinds", "flags", "gates"),
    [
        (["pairs"], [], {"agreement": "eval_accuracy", "release": "best-of-16"}),
        (["pairs"], ["--constraint", "one-answer"], {"agreement": "eval_rewards/accuracies", "release": "trained"}),
        (["scores", "prompts"], [], {"release": "best-of-16"}),  # ratings have no agreement
        (["thumbs"], [], {"release": "trained"}),
    ],
)
def test_a_regulated_file_has_the_gates_whose_figures_are_measured(
    kinds: list[str], flags: list[str], gates: dict[str, str], data: dict[str, str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "pipeline.yaml"
    command = planned(data, kinds, "--constraint", "regulated", *flags, "--judge", GOLD, "--output", str(file))
    assert said(command, capsys)[0] == 0
    stages = {stage.name: stage.options for stage in read_plan(file).stages if stage.command == "gate"}
    assert list(stages) == [f"gate-{name}" for name in gates]
    assert stages["gate-release"]["policy"] == gates["release"]
    if "agreement" in gates:
        assert stages["gate-agreement"]["min_held_out"] == {gates["agreement"]: 0.55}


def test_rows_that_no_command_can_use_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "p", "completion": "x"}, {"prompt": "q"}, {"prompt": "r", "completion": "y"}]
    data = str(write_rows(tmp_path / "rows.jsonl", rows))
    status, out, err = said(["plan", "--model", base_model(), "--data", data], capsys)
    assert status == 0, err
    assert "1 rows of" in out
    assert "cannot be used" in out


def test_each_file_is_read_with_the_columns_that_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [
        {"Frage": f"What is {n} + 1?", "Answer A": f"It is {n + 1}.", "Answer B": f"No {n}?", "Urteil": "ab"[n % 2]}
        for n in range(600)
    ]
    write_rows(tmp_path / "asked.jsonl", [{"Frage": f"What is {n} + 2?", "topic": "sums"} for n in range(20)])
    files = [word for name in ("asked", "pairs") for word in ("--data", tmp_path / f"{name}.jsonl")]
    columns, file = "Frage=question,Answer A=answer_a,Answer B=answer_b,Urteil=winner", tmp_path / "pipeline.yaml"
    command = ["plan", "--model", base_model(), *files, "--output", file, "--columns"]
    read: dict[object, object] = {}
    for number in (40, 600):  # too few to train on, so that prompts are answered first, and enough
        write_rows(tmp_path / "pairs.jsonl", pairs[:number])
        status, _, err = said([*command, columns], capsys)
        assert status == 0, err
        for stage in read_plan(file).stages:
            read[stage.options.get("file", stage.options.get("data"))] = stage.options.get("columns")
        file.unlink()
    assert read[str(tmp_path / "asked.jsonl")] == {"Frage": "question"}
    assert read[str(tmp_path / "pairs.jsonl")] == {
        "Frage": "question", "Answer A": "answer_a", "Answer B": "answer_b", "Urteil": "winner"
    }  # fmt: skip
    wrong = columns.replace("answer_a", "chosen").replace("answer_b", "rejected").replace(",Urteil=winner", "")
    status, out, err = said([*command, wrong], capsys)
    assert status == 0, err
    assert "pairs.jsonl: warning: nothing reads `Urteil`" in " ".join(out.split())
    file.unlink()
    status, _, err = said([*command, columns.replace("Urteil=", "Urteile=")], capsys)
    assert status == 2, err
    assert "has no column Urteile" in err
    status, _, err = said([*command, columns + ",Gewicht=weight"], capsys)
    assert status == 2, err
    assert "none of the files has a column Gewicht" in err


def test_a_split_is_read_and_every_stage_reads_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a saved dataset with splits; a file beside it has none, and is read whole."""
    splits = {name: [{"q": f"{name} {n}?", "good": f"yes {n}", "bad": "no"} for n in range(600)] for name in ("a", "b")}
    datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}).save_to_disk(
        tmp_path / "saved"
    )
    write_rows(tmp_path / "asked.jsonl", [{"prompt": f"What is {n}?"} for n in range(20)])
    saved, file = str(tmp_path / "saved"), tmp_path / "pipeline.yaml"
    command = ["plan", "--model", base_model(), "--data", saved, "--columns", "q=prompt,good=chosen,bad=rejected"]
    asked = ["--data", tmp_path / "asked.jsonl"]
    status, out, err = said([*command, *asked, "--split", "b", "--output", file, "--json"], capsys)
    assert status == 0, err
    assert [(one["path"], one["split"]) for one in json.loads(out)["data"]] == [(saved, "b"), (str(asked[1]), None)]
    split = read_plan(file).stages[0].options
    assert (split["file"], split["split"]) == (saved, "b")
    rows = load_groups(split["file"], split=split["split"], columns=split["columns"])
    assert (len(rows), str(rows[0].prompt)) == (600, "b 0?")
    for wrong, message in (([], "--split"), (["--split", "c"], "no split 'c'")):
        status, _, err = said([*command, *wrong], capsys)
        assert status == 2
        assert message in err
    status, _, err = said(["plan", "--model", base_model(), *asked, "--split", "b"], capsys)
    assert status == 2
    assert "`split` applies to folders and hub datasets only" in err


def test_a_split_that_nobody_named_is_said_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = datasets.Dataset.from_list([{"prompt": f"{n}?", "completion": "yes"} for n in range(60)])
    datasets.DatasetDict(train=rows, other=rows.select([0])).save_to_disk(tmp_path / "saved")
    file = tmp_path / "pipeline.yaml"
    command = ["plan", "--model", base_model(), "--data", tmp_path / "saved", "--output", file]
    status, out, err = said(command, capsys)
    assert status == 0, err
    assert "split train is read; others: other" in " ".join(out.split())
    assert read_plan(file).stages[0].options["file"] == str(tmp_path / "saved")
