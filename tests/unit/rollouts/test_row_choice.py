"""Tokens chosen inside another engine's batch, whose rows come, go and move."""

from __future__ import annotations

import copy

import numpy as np
import torch

from assent.rollouts.choosing import choose
from assent.rollouts.row_choice import Draw, RowChoice
from assent.rollouts.sampler import SamplingParams, SeedKey

PARAMS = SamplingParams(max_new_tokens=6, temperature=0.7, top_k=9)


def _draw(number: int, params: SamplingParams = PARAMS) -> Draw:
    return Draw(params, SeedKey(0, "test", 0).uniforms(number, 0, params.max_new_tokens))


def _logits(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed)) * 3


def test_a_row_gets_what_the_torch_sampler_would_choose_and_notes_its_log_probability() -> None:
    draws, tokens = [_draw(i) for i in range(3)], [[], [4], [4, 4]]
    choice = RowChoice()
    choice.change(added=[(i, draws[i], tokens[i]) for i in range(3)])
    logits = _logits(3, 0)
    left = choice.choose(logits.clone())
    drawn = torch.tensor([draws[i].uniforms[i] for i in range(3)])  # row i has i tokens
    ids, logprobs = choose(logits, drawn, PARAMS)
    assert left.argmax(-1).tolist() == ids.tolist()
    assert (left > -torch.inf).sum(-1).tolist() == [1, 1, 1]
    assert [draws[i].logprobs[i] for i in range(3)] == logprobs.tolist()
    noted = [int(np.isfinite(draw.logprobs).sum()) for draw in draws]
    assert noted == [1, 1, 1]


def test_rows_that_leave_arrive_and_move_keep_their_draws() -> None:
    """Against the same completions drawn one by one: three leave and arrive, one slides down, two swap."""
    draws = {name: _draw(i) for i, name in enumerate("abcde")}
    tokens: dict[str, list[int]] = {name: [] for name in draws}
    choice = RowChoice()
    changes = [
        {"added": [(0, draws["a"], tokens["a"]), (1, draws["b"], tokens["b"]), (2, draws["c"], tokens["c"])]},
        {"removed": [0], "added": [(0, draws["d"], tokens["d"])]},
        {"removed": [1], "moved": [(2, 1, False)]},
        {"moved": [(0, 1, True)], "added": [(2, draws["e"], tokens["e"])]},
    ]
    batches = ["abc", "dbc", "dc", "cde"]
    expected: dict[str, list[float]] = {name: [] for name in draws}
    for step, (change, batch) in enumerate(zip(changes, batches, strict=True)):
        choice.change(**change)  # type: ignore[arg-type]
        logits = _logits(len(batch), step)
        left = choice.choose(logits.clone())
        for row, name in enumerate(batch):
            t = len(tokens[name])
            one, logprob = choose(logits[row : row + 1], torch.tensor([draws[name].uniforms[t]]), PARAMS)
            assert int(left[row].argmax()) == int(one), (step, name)
            expected[name].append(float(logprob))
            tokens[name].append(int(one))
    for name, draw in draws.items():
        assert draw.logprobs[: len(expected[name])].tolist() == expected[name]


def test_a_row_that_is_read_again_from_its_start_goes_on_where_it_was() -> None:
    """An engine that runs out of cache drops a row and reads it again, its tokens so far included."""
    draw, tokens = _draw(0), [5, 6]
    choice = RowChoice()
    choice.change(added=[(0, draw, tokens)])
    choice.change(removed=[0])
    choice.change(added=[(0, draw, tokens)])
    logits = _logits(1, 3)
    ids, _ = choose(logits, torch.tensor([draw.uniforms[2]]), PARAMS)
    assert int(choice.choose(logits).argmax()) == int(ids)


def test_a_copied_request_still_notes_in_the_same_draw() -> None:
    draw = _draw(0)
    assert copy.deepcopy({"assent": draw})["assent"] is draw


def test_logits_of_a_batch_without_draws_pass_through() -> None:
    logits = _logits(2, 0)
    assert RowChoice().choose(logits) is logits
