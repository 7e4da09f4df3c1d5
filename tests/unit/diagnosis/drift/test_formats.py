"""Each format's rows are read as the same request; what is none is counted with its reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from assent.diagnosis.drift.formats import MOST_PENDING, Reader, found
from assent.diagnosis.drift.served import Served, Unreadable, make, read_ours, seconds_of
from assent.errors import ConfigError

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
    assert (row.prompt, row.completion, row.time, row.identity) == (ASKED, ANSWER, WHEN, None)
    assert reader.num_waiting == 0
    with pytest.raises(Unreadable, match="failed"):
        reader.read({"custom_id": "b8", "response": {"status_code": 500, "body": {}}})


FAILED = {"custom_id": "1", "response": {"status_code": 500}}


def asked_in_batch(text: str) -> dict[str, Any]:
    return {"custom_id": "1", "body": {"prompt": text}}


def answered_in_batch(text: str) -> dict[str, Any]:
    body = {"id": f"cmpl-{text}", "choices": [{"text": text}]}
    return {"custom_id": "1", "response": {"status_code": 200, "body": body}}


def joined(reader: Reader, names: str) -> list[tuple[str, str]]:
    """Reads q1 (a request), a1 (its answer) and f (one that failed), to the end of the log."""
    found = []
    for name in names.split():
        try:
            found.append(
                reader.read(
                    FAILED if name == "f" else asked_in_batch(name) if name[0] == "q" else answered_in_batch(name)
                )
            )
        except Unreadable:
            assert name == "f"
    rows = [*(row for row in found if row is not None), *(make(**known) for known in reader.rest())]
    assert all(row.identity == f"cmpl-{row.completion}" for row in rows)
    return [(row.prompt, row.completion) for row in rows]


@pytest.mark.parametrize(
    ("names", "expected", "unpaired"),
    [
        ("q1 q2 a1 a2", "q1a1 q2a2", 0),
        ("a1 a2 q1 q2", "q1a1 q2a2", 0),
        ("f q1 q2 a2 q3 a3", "q2a2 q3a3", 1),
        ("q1 f q2 a2 q3 a3", "q2a2 q3a3", 0),
        ("f f q1 q2 q3 a3", "q3a3", 2),
        ("q1 q2 a2", "", 3),  # or is it the answer to q1?
        ("a2 a3 q1", "", 3),
        ("q1 q2 f a2", "", 3),  # files of failures and of answers: which comes first says nothing
        ("a1 f q1 q2", "", 3),
        ("a1", "", 1),
    ],
)
def test_batches_that_use_the_same_ids_are_not_mixed_up(names: str, expected: str, unpaired: int) -> None:
    """custom_id is unique in its batch alone: rows are told apart by the answer's own id."""
    reader = Reader({})
    assert joined(reader, names) == [(pair[:2], pair[2:]) for pair in expected.split()]
    assert (reader.num_unpaired, reader.num_waiting) == (unpaired, 0)
    assert joined(reader, "q8 a8") == [("q8", "a8")]  # the next batch is not off by one


def test_a_batch_whose_answers_never_come_spoils_no_later_one() -> None:
    reader = Reader({})
    assert joined(reader, "q1") == []
    for names, expected in (("q2", []), ("q3 a3", []), ("q4 a4", [("q4", "a4")])):
        after = Reader({})
        after.restore(reader.pending())
        assert joined(after, names) == expected
        reader = after
    late = Reader({})
    late.restore({"1": [{"prompt": "q1"}]})
    assert joined(late, "a1 q2 a2") == [("q1", "a1"), ("q2", "a2")]


def test_a_request_that_cannot_be_read_gives_its_answer_to_no_other() -> None:
    reader = Reader({})
    with pytest.raises(Unreadable, match="no prompt"):
        reader.read({"custom_id": "1", "body": {}})
    assert joined(reader, "a1 q2 a2") == []
    assert reader.num_unpaired == 3


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


def test_an_answer_whose_request_was_too_old_is_joined_to_no_later_one() -> None:
    reader = Reader({})
    reader.read(asked_in_batch("q1"))
    for number in range(MOST_PENDING):
        reader.read({"custom_id": f"b{number}", "body": {"prompt": "x"}})
    assert joined(reader, "a1 q2 a2") == []
    assert reader.num_unpaired == 4


@pytest.mark.parametrize("name", ["response", "completion"])
def test_columns_may_name_any_name_of_a_field(name: str) -> None:
    row = Reader({"final": name, "when": "timestamp"}).read({"prompt": "p", "completion": "draft", "final": "sent",
                                                             "time": 1, "when": WHEN})  # fmt: skip
    assert row == Served(prompt="p", completion="sent", time=WHEN)


def test_columns_name_fields_flat_or_nested() -> None:
    reader = Reader({"in.text": "prompt", "out.0.text": "completion", "stars": "rating"})
    row = reader.read({"in": {"text": ASKED}, "out": [{"text": ANSWER}], "stars": 4})
    assert row == Served(prompt=ASKED, completion=ANSWER, label=4.0)
    assert found({"a.b": {"c": 1}}, "a.b.c") == 1
    assert found({"a": {"b.c": 2}}, "a.b.c") == 2
    assert found({"a": 3}, "a.b") is None


@pytest.mark.parametrize("name", ROWS)
def test_columns_for_an_opinion_leave_the_format_as_it_is(name: str) -> None:
    reader = Reader({"user.stars": "rating", "asked_at": "time", "variant": "slice"})
    plain = Reader({}).read(ROWS[name])
    assert plain is not None
    row = reader.read({**ROWS[name], "user": {"stars": 4}, "asked_at": WHEN + 60, "variant": "b"})
    assert row == replace(plain, label=4.0, time=WHEN + 60, slice="b")
    assert reader.read(ROWS[name]) == plain


def test_columns_name_one_text_of_a_format_or_both() -> None:
    stored = {name: value for name, value in ROWS["stored completion"].items() if name != "messages"}
    row = Reader({"asked": "prompt"}).read({**stored, "asked": ASKED})
    assert row is not None
    assert (row.prompt, row.completion, row.identity) == (ASKED, ANSWER, "r1")
    span = {"traceId": "t", "type": "SPAN", "input": "x", "q": ASKED, "a": ANSWER}
    assert Reader({"q": "prompt", "a": "response"}).read(span) == Served(prompt=ASKED, completion=ANSWER)


def test_columns_name_fields_of_ours() -> None:
    with pytest.raises(ConfigError, match=r"unknown field in --columns .*: ratin\n.*did you mean rating\?"):
        Reader({"stars": "ratin"})
    Reader({"stars": "label", "conversation": "messages"})


@pytest.mark.parametrize(
    ("told", "is_in"),
    [(1, True), ("1", True), (True, True), ("true", True), (0, False), ("0", False), ("False", False), ("no", False),
     ("", None), (None, None)],
)  # fmt: skip
def test_a_holdout_is_read_as_a_number_or_a_word(told: object, is_in: bool | None) -> None:
    """A CSV has texts alone, and each text but the empty one is true."""
    assert read_ours({"prompt": "a", "completion": "b", "holdout": told}).holdout is is_in
    row = Reader({}).read({**ROWS["Langfuse, UI"], "holdout": told})
    assert row is not None
    assert row.holdout is is_in


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
