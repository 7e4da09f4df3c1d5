"""Each format's rows are read as the same request; what is none is counted with its reason."""

from __future__ import annotations

from typing import Any

import pytest

from assent.diagnosis.drift.formats import MOST_PENDING, Reader, found
from assent.diagnosis.drift.served import Served, Unreadable, read_ours, seconds_of

ASKED, ANSWER, WHEN = "How long is the warranty?", "Two years.", 1_790_000_000.0
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASKED}]
CHOICE = {
    "message": {"role": "assistant", "content": ANSWER},
    "finish_reason": "length",
    "logprobs": {"content": [{"token": "Two", "logprob": -1.0}, {"token": " years.", "logprob": -0.5}]},
}

ROWS: dict[str, dict[str, Any]] = {
    "ours": {"prompt": ASKED, "completion": ANSWER, "time": WHEN, "rating": 1, "model": "m", "id": "r1"},
    "our messages": {
        "messages": [*TURNS, {"role": "assistant", "content": ANSWER}],
        "time": "2026-09-21T14:13:20Z", "label": True, "model": "m", "id": "r1",
    },
    "request and response": {
        "request": {"model": "m", "messages": TURNS},
        "response": {"id": "r1", "created": int(WHEN), "model": "m", "choices": [CHOICE]}, "rating": "up",
    },
    "stored completion": {
        "messages": TURNS, "choices": [CHOICE], "created": int(WHEN), "model": "m", "id": "r1", "rating": 1,
    },
    "responses": {
        "request": {"model": "m", "input": ASKED},
        "response": {"id": "r1", "created_at": int(WHEN), "model": "m", "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "content": [{"type": "output_text", "text": ANSWER}]},
        ]}, "rating": 1,
    },
    "Langfuse, UI": {
        "id": "r1", "traceId": "t", "type": "GENERATION", "startTime": "2026-09-21T14:13:20.000Z", "model": "m",
        "input": {"messages": TURNS}, "output": {"role": "assistant", "content": ANSWER},
        "scores": [{"name": "thumb", "value": 1, "source": "API"}],
    },
    "Langfuse, blob storage": {
        "id": "r1", "trace_id": "t", "type": "GENERATION", "start_time": "2026-09-21 14:13:20.000000",
        "provided_model_name": "m", "input": '[{"role": "user", "content": "How long is the warranty?"}]',
        "output": '"Two years."'.strip('"'), "rating": 1,
    },
    "Phoenix, flat": {
        "attributes.openinference.span.kind": "LLM", "context.span_id": "r1", "start_time": "2026-09-21T14:13:20+00:00",
        "attributes.llm.model_name": "m",
        "attributes.llm.input_messages": [{"message.role": "user", "message.content": ASKED}],
        "attributes.llm.output_messages": [{"message.role": "assistant", "message.content": ANSWER}],
        "annotations": [{"name": "thumb", "annotator_kind": "HUMAN", "result": {"score": 1}}],
    },
    "Phoenix, nested": {
        "span_kind": "LLM", "context": {"span_id": "r1"}, "start_time": "2026-09-21T14:13:20+00:00", "rating": 1,
        "attributes": {"llm": {"model_name": "m",
            "input_messages": [{"message": {"role": "user", "content": ASKED}}],
            "output_messages": [{"message": {"role": "assistant", "content": ANSWER}}]}},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_the_same_request(name: str) -> None:
    row = Reader({}).read(ROWS[name])
    assert row is not None
    assert (row.prompt, row.completion, row.time, row.label) == (ASKED, ANSWER, WHEN, 1.0)
    assert (row.model, row.identity) == ("m", "r1")


def test_log_probabilities_and_ends_are_read() -> None:
    row = Reader({}).read(ROWS["request and response"])
    assert row is not None
    assert (row.logprob, row.logprob_sum, row.num_tokens, row.ended) == (-0.75, -1.5, 2, False)
    ours = read_ours({"prompt": "a", "completion": "b", "logprobs": -3.0, "num_tokens": 4, "finish_reason": "stop"})
    assert (ours.logprob, ours.ended) == (-0.75, True)
    assert read_ours({"prompt": "a", "completion": "b", "logprobs": -3.0}).logprob is None  # of how many tokens?


def test_a_judges_and_a_reward_models_scores_are_told_from_peoples() -> None:
    scores = [
        {"name": "thumb", "value": 0, "source": "ANNOTATION"},
        {"name": "helpful", "value": 0.7, "source": "EVAL"},
        {"name": "reward_model", "value": -2.5, "source": "API"},
    ]
    row = Reader({}).read({**ROWS["Langfuse, UI"], "scores": scores})
    assert row is not None
    assert (row.label, row.judge, row.score) == (0.0, 0.7, -2.5)


def test_the_two_files_of_a_batch_are_joined() -> None:
    reader = Reader({})
    asked = {"custom_id": "b7", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": TURNS}}
    answered = {
        "custom_id": "b7",
        "response": {"status_code": 200, "body": {"choices": [CHOICE], "created": int(WHEN)}},
    }
    assert reader.read(answered) is None
    row = reader.read(asked)
    assert row is not None
    assert (row.prompt, row.completion, row.time, row.identity) == (ASKED, ANSWER, WHEN, "b7")
    assert reader.num_waiting == 0
    with pytest.raises(Unreadable, match="failed"):
        reader.read({"custom_id": "b8", "response": {"status_code": 500, "body": {}}})


def test_lines_of_vllm_are_joined() -> None:
    reader = Reader({})
    start = "INFO 2026-09-21 14:13:20 [logger.py:43] "
    asked = start + r"""Received request chatcmpl-1: prompt: 'It\'s <|user|>"x"\n', params: SamplingParams(n=1)."""
    answered = (
        start + "Generated response chatcmpl-1: output: 'Two years.', output_token_ids: [1, 2], finish_reason: stop"
    )
    assert reader.read_text(asked) is None
    row = reader.read_text(answered)
    assert row is not None
    assert (row.prompt, row.completion, row.time, row.ended) == ('It\'s <|user|>"x"\n', "Two years.", WHEN, True)
    details = "INFO 09-21 14:13:20 [logger.py:43] Request chatcmpl-2 details: prompt: 'Hi', prompt_token_ids: [3]"
    assert reader.read_text(details) is None
    assert reader.num_waiting == 1
    with pytest.raises(Unreadable):
        reader.read_text("INFO 09-21 14:13:21 [loggers.py:100] Engine 000: Avg prompt throughput: 0.0 tokens/s")


def test_halves_that_wait_are_bounded_and_counted() -> None:
    reader = Reader({})
    for number in range(MOST_PENDING + 3):
        reader.read({"custom_id": f"b{number}", "body": {"prompt": "x"}})
    assert (reader.num_waiting, reader.num_unpaired) == (MOST_PENDING, 3)
    after = Reader({})
    after.restore(reader.pending())
    assert after.num_waiting == MOST_PENDING


def test_columns_name_fields_flat_or_nested() -> None:
    reader = Reader({"in.text": "prompt", "out.0.text": "completion", "stars": "rating"})
    row = reader.read({"in": {"text": ASKED}, "out": [{"text": ANSWER}], "stars": 4})
    assert row == Served(prompt=ASKED, completion=ANSWER, label=4.0)
    assert found({"a.b": {"c": 1}}, "a.b.c") == 1
    assert found({"a": {"b.c": 2}}, "a.b.c") == 2
    assert found({"a": 3}, "a.b") is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"completion": "x"}, "no prompt"),
        ({"prompt": "x"}, "no completion"),
        ({"prompt": "x", "completion": "y", "time": "yesterday"}, "a time"),
        ({"traceId": "t", "type": "SPAN", "input": "x", "startTime": "2026-01-01"}, "no request to a model"),
        ({"span_kind": "RETRIEVER", "attributes": {}}, "no request to a model"),
        ({"request": {"messages": TURNS}, "response": {"choices": []}}, "no completion"),
    ],
)
def test_what_is_no_request_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        Reader({}).read(row)


def test_times_in_seconds_milliseconds_and_iso() -> None:
    assert seconds_of(WHEN) == seconds_of(WHEN * 1000) == seconds_of("2026-09-21T14:13:20") == WHEN
    assert seconds_of("2026-09-21T16:13:20+02:00") == WHEN
