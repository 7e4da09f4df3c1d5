"""Where each step of an answer ends (law 8), and what becomes of its label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from assent.data.formats import detect_layout, parse_row
from assent.models.tokenizing import Tokenized
from tests.support.tokenizers import byte_bpe, metaspace, tokenize

STEPS = ["Where is my order?", "It ships on Monday,", "and it arrives."]
ASKED = [{"role": "user", "content": "hello there"}]


def steps_of(tokenizer: Any, *, prompt: Any, labels: Any = (True, True, False), max_length: int = 512) -> Tokenized:
    """Successive steps of an answer, each with its label."""
    row = {"prompt": prompt, "completions": STEPS, "labels": list(labels)}
    group = parse_row(row, detect_layout(row), source="steps.jsonl:1")
    return tokenize([group], tokenizer, max_length)


@pytest.mark.parametrize("make", [byte_bpe, metaspace])
@pytest.mark.parametrize("prompt", [ASKED, "hello there "])
def test_a_step_ends_with_its_separator_and_the_last_with_the_completion(make: Any, prompt: Any) -> None:
    tokenizer = make()
    (group,) = steps_of(tokenizer, prompt=prompt).groups
    (completion,) = group.completions
    assert completion.mask is None
    texts, start = [], 0
    for end in completion.step_ends:
        texts.append(tokenizer.decode(completion.ids[start : end + 1], skip_special_tokens=True).strip())
        start = end + 1
    assert texts == STEPS if make is byte_bpe else len(texts) == 3  # metaspace's vocabulary knows no line break
    assert start == len(completion.ids)
    assert completion.ids[-1] == tokenizer.eos_token_id
    (labels,) = group.token["step_label"]
    assert labels[list(completion.step_ends)].tolist() == [1.0, 1.0, 0.0]
    assert np.isnan(np.delete(labels, list(completion.step_ends))).all()


def test_steps_that_are_cut_off_lose_their_labels() -> None:
    tokenizer = byte_bpe()
    (whole,) = steps_of(tokenizer, prompt=ASKED).groups
    ends = whole.completions[0].step_ends
    (group,) = steps_of(tokenizer, prompt=ASKED, max_length=len(whole.prompt_ids) + ends[1] + 2).groups
    assert group.completions[0].step_ends == ends[:2]
    assert np.nansum(group.token["step_label"][0]) == 2.0
    refused = steps_of(tokenizer, prompt=ASKED, max_length=len(whole.prompt_ids) + ends[0])
    assert refused.report.refused == {"its first step does not end within max_length": ["steps.jsonl:1"]}


def test_steps_that_the_template_does_not_write_are_refused() -> None:
    joining = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'].split() | join(' ') }}<|im_end|>\n"
    joining += "{% endfor %}"
    joining += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    found = steps_of(byte_bpe(template=joining), prompt=ASKED)
    assert not found.groups
    (reason,) = found.report.refused
    assert "are not in the text" in reason
