"""Model cards: the hub reads them, they say what was measured with its interval, and nobody's own is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from assent.reporting.model_cards import update_cards
from assent.runs.model_card import MARK, write_card
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.reporting import evaluation, write_pipeline
from tests.support.rows import comparisons, demonstrations

MANIFEST = {
    "command": "dpo",
    "config": {"model": "owner/base", "data": "owner/pairs", "beta": 0.1, "note": "a|b <i>", "output_dir": "x"},
    "hashes": {"train data": "ab12"},
    "versions": {"assent": "0"},
    "git_revision": None,
}
METRICS = {
    "eval_rewards/accuracies": 0.7,
    "eval_rewards/accuracies_low": 0.6,
    "eval_rewards/accuracies_high": 0.8,
    "eval_loss": "nan",
    "loss": 0.5,
    "cost/seconds": 12.0,
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run" / "model").mkdir(parents=True)
    return tmp_path / "run"


def test_the_hub_reads_the_card(run: Path) -> None:
    data = ModelCard.load(write_card(run, MANIFEST, METRICS)).data
    assert (data.library_name, data.pipeline_tag, data.base_model) == ("transformers", "text-generation", "owner/base")
    assert data.datasets == ["owner/pairs"]
    assert data.tags == ["assent", "dpo"]
    assert data.license is None
    (result,) = data.eval_results
    assert result.dataset_name == "owner/pairs"
    assert (result.metric_type, result.metric_value) == ("eval_rewards/accuracies", 0.7)
    assert (result.metric_args["low"], result.metric_args["high"]) == (0.6, 0.8)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"eval_data": "/somewhere/held-out.jsonl"}, "held-out.jsonl"),
        ({"eval_fraction": 0.1}, "owner/pairs, 10% held out"),
        ({"eval_split": "test"}, "owner/pairs, split test"),
    ],
)
def test_the_held_out_data_has_its_name(run: Path, options: dict[str, object], name: str) -> None:
    manifest = {**MANIFEST, "config": {**MANIFEST["config"], **options}}
    (result,) = ModelCard.load(write_card(run, manifest, METRICS)).data.eval_results
    assert result.dataset_name == name


def test_what_was_not_measured_is_said(run: Path) -> None:
    text = write_card(run, MANIFEST, {"loss": 0.5}).read_text()
    assert "Nothing was measured on held-out data" in text
    assert "| note | a\\|b &lt;i> |" in text
    assert "Not stated." in text


def test_adapters_and_reward_models_open_with_their_own_classes(run: Path) -> None:
    (run / "model" / "adapter_config.json").write_text("{}")
    card = ModelCard.load(write_card(run, {**MANIFEST, "command": "reward"}, {}))
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-classification")
    assert card.data.tags == ["assent", "reward", "reward-model", "lora"]
    assert "AutoPeftModelForSequenceClassification.from_pretrained" in card.text


def test_an_ensemble_of_adapters_says_how_many_and_where_they_are(run: Path) -> None:
    for number in (1, 2):
        (run / "model" / f"member-{number}").mkdir()
        (run / "model" / f"member-{number}" / "adapter_config.json").write_text("{}")
    card = ModelCard.load(write_card(run, {**MANIFEST, "command": "reward"}, {}))
    assert card.data.library_name == "peft"
    assert "an ensemble of 2 adapters on one base" in card.text
    assert 'folder = "member-1"  # in this folder; up to member-2' in card.text


def test_base_and_licence_are_found_through_earlier_runs(run: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    sft = tmp_path / "sft"
    (sft / "model").mkdir(parents=True)
    (sft / "run.json").write_text(json.dumps({"config": {"model": str(base)}}))
    config = {**MANIFEST["config"], "model": str(sft / "model")}
    card = ModelCard.load(write_card(run, {**MANIFEST, "config": config}, {}))
    assert card.data.license == "mit"
    assert card.data.base_model is None  # a folder is no name on the hub
    assert "sft/model` ←" in card.text
    (sft / "run.json").write_text(json.dumps({"config": {"model": "owner/base"}}))
    assert ModelCard.load(write_card(run, {**MANIFEST, "config": config}, {})).data.base_model == "owner/base"


def test_a_licence_that_is_stated_stands_beside_those_that_hold(run: Path, tmp_path: Path) -> None:
    base, data = tmp_path / "base", tmp_path / "data"
    for folder, name in ((base, "apache-2.0"), (data, "cc-by-4.0")):
        folder.mkdir()
        (folder / "README.md").write_text(f"---\nlicense: {name}\n---\n")
    config = {**MANIFEST["config"], "model": str(base), "data": str(data)}
    found = ModelCard.load(write_card(run, {**MANIFEST, "config": config}, {}))
    assert found.data.license == "apache-2.0"
    assert "The licence of the data (cc-by-4.0, according to its card) also applies." in found.text
    own = ModelCard.load(write_card(run, {**MANIFEST, "config": {**config, "license": "mit"}}, {}))
    assert own.data.license == "mit"
    assert "mit, according to whoever trained it. The licence of the base model (apache-2.0, according to" in own.text
    assert "and the licence of the data (cc-by-4.0, according to its card) also apply." in own.text
    alone = write_card(run, {**MANIFEST, "config": {**MANIFEST["config"], "license": "mit"}}, {}).read_text()
    assert "The licence of the base model and the licence of the data also apply." in alone


def test_a_card_of_ones_own_is_left_alone(run: Path) -> None:
    path = write_card(run, MANIFEST, METRICS)
    path.write_text(path.read_text().replace(MARK, "") + "my words")
    assert write_card(run, MANIFEST, {}) is None
    assert path.read_text().endswith("my words")


def test_a_report_brings_the_cards_up_to_date(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "here", steps=3)
    for name in ("sft", "dpo", "ppo"):
        (folder / name / "model").mkdir()
    record = json.loads((folder / "pipeline.json").read_text())
    folder = folder.rename(tmp_path / "there")  # moved since
    written = update_cards(folder)
    assert sorted(path.parent.parent.name for path in written) == ["dpo", "ppo", "sft"]
    ppo = ModelCard.load(folder / "ppo" / "model" / "README.md").data.eval_results
    rate = next(policy for policy in evaluation()["policies"] if policy["name"] == "ppo")["sampled"]["win_rate"]
    found = next(result for result in ppo if result.metric_type == "win_rate")
    assert (found.metric_value, found.metric_args["low"]) == (rate["value"], rate["low"])
    assert found.dataset_name == "200 prompts, scored by sandbox:gold"
    assert record["stages"]


def test_models_of_unfinished_runs_and_from_elsewhere_get_none(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "demo", steps=3, trained=("dpo",))
    for name in ("sft", "dpo"):
        (folder / name / "model").mkdir(parents=True)
    record = json.loads((folder / "dpo" / "run.json").read_text())
    (folder / "dpo" / "run.json").write_text(json.dumps(record | {"status": "running", "result": None}))
    assert update_cards(folder) == []
    assert not list(folder.rglob("README.md"))


def test_every_trained_model_has_its_card(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    demonstrations(tmp_path / "demonstrations.jsonl")
    model = tiny_model(tmp_path / "my-model", context=1024)
    pairs = comparisons(tmp_path / "pairs.jsonl")
    held_out = comparisons(tmp_path / "held-out.jsonl", count=4, first=6)
    given = ["--model", model, "--data", pairs, "--eval-data", held_out, "--output-dir", "dpo", "--max-steps", "1"]
    given += ["--license", "cc-by-nc-4.0"]
    status, _, err = said(["dpo", *given], capsys)
    assert status == 0, err
    card = ModelCard.load(tmp_path / "dpo" / "model" / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    types = {result.metric_type for result in card.data.eval_results}
    assert {"eval_loss", "eval_rewards/accuracies"} <= types
    assert str(tmp_path) not in card.content
    before = card.content
    status, out, err = said(["report", "dpo"], capsys)
    assert (status, out.strip()) == (0, "report: dpo/report.html"), err
    assert (tmp_path / "dpo" / "model" / "README.md").read_text() == before
