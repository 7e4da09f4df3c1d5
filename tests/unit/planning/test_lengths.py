"""Lengths: the histogram, what each max_length cuts, and the recommended one."""

from __future__ import annotations

import pytest

from assent.models.shape import GivenLengths
from assent.planning.lengths import Bin, measure, row_lengths
from assent.planning.setup import ONLINE
from assent.planning.starting import LORA, STARTS, starting_point


def rows(*lengths: int) -> list[GivenLengths]:
    return [GivenLengths(length // 2, (length - length // 2,), 0) for length in lengths]


def test_a_row_is_its_prompt_with_its_longest_completion() -> None:
    assert row_lengths([GivenLengths(5, (3, 9), 12), GivenLengths(4, (), 0)]) == [14, 4]


def test_the_histogram_and_the_cuts_by_hand() -> None:
    found = measure(rows(10, 16, 17, 100, 200))
    assert found.histogram == (Bin(1, 16, 2), Bin(17, 32, 1), Bin(33, 64, 0), Bin(65, 128, 1), Bin(129, 256, 1))
    assert (found.rows, found.tokens, found.longest, found.median) == (5, 343, 200, 17)
    by_limit = {cut.max_length: (cut.rows, cut.tokens) for cut in found.cuts}
    assert by_limit == {128: (0.2, pytest.approx(72 / 343)), 256: (0.0, 0.0)}
    assert found.recommended == 256
    assert found.note == "cuts nothing"


def test_one_row_in_a_hundred_may_be_cut() -> None:
    found = measure(rows(*[100] * 99, 900))
    assert found.recommended == 128
    assert found.note == "cuts 1.0% of the rows"
    assert measure(rows(*[100] * 49, 900)).recommended == 1024


def test_the_models_context_is_the_last_candidate() -> None:
    found = measure(rows(*[1500] * 10), context=600)
    assert found.recommended == 600
    assert "only 600 positions" in found.note


def test_no_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        measure([])


def test_every_training_command_has_a_start_with_its_source() -> None:
    assert set(STARTS) == ONLINE | {"sft", "reward", "dpo", "kto"}
    for command, start in STARTS.items():
        assert "arXiv:" in start.source
        assert (start.beta is None) == (command in ("sft", "reward"))
        full = starting_point(command, num_parameters=7e9, lora=False)
        assert (full.learning_rate, full.note) == (start.learning_rate, "")
        assert starting_point(command, num_parameters=7e9, lora=True).learning_rate == LORA * start.learning_rate


def test_a_small_model_is_told_that_it_bears_more() -> None:
    assert "8 M bears more: also try 5e-06" in starting_point("dpo", num_parameters=8e6, lora=False).note
