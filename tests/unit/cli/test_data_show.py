"""`data show`: rows as training reads them: turns, tokens, the loss mask, EOS, what is cut; legible without colour."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from assent.cli import data as data_cli
from assent.config.stages import KtoConfig, PreferenceConfig, RewardConfig, SftConfig
from assent.models.batch import TokenGroup
from assent.stages import kto, preference, reward
from assent.stages.selecting import demonstrations_of
from assent.stages.stage_data import read_stage_data
from tests.support.cli import files_in, said
from tests.support.models import tiny_model
from tests.support.rows import answer, comparisons, question, write_rows

CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "what is 1 plus 1?"},
    {"role": "assistant", "content": "it is 2."},
    {"role": "user", "content": "and 2 plus 2?"},
    {"role": "assistant", "content": "it is 4."},
]
END, COLOUR = "<|im_end|>", re.compile("\x1b\\[[0-9;]*m")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("show")
    tiny_model(folder / "model")
    comparisons(folder / "pairs.jsonl", 6)
    write_rows(folder / "chat.jsonl", [{"messages": CHAT}])
    thumbs = [{"prompt": question(i), "completion": answer("no"), "label": i % 2 == 0} for i in range(4)]
    write_rows(folder / "thumbs.jsonl", thumbs)
    write_rows(folder / "prompts.jsonl", [{"prompt": question(i)} for i in range(4)])
    write_rows(folder / "rankings.jsonl", [
        {"prompt": question(0), "completions": [answer(t) for t in ("no", "it is 0.", "0")], "ranking": [3, 1, 2]}
    ])  # fmt: skip
    steps = {"prompt": question(1), "completions": ["1 plus 1", "it is 2."], "labels": [True, False]}
    write_rows(folder / "steps.jsonl", [steps])
    return folder


def shown(home: Path, capsys: pytest.CaptureFixture[str], file: str, *more: object) -> dict[str, Any]:
    status, out, err = said(["data", "show", home / file, "--model", home / "model", "--json", *more], capsys)
    assert status == 0, err
    return dict(json.loads(out))


def text(home: Path, capsys: pytest.CaptureFixture[str], file: str, *more: object, status: int = 0) -> str:
    found, out, err = said(["data", "show", home / file, "--model", home / "model", *more], capsys)
    assert found == status, err
    return out


def ids(tokens: list[dict[str, Any]]) -> list[int]:
    return [token["id"] for token in tokens]


def read(home: Path, file: str, stage: str, **options: Any) -> list[TokenGroup]:
    """What training reads from the whole file."""
    given = {"model": str(home / "model"), "data": str(home / file), "output_dir": "", **options}
    configs: dict[str, Any] = {"sft": SftConfig, "dpo": PreferenceConfig, "kto": KtoConfig, "reward": RewardConfig}
    config = configs[stage].model_validate(given)
    select = {
        "sft": lambda options: demonstrations_of(options.train_on),
        "dpo": preference.select_for,
        "kto": kto.select_for,
        "reward": reward.select_for,
    }
    more = {"train_on": config.train_on} if stage == "sft" else {}
    return read_stage_data(
        config, model=config.model, sources={"train": config.data}, select=select[stage](config), **more
    ).train.tokens


@pytest.mark.parametrize(
    ("file", "stage", "given", "options"),
    [
        ("pairs.jsonl", "dpo", [], {}),
        ("pairs.jsonl", "sft", ["--stage", "sft"], {}),
        ("pairs.jsonl", "dpo", ["--max-length", 28], {"max_length": 28}),
        ("chat.jsonl", "sft", [], {}),
        ("chat.jsonl", "sft", ["--train-on", "last"], {"train_on": "last"}),
        ("chat.jsonl", "sft", ["--train-on", "each"], {"train_on": "each"}),
        ("chat.jsonl", "sft", ["--keep-template-tail"], {"keep_template_tail": True}),
        ("thumbs.jsonl", "kto", [], {}),
        ("rankings.jsonl", "dpo", [], {"loss_type": "plackett_luce"}),
    ],
)
def test_ids_and_mask_are_those_of_training(
    file: str, stage: str, given: list[object], options: dict[str, Any], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = shown(home, capsys, file, *given)
    assert document["stage"] == stage
    trained = read(home, file, stage, **options)
    assert len(document["rows"]) == min(3, len(trained))
    for row, group in zip(document["rows"], trained, strict=False):
        assert row["source"] == group.source
        assert tuple(ids(row["prompt"]["tokens"])) == group.prompt_ids
        assert not any(token["loss"] for token in row["prompt"]["tokens"])
        for completion, tokens in zip(row["completions"], group.completions, strict=True):
            assert tuple(ids(completion["tokens"])) == tokens.ids
            mask = tokens.mask or (True,) * len(tokens.ids)
            assert tuple(token["loss"] for token in completion["tokens"]) == mask
            assert sum(turn["tokens"] for turn in completion["turns"]) == len(tokens.ids)


def test_turns_have_their_roles_and_their_marks(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = text(home, capsys, "chat.jsonl")
    [completion] = shown(home, capsys, "chat.jsonl")["rows"][0]["completions"]
    assert [turn["roles"] for turn in completion["turns"]] == [["assistant"], ["user"], ["assistant"]]
    assert "prompt: system, user; " in out
    assert "ends with EOS" in out
    lines = out.splitlines()
    marked = [i for i, line in enumerate(lines) if line and set(line) <= set(" ^E")]
    assert len(marked) == 2
    for i, end in zip(marked, ("2.", "4."), strict=True):
        said_text = lines[i - 1].replace("│", "")
        assert said_text.strip() == f"it is {end}{END}"
        assert len(lines[i]) == len(lines[i - 1])
        assert lines[i].endswith(" " + "E" * len(END))
    last = shown(home, capsys, "chat.jsonl", "--train-on", "last")["rows"][0]
    assert last["prompt"]["roles"] == ["system", "user", "assistant", "user"]


def test_what_is_cut_is_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = shown(home, capsys, "pairs.jsonl", "--row", 1)["rows"][0]
    cut = shown(home, capsys, "pairs.jsonl", "--row", 1, "--max-length", 28)["rows"][0]
    for full, part in zip(whole["completions"], cut["completions"], strict=True):
        assert ids(part["tokens"]) + ids(part["cut"]) == ids(full["tokens"])
    assert any(part["cut"] and not part["ends_with_eos"] for part in cut["completions"])
    out = text(home, capsys, "pairs.jsonl", "--row", 1, "--max-length", 28)
    assert "ends without EOS" in out
    assert re.search(r"cut, \d+ tokens?:", out)
    long = [{"role": "user", "content": "what is 1 plus 1? " * 20}, *answer("it is 2."), *CHAT[3:]]
    write_rows(home / "long.jsonl", [{"messages": [CHAT[0], *long]}])
    given = ("--train-on", "last", "--max-length", 100)
    full, part = (shown(home, capsys, "long.jsonl", *more)["rows"][0]["prompt"] for more in (given[:2], given))
    assert len(part["cut"]) == len(full["tokens"]) - len(part["tokens"]) > 0
    assert "".join(token["text"] for token in part["cut"]).count("what is 1 plus 1?") == 20


def test_a_reward_models_score_is_marked_where_it_is_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = shown(home, capsys, "pairs.jsonl", "--stage", "reward")["rows"][0]
    for completion in row["completions"]:
        assert [token["loss"] for token in completion["tokens"]] == [False] * (len(completion["tokens"]) - 1) + [True]
    [steps] = shown(home, capsys, "steps.jsonl")["rows"][0]["completions"]
    [trained] = read(home, "steps.jsonl", "reward", supervision="process", loss_type="bce")
    assert [i for i, token in enumerate(steps["tokens"]) if token["loss"]] == list(trained.completions[0].step_ends)


def test_a_prompt_alone_has_no_loss(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = text(home, capsys, "prompts.jsonl")
    assert "`assent ppo`" in " ".join(out.split())
    assert "the policy writes the completion" in " ".join(out.split())


@pytest.mark.parametrize("file", ["pairs.jsonl", "chat.jsonl", "thumbs.jsonl", "steps.jsonl", "wild.jsonl"])
def test_lines_have_at_most_80_columns_and_nothing_acts_on_the_terminal(
    file: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = "\x1b[31m\u202e\x07 日本語 " + "x" * 300 + "\r\n\ttab " + "1" * 200
    write_rows(home / "wild.jsonl", [{"prompt": [{"role": "user", "content": wild}], "completion": answer(wild)}])
    plain = text(home, capsys, file)
    assert not any(c in plain for c in "\x1b\u202e\x07\r\t")
    monkeypatch.setattr(data_cli, "_has_colour", lambda: True)
    coloured = text(home, capsys, file)
    assert COLOUR.search(coloured)
    without = COLOUR.sub("", coloured)
    assert not any(c in without for c in "\x1b\u202e\x07\r\t")
    assert all(cell_len(line) <= 80 for line in [*plain.splitlines(), *without.splitlines()])


def test_colour_is_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for terminal in (True, False):
        monkeypatch.setattr("sys.stdout.isatty", lambda terminal=terminal: terminal, raising=False)
        assert data_cli._has_colour() == terminal
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not data_cli._has_colour()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not data_cli._has_colour()


def test_a_row_that_would_be_refused_is_shown_as_such_beside_the_others(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"function": {"name": "sum", "arguments": {"a": 1}}}
    rows = [{"messages": CHAT}, {"messages": [CHAT[1], {**CHAT[2], "tool_calls": [call]}]}]
    write_rows(home / "calls.jsonl", rows)
    out = text(home, capsys, "calls.jsonl", status=1)
    assert "is│ 4│" in out
    assert "refused: the chat template does not write the tool's name" in " ".join(out.split())
    write_rows(home / "same.jsonl", [{"prompt": question(1), "chosen": answer("2" * 60), "rejected": answer("2" * 59)}])
    out = text(home, capsys, "same.jsonl", "--max-length", 40, status=1)
    assert "do not differ" in " ".join(out.split())


def test_rows_are_named_and_nothing_is_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_in(home)
    assert shown(home, capsys, "pairs.jsonl", "--row", 4)["rows"][0]["source"].endswith("pairs.jsonl:4")
    assert "3 more rows: --row N" in text(home, capsys, "pairs.jsonl")
    assert files_in(home) == before
    status, _, err = said(["data", "show", home / "pairs.jsonl", "--model", home / "model", "--row", 99], capsys)
    assert status == 2
    assert "no usable row 99" in err


@pytest.mark.parametrize(
    ("file", "given"),
    [
        ("pairs.jsonl", ["--train-on", "last"]),
        ("chat.jsonl", ["--max-new-tokens", 8]),
        ("prompts.jsonl", ["--keep-template-tail"]),
    ],
)
def test_an_option_without_effect_is_refused(
    file: str, given: list[object], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said(["data", "show", home / file, "--model", home / "model", *given], capsys)
    assert status == 2
    assert "has no effect with" in err


def test_a_row_that_is_refused_at_loading_shows_the_reason(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"frage": f"{n}?", "gut": "yes" if n != 2 else " ", "schlecht": "no"} for n in (1, 2, 3)]
    write_rows(home / "theirs.jsonl", rows)
    argv = ["--columns", "frage=prompt,gut=chosen,schlecht=rejected", "--row", 2]
    out = text(home, capsys, "theirs.jsonl", *argv, status=1)
    assert "theirs.jsonl:2" in out
    assert "refused: empty completion: `gut` is empty" in out
    status, _, err = said(["data", "show", home / "theirs.jsonl", "--model", home / "model", *argv[:3], 4], capsys)
    assert (status, "has no usable row 4" in err) == (2, True)
