"""What a run says of its data before it begins, and what it refuses (law 12)."""

from __future__ import annotations

import json

import datasets
import pytest

from assent.config.evaluation import EvalConfig
from assent.config.online import GrpoConfig
from assent.config.stages import PreferenceConfig, SftConfig
from assent.errors import DataError
from assent.stages.selecting import to_comparisons, to_demonstrations, to_prompts
from assent.stages.stage_data import read_stage_data
from assent.types import PromptGroup
from tests.support.tokenizers import byte_bpe

USER = {"role": "user", "content": "What is two and two?", "name": "ann"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    byte_bpe().save_pretrained(folder)
    return str(folder)


def read(model, tmp_path, rows, *, select=to_demonstrations, kind=SftConfig, **more):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = kind(model=model, data=str(path), output_dir=str(tmp_path / "run"), **more)
    return read_stage_data(config, model=model, sources={"train": str(path)}, select=select)


def test_columns_and_keys_that_nothing_reads_are_told_once(model, tmp_path):
    answer = {"role": "assistant", "content": "Four."}
    rows = [{"messages": [USER, answer], "id": n, "meta": {"a": n}, "note": None} for n in range(20)]
    lines = [line.strip() for line in read(model, tmp_path, rows).lines()]
    assert lines.count("not read: id, meta (20 rows each)") == 1
    assert lines.count("not read by the chat template: name (20 rows)") == 1
    assert not any("note" in line for line in lines)


def test_columns_are_left_to_a_reward(model, tmp_path):
    rows = [{"prompt": "What is two and two?", "solution": "4"}] * 2
    lines = read(
        model, tmp_path, rows, select=to_prompts, kind=GrpoConfig, reward={"reward": "length", "maximum": 60}
    ).lines()
    assert "  left to the reward: solution (2 rows)" in lines
    assert not any("not read" in line for line in lines)


@pytest.mark.parametrize("columns", [{"images": ["cat.png"]}, {"is_correct": False}])
def test_groups_from_python_are_held_to_the_same(model, tmp_path, columns):
    config = SftConfig(model=model, data="x.jsonl", output_dir=str(tmp_path / "run"))
    given = [PromptGroup(prompt="p", completions=("c",), columns=columns, source="mine 1")]
    with pytest.raises(DataError, match=f"mine 1: `{next(iter(columns))}`"):
        read_stage_data(config, model=model, sources={"train": given}, select=to_demonstrations)


@pytest.mark.parametrize(("ties", "end"), [(3, ":3)"), (4, ", …)")])
def test_the_rows_of_a_file_add_up_and_a_cut_list_says_so(model, tmp_path, ties, end):
    pair = {"prompt": "What is two and two?", "chosen": " Four.", "rejected": " Five."}
    rows = [{"prompt": "Hi", "completions": [" a", " b"], "ranking": [1, 1]}] * ties
    rows += [{"prompt": "Hi", "completions": [" a", " b"], "ranking": [1, 2]}] * 5
    lines = read(model, tmp_path, rows, select=to_comparisons, kind=PreferenceConfig).lines()
    assert lines[0].endswith(f", {ties + 5} rows")
    assert f"  rows: 5 of {ties + 5} used, 0 of them shortened, {ties} refused" in lines
    (refused,) = [line for line in lines if line.startswith("  refused: ")]
    assert refused.startswith(f"  refused: {ties} (a tie")
    assert refused.endswith(end)
    lines = read(model, tmp_path, [pair, pair | {"rejected": " Four."}], select=to_comparisons, kind=PreferenceConfig)
    assert "  rows: 1 of 2 used, 0 of them shortened, 1 refused" in lines.lines()


def test_clean_data_has_no_such_line(model, tmp_path):
    lines = read(model, tmp_path, [{"prompt": "What is two and two?", "completion": " Four."}]).lines()
    assert not any("not read" in line or "twice" in line for line in lines)


def test_raw_completions_that_repeat_their_prompts_are_refused_or_told(model, tmp_path):
    twice = {"prompt": "What is two and two?", "completion": "What is two and two? Four."}
    once = {"prompt": "What is two and two?", "completion": " Four."}
    with pytest.raises(DataError, match=r"stands twice.*2 of 3 rows") as raised:
        read(model, tmp_path, [twice, once, twice])
    assert "cut the prompt from the beginning of each completion" in str(raised.value)
    assert any("1 of 2 rows" in line for line in read(model, tmp_path, [twice, once]).lines())


def saved(folder, **splits):
    rows = {name: [{"q": f"{name} {n}?", "completion": f"{n}"} for n in range(2)] for name in splits}
    tables = {name: datasets.Dataset.from_list(part) for name, part in rows.items()}
    datasets.DatasetDict(tables).save_to_disk(folder)
    return str(folder)


def opened(model, path, tmp_path, **options):
    given = {"model": model, "data": path, "output_dir": str(tmp_path / "run"), "columns": {"q": "prompt"}, **options}
    config = SftConfig(**given)
    sources = {"train": config.data, "eval": config.eval_data}
    return read_stage_data(config, model=model, sources=sources, select=to_demonstrations)


def test_splits_are_named_and_held_out_data_is_another_split_of_the_same(model, tmp_path):
    path = saved(tmp_path / "saved", train_prefs=2, test_prefs=2)
    data = opened(model, path, tmp_path, split="train_prefs", eval_split="test_prefs")
    assert [group.prompt for group in data.train.groups] == ["train_prefs 0?", "train_prefs 1?"]
    assert [group.prompt for group in data.parts["eval"].groups] == ["test_prefs 0?", "test_prefs 1?"]
    lines = data.lines()
    assert f"train data: {path}[train_prefs], 2 rows" in lines
    assert "  columns: q as prompt" in lines
    with pytest.raises(DataError, match=r"no split 'test_pref'(.|\n)*train_prefs, test_prefs"):
        opened(model, path, tmp_path, split="train_prefs", eval_split="test_pref")


def test_a_split_that_nobody_named_is_named_in_the_log(model, tmp_path):
    path = saved(tmp_path / "saved", train=2, test=2)
    assert "  split train is read; others: test" in opened(model, path, tmp_path).lines()


def test_an_evaluation_reads_the_split_that_it_names(model, tmp_path):
    path = saved(tmp_path / "saved", train=2, b=2)
    config = EvalConfig(data=str(path), reward_model="rm", split="b", columns={"q": "prompt"})
    found = read_stage_data(config, model=model, sources={"comparisons": str(path)}, select=lambda g: (list(g), {}))
    assert [group.prompt for group in found.parts["comparisons"].groups] == ["b 0?", "b 1?"]


def test_the_split_of_other_held_out_data(model, tmp_path):
    own, other = saved(tmp_path / "own", train=2), saved(tmp_path / "other", a=2, b=2)
    data = opened(model, own, tmp_path, eval_data=other, eval_split="b")
    assert data.parts["eval"].groups[0].prompt == "b 0?"
