"""The page says what the folder holds, shows hostile text as text, and needs nothing from outside."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from assent.errors import RunFolderError, StorageError
from assent.reporting import write_report
from assent.reporting.formatting import nats, nats_interval
from assent.reporting.sources import read_source
from assent.reporting.verdict import Verdict, verdict_of
from assent.runs.folder import RunFolder
from assent.runs.log import RunLog
from tests.support.reporting import HOSTILE, PROMPTS, Page, evaluation, write_pipeline, write_run


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> tuple[Path, str]:
    folder = write_pipeline(tmp_path_factory.mktemp("out") / "demo", steps=12)
    return folder, write_report(folder).read_text(encoding="utf-8")


def test_verdict_names_the_winner_with_its_interval(pipeline):
    page = Page(pipeline[1])
    heading = re.search(r"<h1>(.*?)</h1>", pipeline[1])[1]
    assert heading == "PPO beats SFT 79% of the time (95% interval 74% to 84%), at a KL of 4.6 nats."
    assert "PPO is the best of 4 methods" in page.text


def test_table_has_every_policys_figures(pipeline):
    rows = re.findall(r"<tr.*?</tr>", pipeline[1], flags=re.DOTALL)
    cells = [re.sub(r"<[^>]+>|\s+", " ", row).split() for row in rows]
    ppo = next(cell for cell in cells if cell[0] == "PPO")
    for figure in ("0.81", "79%", "4.60", "98%", "0.84", "82%"):
        assert figure in ppo
    best = " ".join(next(cell for cell in cells if cell[:3] == ["Best", "of", "16"]))
    assert "1.83 1.7 to 1.9" in best


def test_rounding_noise_is_no_distance():
    assert (nats(-1.1e-6), nats(None), nats(4.6), nats(0.04)) == ("0", "–", "4.60", "0.04")
    assert nats_interval({"low": -1.3e-6, "high": 2.96}) == "0 to 3.0"


def test_reward_model_stands_beside_the_ceiling(pipeline):
    text = Page(pipeline[1]).text
    assert "74.2%" in text
    assert "ceiling 80.3%" in text
    assert "matches its accuracy" in text


def test_lineage_links_stages(pipeline):
    entries = re.findall(r"<li style[^>]*>(.*?)</li>", pipeline[1], flags=re.DOTALL)
    plain = [" ".join(re.sub(r"<[^>]+>", " ", entry).split()) for entry in entries]
    assert "ppo model ← sft · data ← demonstrations · reward ← reward" in plain
    assert "sft model ← base · data ← demonstrations" in plain
    assert "evaluation sandbox-eval policies ← sft, dpo, ppo · judge ← sandbox:gold" in plain


def test_costs_are_summed_where_they_add_up(pipeline):
    total = re.search(r"<tfoot>.*?</tfoot>", pipeline[1], flags=re.DOTALL)[0]
    cells = re.sub(r"<[^>]+>", " ", total).split()
    # 12 steps of: 8 labels in three stages, 64 completions in one, 0.21 s in four; memory of the largest
    assert cells[:4] == ["All", "288", "768", "768"]
    assert " ".join(cells[-5:]) == "10 s 615 MB 4"


def test_every_stage_has_its_curves(pipeline):
    page = Page(pipeline[1])
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg" and "aria-label" in attributes]
    for expected in ("sft: Loss", "reward: Accuracy", "dpo: Margin", "ppo: KL to the reference", "ppo: Length"):
        assert any(label.startswith(expected) for label in labels), expected
    assert any(label.startswith("Mean score against KL") for label in labels)


def test_ids_are_unique_and_references_resolve(pipeline):
    page = Page(pipeline[1])
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r"url\(#([^)]+)\)", pipeline[1]) + [
        value[1:]
        for _, attributes in page.tags
        for key, value in attributes.items()
        if key.endswith("href") and value[:1] == "#"
    ]
    assert used
    assert set(used) <= set(ids)


def test_nothing_leaves_the_page_and_nothing_runs(pipeline):
    page = Page(pipeline[1])
    assert not {"script", "iframe", "object", "img", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,"))
    style = re.search(r"<style>(.*?)</style>", pipeline[1], flags=re.DOTALL)[1]
    assert "@import" not in style
    assert "url(" not in style
    assert len(pipeline[1].encode()) < 3_000_000


def test_hostile_text_is_shown_as_text(tmp_path):
    folder = write_pipeline(tmp_path / "<b>demo", steps=2, hostile=True, trained=("sft",))
    markup = write_report(folder).read_text(encoding="utf-8")
    page = Page(markup)
    assert "<script" not in markup
    assert not [tag for tag, _ in page.tags if tag in {"script", "img", "b-demo"}]
    assert page.text.count(HOSTILE) >= 3
    assert "49" not in re.sub(r"\d{3,}", "", page.text.split(HOSTILE)[1][:40])


def test_samples_show_the_largest_gains_and_losses(pipeline):
    after = pipeline[1].split("Largest gains")[1]
    gains, losses = after.split("Largest losses")
    scores = [s["completions"]["ppo"]["score"] - s["completions"]["sft"]["score"] for s in evaluation()["samples"]]
    best = max(range(len(scores)), key=scores.__getitem__)
    assert gains.index(PROMPTS[best]) == min(gains.index(prompt) for prompt in PROMPTS if prompt in gains)
    assert PROMPTS[5] in losses
    assert PROMPTS[5] not in gains


def test_a_folder_that_was_moved_still_reports(tmp_path):
    folder = write_pipeline(tmp_path / "here", steps=3, trained=("sft",))
    moved = folder.rename(tmp_path / "there")
    markup = write_report(moved).read_text(encoding="utf-8")
    assert "PPO beats SFT" in markup
    assert "model ← <b>sft</b>" in markup


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ppo", r"The reward of run went from .* by step 30, .* nats from the reference \(means of 5 steps\)\."),
        ("dpo", r"The margin of run went from"),
        ("sft", r"The loss of run went from"),
    ],
)
def test_a_run_without_evaluation_claims_no_more_than_training(tmp_path, command, expected):
    write_run(tmp_path / "run", command=command, config={"model": "m"}, steps=30, seed=0)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert re.search(expected, re.search(r"<h1>(.*?)</h1>", page)[1])
    assert "to know whether the model got better, evaluate it against its start" in page
    assert 'id="methods"' not in page


def test_an_unfinished_run_says_so(tmp_path):
    write_run(tmp_path / "run", command="dpo", config={"model": "m"}, steps=7, seed=0, finish=False)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "<h1>Unfinished: run is at step 7.</h1>" in page


def _logged(folder: Path, *lines: dict[str, float], kept: dict[str, float] | None = None) -> str:
    """The text of the page about a run with these lines of metrics; `kept`: figures of the checkpoint that it kept."""
    run = RunFolder.open(folder, {"model": "m"}, command="dpo", resume=True)
    log = RunLog(run)
    for step, values in enumerate(lines):
        log.metrics(step, values)
    run.finish({"model_path": "m", "steps": len(lines) - 1, "metrics": {**lines[-1], **(kept or {})}})
    run.close()
    return " ".join(Page(write_report(folder).read_text(encoding="utf-8")).text.split())


def test_a_run_leads_with_its_held_out_figure_and_the_interval_and_never_with_the_last_batch(tmp_path):
    ends = {"eval_rewards/accuracies_low": 0.6, "eval_rewards/accuracies_high": 0.72}
    lines = [{"rewards/accuracies": 0.125, "rewards/margins": 9.75, "loss": 0.5} for _ in range(4)]
    lines[0] = {"eval_rewards/accuracies": 0.5, "eval_loss": 0.69}
    lines[3] |= {"eval_rewards/accuracies": 0.66, "eval_loss": 0.61, **ends}
    text = _logged(tmp_path / "run", *lines)
    assert "run ranks 66% of held-out pairs as labelled (95% interval 60% to 72%); before training it was 50%." in text
    assert "Accuracy (held out)" in text
    assert "50% → 66% 95% interval 60% to 72%" in text
    assert "Loss (held out)" in text
    assert text.index("Accuracy (held out)") < text.index("Margin")
    assert "training, single steps" in text  # of three steps no mean is worth the name


def test_the_held_out_figure_is_that_of_the_model_which_was_kept(tmp_path):
    lines = [{"eval_loss": 0.69}, {"loss": 0.5, "eval_loss": 0.6}, {"loss": 0.4, "eval_loss": 0.8}]
    text = _logged(tmp_path / "run", *lines, kept={"eval_loss": 0.6})
    assert "The held-out loss of run is 0.60; before training it was 0.69." in text


def test_without_held_out_data_means_of_steps_lead(tmp_path):
    """Twelve steps: five at each end, of which the very last is far off."""
    lines = [{"loss": 9.0}, *({"loss": 2.0} for _ in range(6)), *({"loss": 1.0} for _ in range(4)), {"loss": 5.0}]
    text = _logged(tmp_path / "run", *lines)
    assert "The loss of run went from 3.400 to 1.800 by step 11 (means of 5 steps)." in text


def test_small_figures_keep_two_digits(tmp_path):
    text = _logged(
        tmp_path / "run", *({"rewards/margins": 0.0, "loss": 0.69} for _ in range(2)), {"rewards/margins": -3.7e-4}
    )
    assert "The margin of run went from 0 to −0.00037" in text


def _disagreeing(folder: Path, sampled: tuple[float, float, float], greedy: tuple[float, float, float]) -> Verdict:
    path = folder / "evaluation" / "evaluation.json"
    record = json.loads(path.read_text())
    for policy in record["policies"]:
        for name, rate in (("sampled", sampled), ("greedy", greedy)):
            if policy[name] is not None and policy[name]["win_rate"] is not None:
                policy[name]["win_rate"] |= dict(zip(("value", "low", "high"), rate, strict=True))
    record["policies"] = [policy for policy in record["policies"] if policy["name"] in ("sft", "ppo")]
    path.write_text(json.dumps(record))
    return verdict_of(read_source(folder))


def test_the_verdict_says_where_greedy_answers_disagree(tmp_path):
    folder = write_pipeline(tmp_path / "demo", steps=2, trained=())
    better, worse, no_worse = (0.58, 0.53, 0.63), (0.29, 0.18, 0.42), (0.47, 0.38, 0.56)
    found = _disagreeing(folder, better, worse)
    assert found.sentence.endswith("Its greedy answers disagree: greedy ones win 29% of the time (18% to 42%).")
    assert found.tone == "open"  # no page says Better above that
    found = _disagreeing(folder, better, no_worse)
    assert found.sentence.endswith("do not show this: greedy ones win 47% of the time (38% to 56%).")
    assert _disagreeing(folder, worse, better).tone == "worse"
    open_ones = (0.52, 0.49, 0.55)
    assert "greedy" in _disagreeing(folder, open_ones, worse).sentence
    for agreed in ((better, (0.6, 0.5, 0.7)), (open_ones, no_worse), (worse, no_worse)):
        assert "greedy" not in _disagreeing(folder, *agreed).sentence


def _with_rates(folder: Path, *, value: float, low: float, high: float) -> str:
    path = folder / "evaluation" / "evaluation.json"
    record = json.loads(path.read_text())
    for policy in record["policies"]:
        if policy["sampled"]["win_rate"] is not None:
            policy["sampled"]["win_rate"] |= {"value": value, "low": low, "high": high}
    path.write_text(json.dumps(record))
    return verdict_of(read_source(folder)).sentence


def test_verdict_does_not_claim_what_the_interval_does_not_show(tmp_path):
    folder = write_pipeline(tmp_path / "demo", steps=2, trained=())
    assert _with_rates(folder, value=0.53, low=0.48, high=0.58).startswith("No method clearly beats SFT")
    assert _with_rates(folder, value=0.4, low=0.35, high=0.45).startswith("No method beats SFT: the best one,")


def test_policies_with_too_few_prompts_have_no_interval(tmp_path):
    folder = write_pipeline(tmp_path / "demo", steps=2, trained=())
    heading = _with_rates(folder, value=0.9, low=0.0, high=1.0)
    assert "95% interval 0% to 100%" in heading
    path = folder / "evaluation" / "evaluation.json"
    record = json.loads(path.read_text())
    for policy in record["policies"]:
        policy["sampled"]["gold"] |= {"low": None, "high": None, "standard_error": None}
    path.write_text(json.dumps(record))
    assert "too few" in write_report(folder).read_text(encoding="utf-8")


def test_the_same_folder_gives_the_same_page(pipeline):
    folder, page = pipeline
    assert write_report(folder).read_text(encoding="utf-8") == page
    assert not list(folder.glob(".report*"))


def test_folders_that_cannot_be_reported_are_refused(tmp_path):
    with pytest.raises(RunFolderError, match="not the folder of a run"):
        write_report(tmp_path)
    write_run(tmp_path / "run", command="dpo", config={"model": "m"}, steps=2, seed=0)
    (tmp_path / "run" / "evaluation.json").write_text("{")
    with pytest.raises(RunFolderError, match="cannot be read"):
        write_report(tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").write_text('{"schema": 99}')
    with pytest.raises(RunFolderError, match="schema"):
        write_report(tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").unlink()
    (tmp_path / "run" / "report.html").mkdir()
    with pytest.raises(StorageError):
        write_report(tmp_path / "run")


def test_reporting_needs_neither_torch_nor_transformers(pipeline):
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'accelerate', 'datasets'): sys.modules[name] = None\n"
        "from assent.reporting import write_report\n"
        f"print(write_report({str(pipeline[0])!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("report.html")
