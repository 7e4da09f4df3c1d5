"""Bad input: exit status 2, one clear message, and nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import files_in, said
from tests.support.models import tiny_model
from tests.support.rows import answer, comparisons, demonstrations, question, write_rows

Argv = list[object]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, demonstrations and comparisons that are in order."""
    folder = tmp_path_factory.mktemp("shared")
    demonstrations(folder / "demonstrations.jsonl")
    comparisons(folder / "comparisons.jsonl")
    tiny_model(folder / "model")
    return folder


@pytest.fixture
def here(shared: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled."""
    shutil.copytree(shared, tmp_path, dirs_exist_ok=True)
    return tmp_path


def options(here: Path, *, data: str = "comparisons.jsonl", model: str = "model", max_length: int = 64) -> Argv:
    return ["--model", here / model, "--data", here / data, "--output-dir", here / "out", "--max-length", max_length]


def refused(argv: Argv, here: Path, capsys: pytest.CaptureFixture[str], *parts: str) -> str:
    """The message of a command that must fail with status 2 and leave every file as it was."""
    before, folders = files_in(here), set(here.rglob("*"))
    status, out, err = said(argv, capsys)
    assert status == 2, err
    assert out == ""
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    assert files_in(here) == before
    assert set(here.rglob("*")) == folders
    message = err[err.index("error: ") :]
    for part in parts:
        assert part in message, f"{part!r} is not in:\n{message}"
    return message


@pytest.mark.parametrize("command", ["sft", "reward", "dpo"])
def test_a_missing_file_is_refused_and_the_nearest_is_named(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused([command, *options(here, data="comparison.jsonl")], here, capsys, "comparison.jsonl", "comparisons.jsonl")


def test_an_empty_file_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "comparisons.jsonl").write_text("")
    refused(["dpo", *options(here)], here, capsys, "comparisons.jsonl", "empty")


def test_a_broken_line_is_told_by_its_number(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (here / "comparisons.jsonl").read_text().splitlines()
    lines[2] = lines[2][:-7]
    (here / "comparisons.jsonl").write_text("\n".join(lines) + "\n")
    refused(["dpo", *options(here)], here, capsys, "comparisons.jsonl:3")


def test_a_missing_column_is_told_with_those_found_and_the_layouts(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(here / "comparisons.jsonl", [{"prompt": question(1), "chosn": answer("a"), "rejected": answer("b")}])
    message = refused(["dpo", *options(here)], here, capsys, "chosn", "rejected")
    assert "chosen" in message
    assert "prompt, completion" in message


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"prompt": "q", "completion": ""}, "empty"),
        ({"prompt": "q", "completion": 3}, "3"),
        ({"prompt": question(1), "completion": answer("")}, "empty"),
        ({"prompt": question(1), "completion": [{"role": "assistant", "content": None}]}, "content"),
    ],
)
def test_a_completion_that_is_empty_or_not_text(
    row: dict[str, object], part: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(here / "demonstrations.jsonl", [row])
    refused(["sft", *options(here, data="demonstrations.jsonl")], here, capsys, "demonstrations.jsonl:1", part)


@pytest.mark.parametrize("command", ["reward", "dpo"])
def test_identical_chosen_and_rejected_in_every_row(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ({"prompt": question(i), "chosen": answer("same"), "rejected": answer("same")} for i in range(3))
    write_rows(here / "comparisons.jsonl", rows)
    refused([command, *options(here)], here, capsys, "identical in every row")


def test_comparisons_where_demonstrations_are_needed_the_other_way_round(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["dpo", *options(here, data="demonstrations.jsonl")], here, capsys, "not a comparison", "chosen")


def test_thumbs_for_a_loss_of_pairs_and_pairs_for_a_loss_of_thumbs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(
        here / "thumbs.jsonl", ({"prompt": question(i), "completion": answer("a"), "label": True} for i in (1, 2))
    )
    refused(["dpo", *options(here, data="thumbs.jsonl")], here, capsys, "not a comparison", "thumbs", "assent kto")
    refused(["kto", *options(here)], here, capsys, "has no thumb", "--split-comparisons")
    refused(["kto", *options(here, data="thumbs.jsonl"), "--loss-type", "ipo"], here, capsys, "not for thumbs")


def test_rankings_need_a_loss_of_rankings_and_may_differ_in_length(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(i: int, count: int) -> dict[str, object]:
        completions = [answer("a" * (k + 1)) for k in range(count)]
        return {"prompt": question(i), "completions": completions, "ranking": list(range(1, count + 1))}

    write_rows(here / "rankings.jsonl", (row(i, 2 + i) for i in range(3)))
    argv = ["dpo", *options(here, data="rankings.jsonl")]
    refused(argv, here, capsys, "not a comparison", "3 completion(s)", "--loss-type plackett_luce")
    assert said([*argv, "--loss-type", "plackett_luce", "--max-steps", 1], capsys)[0] == 0


def test_a_model_folder_that_is_missing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["dpo", *options(here, model="modle")], here, capsys, "modle")


def test_a_model_folder_without_a_tokenizer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        (here / "model" / name).unlink(missing_ok=True)
    refused(["dpo", *options(here)], here, capsys, "tokenizer")


def _without_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))


def test_conversations_for_a_model_without_a_chat_template(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _without_template(here / "model")
    refused(["dpo", *options(here)], here, capsys, "chat template", "--chat-template")


def test_a_pickle_only_model_is_refused_with_the_conversion(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "model" / "model.safetensors").rename(here / "model" / "pytorch_model.bin")
    refused(["dpo", *options(here)], here, capsys, "safetensors")


@pytest.mark.parametrize("command", ["sft", "reward", "dpo"])
def test_a_model_that_does_not_fit_max_length(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused([command, *options(here, max_length=4096)], here, capsys, "max_length", "4096", "128")


def test_ppo_and_completions_refuse_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward = ["--reward", here / "no-reward"]
    sampling = ["--max-new-tokens", 8]
    missing = options(here, data="none.jsonl")
    refused(["ppo", *missing, *reward, *sampling], here, capsys, "none.jsonl")
    refused(["ppo", *options(here), *reward, *sampling], here, capsys, "no-reward")
    refused(["ppo", *options(here), "--reward", "no.module:function", *sampling], here, capsys, "no.module")
    refused(["ppo", *options(here), "--reward", here / "model", *sampling], here, capsys, "model")
    refused(["sample", *missing, *sampling], here, capsys, "none.jsonl")
    refused(["best-of-n", *options(here), *reward, *sampling], here, capsys, "no-reward")
    refused(["best-of-n", *options(here), "--reward", here / "model", *sampling], here, capsys, "model")
    refused(["sample", *options(here), "--greedy", "--top-k", 5], here, capsys, "top_k has no effect with greedy")
    refused(["sample", *options(here), "--stop", "é"], here, capsys, "ASCII characters")


@pytest.mark.parametrize("option", ["--data", "--model"])
def test_a_hub_name_without_a_network(
    option: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    argv: Argv = ["dpo", *options(here), option, "nobody/nothing-of-that-name"]
    index = argv.index(option)
    del argv[index : index + 2]  # the first, local one
    refused(argv, here, capsys, "nobody/nothing-of-that-name")


def test_an_output_folder_of_another_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv: Argv = ["sft", *options(here, data="demonstrations.jsonl"), "--max-steps", 1]
    assert said(argv, capsys)[0] == 0
    refused([*argv, "--learning-rate", "1e-2"], here, capsys, "out", "learning_rate")
    refused(["dpo", *options(here)], here, capsys, "out")
    refused([*argv, "--no-resume"], here, capsys, "out")
    config = here / "model" / "generation_config.json"
    config.write_text(config.read_text() + "\n")  # another model under the same name is another run, finished or not
    refused(argv, here, capsys, "out", "hash of model")
    config.write_text(config.read_text()[:-1])
    demonstrations(here / "demonstrations.jsonl", count=5)  # other data under the same name is another run
    refused(argv, here, capsys, "out")


def test_an_output_folder_with_foreign_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "out").mkdir()
    (here / "out" / "thesis.tex").write_text("chapter one")
    refused(["dpo", *options(here)], here, capsys, "thesis.tex")
    refused(["sample", *options(here), "--max-new-tokens", 8], here, capsys, "thesis.tex")
    judged = ["--policies.a", here / "model", "--baseline", "a", "--judge", "tests.support.stages:brevity"]
    evaluation = ["eval", *judged, "--data", here / "comparisons.jsonl", "--max-length", 64, "--max-new-tokens", 8]
    refused([*evaluation, "--output-dir", here / "out"], here, capsys, "thesis.tex")
    refused(["new-model", here / "out", "--text-files", here / "comparisons.jsonl"], here, capsys, "not empty")


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda argv: [*argv, "--bta", "0.3"], ["--bta", "--beta"]),
        (lambda argv: [*argv, "--loss-type", "sigmod"], ["sigmod", "sigmoid"]),
        (lambda argv: [*argv, "--device", "gpu"], ["--device", "'gpu'"]),
        (lambda argv: [*argv, "--beta", "0"], ["beta of loss 'sigmoid'", "(0, inf)"]),
        (lambda argv: [*argv, "--loss-type", "slic", "--beta", "0.1"], ["slic", "no hyperparameter 'beta'"]),
        (lambda argv: [*argv, "--hyperparameters.label_smoothing", "0.9"], ["label_smoothing", "[0, 0.5]"]),
        (lambda argv: [*argv, "--loss-type", "simpo", "--reference", "model"], ["reference", "simpo", "no reference"]),
        (lambda argv: [*argv, "--losses", "sigmoid", "ipo", "--beta", "1"], ["beta has no effect with losses"]),
        (lambda argv: [*argv, "--losses", '{"name": "ipo", "weight": 0}'], ["losses", "weight", "greater than 0"]),
        (lambda argv: [*argv, "--loss-type", "kto"], ["kto is a loss for thumbs", "assent kto"]),
        (lambda argv: [*argv, "--reference-mixup-alpha", "0.5"], ["reference_mixup_alpha", "reference_sync_steps"]),
        (lambda argv: [*argv, "--reference", "logged"], ["no usable row", "no logged log-probabilities"]),
        (lambda argv: [*argv, "--reference", "nowhere"], ["nowhere"]),
        (lambda argv: [*argv, "--chat-template", "none.jinja"], ["none.jinja"]),
    ],
)
def test_an_option_that_cannot_be(
    spoil: Callable[[Argv], Argv], parts: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(spoil(["dpo", *options(here)]), here, capsys, *parts)


def test_data_check_lists_what_training_would_refuse(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_in(here)
    assert said(["data", "check", here / "comparisons.jsonl", "--model", here / "model"], capsys)[0] == 0
    rows = [{"prompt": question(1), "chosen": answer("a"), "rejected": answer("b")}]
    rows += [{"prompt": question(1), "chosen": answer("b"), "rejected": answer("a")}]
    rows += [{"prompt": question(2), "chosen": answer("c"), "rejected": answer("")}]
    bad = write_rows(here / "bad.jsonl", rows)
    status, out, _ = said(["data", "check", bad, "--json"], capsys)
    bad.unlink()
    assert status == 1
    assert json.loads(out)["refused"] == {"empty completion": [f"{bad}:3"]}
    findings = "\n".join(finding["verdict"] for finding in json.loads(out)["findings"])
    assert "ordered both ways: 1 pair" in findings
    assert "1 row refused" in findings
    assert files_in(here) == before


def test_the_same_from_a_shell(here: Path) -> None:
    argv = [sys.executable, "-m", "assent", "dpo", *map(str, options(here, data="none.jsonl"))]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=here, timeout=600)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "none.jsonl" in done.stderr


JUDGED = ["ppo", "a2c", "grpo", "rloo", "online-dpo", "best-of-n", "eval"]
"""Commands with a reward."""


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights may be read any more."""
    from transformers import PreTrainedModel

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))


def judged(command: str, here: Path, *reward: object) -> Argv:
    if command == "eval":
        policies = ["--policies.a", here / "model", "--baseline", "a", "--max-new-tokens", 8, "--judge", *reward]
        return ["eval", *policies, "--data", here / "comparisons.jsonl", "--max-length", 64, "--output-dir", here / "o"]
    return [command, *options(here), "--max-new-tokens", 8, "--reward", *reward]


@pytest.fixture
def two_labels(here: Path) -> Path:
    from assent.models.loading import load_scorer, load_tokenizer, save_model

    save_model(here / "two", load_scorer(here / "model", num_labels=2), load_tokenizer(here / "model"))
    return here / "two"


def given(argv: Argv, option: str, value: object) -> Argv:
    """The same command with another value."""
    at = argv.index(option) + 1
    return [*argv[:at], value, *argv[at + 1 :]]


@pytest.mark.parametrize("command", JUDGED)
def test_rewards_that_are_none(
    command: str, here: Path, two_labels: Path, unread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A classifier of several labels that are not declared members; what cannot be imported."""
    several = "2 labels, so it is not a reward model"
    refused(judged(command, here, two_labels), here, capsys, several)
    short = "{reward: length, maximum: 9}"
    refused(judged(command, here, short, f"{{reward: {two_labels}, weight: 2}}"), here, capsys, several)
    members = f"{{reward: ensemble, members: [builtins:zip, {two_labels}]}}"
    refused(judged(command, here, members), here, capsys, several)
    refused(judged(command, here, "no.module:function"), here, capsys, "No module named 'no'")
    refused(judged(command, here, "json:absent"), here, capsys, "has no such function", "json:absent")
    refused(judged(command, here, short, "json:absent"), here, capsys, "has no such function")
    implicit = f"{{reward: 'implicit:{here / 'model'},{here / 'nowhere'}', beta: 1}}"
    refused(judged(command, here, implicit), here, capsys, "nowhere")
    keyless = "{reward: 'http://a.example', api_key_env: NOT_THERE_EVER}"
    refused(judged(command, here, keyless), here, capsys, "NOT_THERE_EVER is not set")
    refused(judged(command, here, "{reward: length}"), here, capsys, "needs a minimum")


@pytest.mark.parametrize("command", ["ppo", "grpo", "online-dpo", "best-of-n"])
def test_prompts_that_leave_no_room_for_an_answer(
    command: str, here: Path, unread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Longer than the context minus max_new_tokens."""
    argv = judged(command, here, "builtins:zip")
    write_rows(here / "comparisons.jsonl", ({"prompt": question(10**60 + i)} for i in range(4)))
    refused(given(argv, "--max-new-tokens", 56), here, capsys, "no usable", "does not fit max_length 64")
    refused(given(argv, "--max-new-tokens", 64), here, capsys, "max_new_tokens leaves no room for a prompt")
    refused(given(argv, "--max-length", 4096), here, capsys, "max_length", "4096", "128")


def test_rounds_that_do_not_divide_and_kl_that_cannot_adapt(
    here: Path, unread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch that does not divide as asked, a KL target with a fixed controller."""
    argv = judged("ppo", here, "builtins:zip")
    refused(
        [*argv, "--batch-size", 2, "--num-mini-batches", 3], here, capsys, "num_mini_batches (3) must divide batch_size"
    )
    uneven = ["--batch-size", 5, "--num-mini-batches", 5, "--total-steps", 2]  # of six prompts
    refused([*argv, *uneven], here, capsys, "rounds of 5: the last has 1", "--batch-size")
    refused([*argv, "--kl-horizon", 100], here, capsys, "kl_horizon has no effect without kl_target")
    refused([*argv, "--kl-target", 6, "--kl-coef", 0], here, capsys, "kl_coef 0 cannot adapt")
    refused([*argv, "--kl-coef", 0, "--kl-penalty", "k2"], here, capsys, "kl_penalty has no effect with kl_coef 0")


@pytest.fixture
def adapters_of_another_base(here: Path) -> dict[str, Path]:
    """A policy's, a reward model's, and an ensemble of two: on the model's shape, with other weights on record."""
    from assent.models.adapters import Base
    from assent.models.loading import load_policy, load_scorer, load_tokenizer, save_model
    from assent.models.saving import save_members
    from tests.support.adapters import adapted

    tokenizer, model = load_tokenizer(here / "model"), here / "model"
    found = {name: here / name for name in ("policy", "scorer", "ensemble")}
    made = [adapted(load(model), base=str(model)) for load in (load_policy, load_scorer, load_scorer, load_scorer)]
    for one in made:
        one.assent_base = Base(str(model), content="0123456789abcdef")
    save_model(found["policy"], made[0], tokenizer)
    save_model(found["scorer"], made[1], tokenizer)
    save_members(found["ensemble"], made[2:], tokenizer)
    return found


def test_an_adapter_of_another_base_in_every_part_that_it_can_play(
    here: Path, adapters_of_another_base: dict[str, Path], unread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """No model's weights are loaded, neither its own nor those beside it."""
    policy, scorer, ensemble = adapters_of_another_base.values()
    beside = judged("ppo", here, "tests.support.stages:brevity")
    tried: list[Argv] = [
        ["dpo", *options(here, model="policy")],
        ["reward", *options(here, model="scorer"), "--lora-r", 2],
        ["dpo", *options(here), "--reference", policy],
        *([*beside, option, path] for option, path in (("--reference", policy), ("--critic", scorer))),
        [*beside, "--potential", scorer],
        *(judged(command, here, path) for command in ("ppo", "best-of-n", "eval") for path in (scorer, ensemble)),
        judged("online-dpo", here, f"{{reward: 'implicit:{here / 'model'},{policy}', beta: 1}}"),
        given(judged("eval", here, "tests.support.stages:brevity"), "--policies.a", policy),
        ["eval", "--reward-model", ensemble, "--data", here / "comparisons.jsonl", "--max-length", 64],
        ["merge", policy, "--output-dir", here / "out"],
    ]
    for argv in tried:
        refused(argv, here, capsys, "the adapter is for another base", "content 0123456789abcdef")
