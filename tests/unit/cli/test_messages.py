"""What an error of a newcomer's says: what to do next, on lines that a terminal shows."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import assent.models.adapters  # noqa: F401  # it quiets what PEFT imports
from assent.cli.entry import in_columns, main
from assent.config.evaluation import EvalConfig
from assent.config.loading import parse_options
from assent.errors import ConfigError, ModelError
from assent.models.folders import resolve_folder


@pytest.mark.parametrize(
    ("given", "got", "fix"),
    [
        ({"policy": "m"}, "no baseline", "give baseline; the usual"),
        ({"against": ["a"]}, "no policy and no baseline", "give policy and baseline; the usual"),
    ],
)
def test_a_comparison_of_one_says_what_is_missing(given: dict[str, object], got: str, fix: str) -> None:
    with pytest.raises(ConfigError, match="a comparison needs policy and baseline") as caught:
        parse_options(EvalConfig, {"data": "d", "output_dir": "o", **given})
    assert caught.value.got == got
    assert (caught.value.fix or "").startswith(fix)


def test_a_missing_model_folder_says_where_models_are_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="OUTPUT_DIR/model"):
        resolve_folder(str(tmp_path / "runs" / "dpo" / "model"))


def test_what_was_expected_fits_80_columns_and_a_command_stays_one_line() -> None:
    command = "  to do:    assent data show " + "x" * 70
    message = f"error: no\n  expected: {', '.join(['one of prompt and completion'] * 6)}\n{command}"
    first, *listed, last = in_columns(message).splitlines()
    assert (first, last) == ("error: no", command)
    assert len(listed) == 3
    assert max(map(len, listed)) <= 80
    assert " ".join(" ".join(listed).split()) == " ".join(message.splitlines()[1].split())


def test_words_of_an_error_fit_80_columns_and_what_can_be_copied_stays_whole() -> None:
    words = "choose another --output-dir, or give the options that this run was started with, as they were"
    lines = in_columns(f"error: {words}\n  got:      {words}\n  to do:    {words}").splitlines()
    assert [line.split()[0] for line in lines[::2]] == ["error:", "got:", "to"]
    assert len(lines) == 6
    assert max(map(len, lines)) <= 80
    for whole in (
        f"  to do:    {words}: assent data check FILE",
        f"  to do:    {words}: --columns 'Antwort A=answer_a'",
        f'  got:      {words}: {{"prompt": "Hi"}}',
        f"  File x.py, {words}",
    ):
        assert in_columns(whole) == whole


def test_a_file_or_a_folder_without_its_option_is_told_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "pairs.jsonl"
    data.touch()
    for words, option in (([str(data)], f"--data {data}"), ([str(tmp_path)], f"--model {tmp_path}")):
        assert main(["plan", *words]) == 2
        assert f"to do:    give {option}; for other options see assent plan --help" in capsys.readouterr().err
    assert main(["plan", "nothing"]) == 2
    assert "to do:    see assent plan --help" in capsys.readouterr().err


def test_a_kernel_that_only_4_bits_on_the_cpu_would_use_is_not_missed() -> None:
    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)
