"""`assent serve-check`: a folder in order passes; each thing that servers go by, spoiled, is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from assent.commands.serve_check import _lines_of
from assent.models.folder_checks import Check as FolderCheck
from assent.rollouts import vllm_engine
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import comparisons, demonstrations, write_rows

has_vllm = pytest.mark.skipif(not vllm_engine.is_installed(), reason="vLLM is not installed (extra vllm)")
Check = Callable[..., tuple[int, dict[str, Any]]]
WITH = ["--engines", "transformers"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `policy` and `reward`: one step each."""
    from assent import reward, sft

    folder = tmp_path_factory.mktemp("trained")
    text, pairs = demonstrations(folder / "demonstrations.jsonl"), comparisons(folder / "pairs.jsonl")
    tiny_model(folder / "base", hidden_size=64, layers=1)
    common: dict[str, Any] = {"model": folder / "base", "max_steps": 1, "max_length": 64, "learning_rate": 1e-2}
    sft(data=text, output_dir=str(folder / "policy"), **common)
    reward(data=pairs, output_dir=str(folder / "reward"), normalize_rewards=True, **common)
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path) -> Path:
    """A copy, to be spoiled."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    def run(folder: Path, *more: object) -> tuple[int, dict[str, Any]]:
        status, out, err = said(["serve-check", folder, "--device", "cpu", "--json", *(more or WITH)], capsys)
        assert status in (0, 1), err
        document = json.loads(out)
        assert document["differs"] == (status == 1)
        return status, document

    return run


def found(document: dict[str, Any], status: str = "differs") -> set[tuple[str, str]]:
    return {(one["where"], one["name"]) for one in document["checks"] if one["status"] == status}


def edit(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text())
    content.update(values)
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def test_a_policy_in_order(trained: Path, check: Check, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = check(trained / "policy/model")
    assert status == 0, document
    folder = {("folder", name) for name in ("template", "eos", "pad", "tied weights", "dtype", "vocabulary")}
    engine = {("transformers", name) for name in ("prompt tokens", "greedy tokens", "log-probabilities")}
    assert found(document, "passed") == folder | engine
    assert document["kind"] == "policy"
    status, out, _ = said(["serve-check", trained / "policy/model", "--device", "cpu", *WITH], capsys)
    assert status == 0
    assert out.splitlines()[-1] == "serve-check: the engines agree with the trained model"


def test_a_folder_outside_of_a_run_has_no_training_to_compare_with(trained: Path, check: Check) -> None:
    status, document = check(trained / "base")
    assert status == 0
    assert found(document, "note") == {("folder", "template")}


def test_a_template_that_is_not_the_trainings(here: Path, check: Check) -> None:
    template = here / "policy/model/chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "assistant:"))
    assert found(check(here / "policy/model")[1]) == {("folder", "template")}


def test_an_end_that_generation_does_not_know(here: Path, check: Check) -> None:
    edit(here / "policy/model/generation_config.json", eos_token_id=5)
    status, document = check(here / "policy/model")
    assert status == 1
    assert ("folder", "eos") in found(document)
    (told,) = [one["detail"] for one in document["checks"] if one["name"] == "eos"]
    assert "<|im_end|>" in told
    assert "run on" in told


def test_a_pad_that_ends_texts(here: Path, check: Check) -> None:
    edit(here / "policy/model/tokenizer_config.json", pad_token="<|im_end|>")
    assert ("folder", "pad") in found(check(here / "policy/model")[1])


def test_weights_whose_type_is_not_the_stated_one(here: Path, check: Check) -> None:
    edit(here / "policy/model/config.json", dtype="bfloat16")
    assert found(check(here / "policy/model")[1]) == {("folder", "dtype")}


def test_tied_weights_that_the_folder_holds_twice(here: Path, check: Check) -> None:
    file = here / "policy/model/model.safetensors"
    weights = load_file(file)
    tied = json.loads((here / "policy/model/config.json").read_text())["tie_word_embeddings"]
    assert tied == ("lm_head.weight" not in weights)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1.0
    save_file(weights, file, metadata={"format": "pt"})
    edit(here / "policy/model/config.json", tie_word_embeddings=True)
    assert ("folder", "tied weights") in found(check(here / "policy/model")[1])


def test_a_generation_config_that_changes_what_is_greedy(here: Path, check: Check) -> None:
    edit(here / "policy/model/generation_config.json", repetition_penalty=50.0)
    assert found(check(here / "policy/model")[1]) == {("transformers", "greedy tokens")}


def test_a_control_token_in_a_users_text(here: Path, check: Check) -> None:
    """Training reads it as text, servers as the token: their prompts differ."""
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in ("plain", "an <|im_end|> inside")]
    data = write_rows(here / "prompts.jsonl", rows)
    status, document = check(here / "policy/model", *WITH, "--data", data)
    assert status == 1
    assert found(document) == {("transformers", "prompt tokens")}
    assert found(check(here / "policy/model", *WITH, "--data", data, "--num-prompts", 1)[1]) == set()


def test_other_weights_show_in_tokens_or_log_probabilities() -> None:
    from assent.commands.serve_check import Answer, compare_answers, compare_scores

    own = [Answer((1, 2), (3, 4), (-0.5, -0.7))]
    near = [Answer((1, 2), (3, 4), (-0.5, -0.700001))]
    far = [Answer((1, 2), (3, 4), (-0.5, -0.71))]
    states = [
        [c.status for c in compare_answers("e", own, theirs, model=None, dtype="float32")] for theirs in (near, far)
    ]
    assert states == [["passed", "passed", "passed"], ["passed", "passed", "differs"]]
    shorter = [Answer((1, 2), (3,), (-0.5,))]
    assert compare_answers("e", own, shorter, model=None, dtype="float32")[1].status == "differs"
    scores = torch.tensor([[1.0], [-2.0]])
    assert compare_scores("e", scores, scores + 1e-5, dtype="float32").status == "passed"
    assert compare_scores("e", scores, scores + 1e-2, dtype="float32").status == "differs"


def test_tokens_that_are_as_likely_may_part() -> None:
    from types import SimpleNamespace

    from assent.commands.serve_check import Answer, compare_answers

    class Model:
        device = "cpu"

        def __init__(self, gap: float) -> None:
            self.gap = gap

        def __call__(self, input_ids: torch.Tensor) -> Any:
            assert input_ids.tolist() == [[1, 2, 3]]
            logits = torch.zeros(1, 3, 9)
            logits[0, -1, 4] = self.gap
            return SimpleNamespace(logits=logits)

    own, theirs = [Answer((1, 2), (3, 4, 6), (-0.5, -0.7, -0.1))], [Answer((1, 2), (3, 5, 7), (-0.5, -0.7, -0.2))]
    for gap, status in ((1e-6, "passed"), (0.1, "differs")):
        checks = compare_answers("e", own, theirs, model=Model(gap), dtype="float32")
        assert [one.status for one in checks] == ["passed", status, "passed"]


def test_a_reward_model_in_order_and_what_servers_do_not_add(trained: Path, check: Check) -> None:
    status, document = check(trained / "reward/model")
    assert status == 0, document
    assert document["kind"] == "reward model"
    assert ("transformers", "scores") in found(document, "passed")
    assert ("folder", "eos") not in found(document, "passed"), "it generates nothing"
    told = {one["name"]: one["detail"] for one in document["checks"] if one["status"] == "note"}
    assert "Assent adds it" in told["score bias"]
    assert r"'\n'" in told["rendered answer"]


def test_a_reward_model_that_is_read_by_the_wrong_pad(here: Path, check: Check) -> None:
    edit(here / "reward/model/config.json", pad_token_id=7)
    status, document = check(here / "reward/model")
    assert status == 1
    assert {("folder", "pad"), ("transformers", "scores")} & found(document)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["policy/model", "--num-prompts", "2"], "num_prompts has no effect without data"),
        (["no/such/folder"], "does not exist"),
        (["policy/model", "--engines", "sglang"], "sglang"),
        (["reward/model", "--data", "prompts.jsonl"], "a reward model needs completions to score"),
        (["adapter"], "assent merge"),
    ],
)
def test_bad_input_is_status_2_and_says_what_to_do(
    here: Path, argv: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    write_rows(here / "prompts.jsonl", [{"prompt": "one"}])
    (here / "adapter").mkdir()
    (here / "adapter/adapter_config.json").write_text("{}")
    more = [] if "--engines" in argv else WITH
    status, out, err = said(["serve-check", *argv, *more, "--device", "cpu"], capsys)
    assert (status, out) == (2, "")
    assert told in err


def test_vllm_that_is_not_there_is_refused_where_it_is_asked_for_and_else_told(
    trained: Path, check: Check, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, _, err = said(["serve-check", trained / "policy/model", "--engines", "vllm"], capsys)
    assert status == 2
    assert "vLLM is not installed" in err
    status, document = check(trained / "policy/model", "--max-new-tokens", 2)
    assert status == 0
    assert ("vllm", "vllm") in found(document, "note")


@has_vllm
def test_vllm_serves_the_policy(here: Path, check: Check) -> None:
    status, document = check(here / "policy/model", "--engines", "vllm")
    assert status == 0, document
    passed = {("vllm", name) for name in ("prompt tokens", "greedy tokens", "log-probabilities")}
    assert passed <= found(document, "passed")
    edit(here / "policy/model/generation_config.json", repetition_penalty=2.0)
    assert found(check(here / "policy/model", "--engines", "vllm")[1]) == {("vllm", "greedy tokens")}


@has_vllm
def test_vllm_scores_with_the_reward_model(trained: Path, check: Check) -> None:
    status, document = check(trained / "reward/model", "--engines", "vllm")
    assert status == 0, document
    assert ("vllm", "scores") in found(document, "passed")


def test_what_was_found_stands_in_80_columns_below_itself() -> None:
    detail = "a chat template; the folder is not part of a run, so what it was trained with is unknown"
    first, *others = _lines_of(FolderCheck("folder", "template", "note", detail))
    assert first.startswith("note    folder        template           a chat template;")
    assert others
    assert all(line.startswith(" " * 41) and line[41] != " " for line in others)
    assert max(map(len, (first, *others))) <= 80
    assert " ".join(" ".join([first[41:], *others]).split()) == detail
