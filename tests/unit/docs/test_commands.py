"""Every command and every Python block of the README, docs/ and examples/ runs, on files that are small enough.

What is long is shortened by SHORTER: a command's name to arguments that are added to it, or that stand in its place.
"""

from __future__ import annotations

import gzip
import re
import runpy
import shutil
from pathlib import Path

import datasets
import pytest

from assent.config.loading import read_yaml
from assent.feedback.store.database import open_database
from assent.feedback.store.people import ensure_annotator
from tests.support.cli import said
from tests.support.docs import PAGES, ROOT, blocks, commands
from tests.support.feedback import label_all
from tests.support.models import finished_run, tiny_model
from tests.support.rows import comparisons, demonstrations, thumbs, write_rows
from tests.support.traffic import logged, release

STEPS = ["--max-steps", "1"]
ANSWERS = ["--max-new-tokens", "4"]
SHORTER = {
    "sft": STEPS,
    "reward": STEPS,
    "dpo": STEPS,
    "kto": STEPS,
    "online-dpo": ["--total-steps", "1", "--batch-size", "4", *ANSWERS],
    "ppo": ["--total-steps", "1", "--batch-size", "2", *ANSWERS],
    "rloo": ["--total-steps", "1", "--batch-size", "2", *ANSWERS],
    "grpo": ["--total-steps", "1", "--batch-size", "2", "--num-completions", "2", *ANSWERS],
    "eval": ["--num-prompts", "2", "--samples-per-prompt", "2", *ANSWERS],
    "eval --reward-model": [],
    "frontier": ["--best-of-n", "4", "--samples-per-prompt", "1", "--num-prompts", "3", *ANSWERS],
    "frontier --sandbox": ["--fast"],
    "compare": [
        "--num-test-prompts",
        "2",
        "--samples-per-prompt",
        "1",
        "--n",
        "2",
        "--options.ppo",
        '{"total_steps": 1, "batch_size": 2}',
        *ANSWERS,
    ],
    "sample": ANSWERS,
    "serve-check": ["--engines", "transformers", "--max-new-tokens", "2"],
    "best-of-n": ANSWERS,
    "best-of-n --samples": [],
    "iterate": [
        *("--rounds", "1", "--set", "samples.max_new_tokens=4", "--set", "dpo.max_steps=1"),
        *("--set", "evaluation.samples_per_prompt=2", "--set", "evaluation.max_new_tokens=4"),
    ],
    "update next.yaml": [
        *("--set", "train.max_steps=1", "--set", "train.eval_steps=1", "--set", "data.eval_prompts=12"),
        *("--set", "evaluation.samples_per_prompt=1"),
        *("--set", "evaluation.max_new_tokens=2", "--set", "min_win_rate=0", "--set", "min_before=0"),
        *("--set", "kl_budget=1e6"),
    ],
    "label": ["--no-serve"],
    "label --prompts": ["--no-serve"],
    **{f"label --{name}": [] for name in ("export", "import-labels", "invite", "backup", "restore")},
    "run examples/hh/pipeline.yaml": [
        *("--fast", "--set", "base.vocab_size=300", "--set", "base.layers=1"),
        *("--set", "base.hidden_size=16", "--set", "base.heads=2", "--set", "evaluation.samples_per_prompt=2"),
    ],
}
DEMO = ["run", str(ROOT / "src/assent/commands/demo.yaml"), "--fast"]
for small in (
    *("world.num_demonstrations=32", "world.num_prompts=8", "world.num_test_prompts=4", "labels.num_pairs=8"),
    *("labels.num_test_pairs=4", "sft.num_train_epochs=1", "reward.num_train_epochs=1", "ppo.total_steps=1"),
    *("ppo.batch_size=4", "evaluation.samples_per_prompt=1"),
):
    DEMO += ["--set", small]
"""`assent demo` runs this file; its own numbers cannot be set, so here the file runs with smaller ones."""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the pages name: models, data, a judge, a pipeline, and beside the folder the examples' data."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "cache"))
    demonstrations(folder / "demonstrations.jsonl")
    tiny_model(folder / "my-model", context=1024)
    tiny_model(folder / "my-base", context=1024)
    _forget_template(folder / "my-base")
    comparisons(folder / "pairs.jsonl")
    thumbs(folder / "thumbs.jsonl")
    comparisons(folder / "held-out.jsonl", count=2, first=6)
    comparisons(folder / "prompts.jsonl", count=4)
    shutil.copy(ROOT / "tests/support/foreign/llama_factory_dpo.yaml", folder / "theirs.yaml")
    answers = [{"question": f"{n}?", "response_j": f"yes {n}", "response_k": f"no {n}"} for n in range(6)]
    write_rows(folder / "answers.jsonl", answers)
    named = {"Frage": "1?", "Antwort 1": "yes", "Antwort 2": "no", "Urteil": "Antwort 1"}
    (folder / "export.csv").write_text("\n".join(",".join(row) for row in (named, named.values())) + "\n")
    (folder / "votes.csv").write_text("q;left;right;vote\n1?;yes;no;left\n2?;yes;no;both_ok\n")
    chats = [{"ask": f"{n}?", "reply": "yes", "rating": f"thumbs_{way}"} for n, way in enumerate(("up", "down"))]
    write_rows(folder / "chats.jsonl", chats)
    outputs = [{"text": "yes", "model": "x"}, {"text": "no", "model": "y"}]
    turns = [{"role": "user", "content": "1?"}]
    write_rows(folder / "nested.jsonl", [{"input": {"messages": turns}, "outputs": outputs, "label": {"preferred": 0}}])
    splits = {"train_prefs": answers[:4], "test_prefs": answers[4:]}
    renamed = {"question": "prompt", "response_j": "chosen", "response_k": "rejected"}
    tables = {name: datasets.Dataset.from_list(rows).rename_columns(renamed) for name, rows in splits.items()}
    datasets.DatasetDict(tables).save_to_disk(folder / "my-dataset")
    write_rows(folder / "release.jsonl", release())
    finished_run(folder / "runs" / "release", folder / "my-model")
    (folder / "logs").mkdir()
    write_rows(folder / "logs" / "app.jsonl", logged(days=2))
    prompt = {"prompt": [{"role": "user", "content": "1?"}]}
    answers_of_one = [[{"role": "assistant", "content": text}] for text in ("yes", "no")]
    write_rows(folder / "two-answers.jsonl", [{**prompt, "completion": answer} for answer in answers_of_one])
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    write_rows(folder / "logps.jsonl", [dict(zip(names, (-9.0, -8.5 + i, -9.5, -8.0), strict=True)) for i in range(3)])
    for block in [
        block for page in ("extending", "add-a-rule") for block in blocks(ROOT / f"docs/{page}.md", "python")
    ]:
        if name := re.match(r"# (my_\w+\.py)\n", block):
            (folder / name[1]).write_text(block)
    (folder / "pipeline.yaml").write_text(blocks(ROOT / "docs/pipelines.md", "yaml")[0])
    (folder / "loop.yaml").write_text(blocks(ROOT / "docs/iterate.md", "yaml")[0])
    shutil.copytree(ROOT / "examples", folder / "examples")
    data = tmp_path / "shared" / "data"
    data.mkdir(parents=True)
    for split, file in (("train", "pairs.jsonl"), ("test", "held-out.jsonl")):
        (data / f"hh-harmless.{split}.jsonl.gz").write_bytes(gzip.compress((folder / file).read_bytes()))
    return folder


def _forget_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink()


def shortened(words: list[str]) -> list[str]:
    if words[0] == "demo":
        folder = words[words.index("--output-dir") + 1] if "--output-dir" in words else "out/demo-fast"
        return [*DEMO, "--output-dir", folder]
    return words + SHORTER.get(" ".join(words[:2]), SHORTER.get(words[0], []))


def people_label(store: str) -> None:
    """What people do while `assent label` serves the page."""
    with open_database(store) as database:
        label_all(database, ensure_annotator(database, "mia").id)


def test_every_command_of_the_pages_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    done = 0
    for page in PAGES:
        for program, *words in commands(page):
            if program == "make":
                assert set(words) <= targets, (page.name, words)
                continue
            if program == "python":  # an example, which has a test of its own
                assert (ROOT / words[0]).is_file(), (page.name, words)
                continue
            assert program == "assent", f"{page.name}: a command that this test cannot judge: {program}"
            status, _, err = said(shortened(words), capsys)
            # the small files overlap; the small model's best of 16 gains little
            may_find = words[:2] in (["data", "check"], ["best-of-n", "--samples"]) or words[0] in (
                "doctor",
                "judge",
                "monitor",
            )
            fault_is_expected = may_find and status == 1
            assert status == 0 or fault_is_expected, f"{page.name}: {' '.join(words)}\n{err}"
            if words[0] == "label" and {"--completions", "--prompts"} & set(words):
                people_label(words[words.index("--store") + 1])
            done += 1
    assert done > 15  # the pages were found and parsed


def test_every_python_block_of_the_pages_runs(workplace: Path) -> None:
    shutil.copytree("my-model", "runs/sft/model")
    found = [block for page in PAGES for block in blocks(page, "python")]
    assert len(found) >= 3
    for number, block in enumerate(found):
        script = workplace / f"block_{number}.py"
        script.write_text(block)
        runpy.run_path(str(script))


def test_every_yaml_block_of_the_pages_is_a_configuration(tmp_path: Path) -> None:
    for page in PAGES:
        for block in blocks(page, "yaml"):
            file = tmp_path / "block.yaml"
            file.write_text(block)
            assert read_yaml(file)
