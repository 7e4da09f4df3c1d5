"""Logs in other people's formats, row by row: OpenAI-style requests, Langfuse, Phoenix, vLLM. Ours is the last resort.

    OpenAI    {"request": {"messages" | "prompt" | "input"}, "response": {"choices" | "output"}}; stored completions
              ({"messages", "choices"}); the two files of a batch, joined by `custom_id`
    Langfuse  observations (API, UI export or blob storage): `type` GENERATION, `input`, `output`, `startTime` or
              `start_time`; traces with input and output; `scores` inside
    Phoenix   spans of OpenInference: `attributes.llm.input_messages` …, flat or nested, of kind LLM
    vLLM      lines of text: "Received request ID: prompt: '…'" (or "Request ID details:"), joined by the id to
              "Generated response ID: output: '…'"

Sources: platform.openai.com/docs (chat completions, batch), langfuse.com/docs (export fields), OpenInference's semantic
conventions, vllm/entrypoints/logger.py.
"""

from __future__ import annotations

import ast
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from assent.diagnosis.drift.served import Served, Unreadable, make, number_of, read_ours

MOST_PENDING = 20_000
"""Halves that wait for their other half. The oldest go first, and are counted."""
OTHER_SPAN = "no request to a model (another span, event or score)"
UNPAIRED = "a request without its answer, or the reverse"


class Reader:
    """Reads rows of any of the formats. Halves wait for each other, so one reader reads a whole log."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        """columns   names of the log's fields -> ours, dots leading into nested ones"""
        self.columns = dict(columns)
        self._pending: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.num_unpaired = 0

    def read(self, row: Mapping[str, Any]) -> Served | None:
        """The row; None if it is a half whose other half is still to come. Raises Unreadable."""
        if self.columns and any(found(row, name) is not None for name in self.columns):
            renamed = {ours: found(row, theirs) for theirs, ours in self.columns.items()}
            return read_ours({**row, **{name: value for name, value in renamed.items() if value is not None}})
        if "custom_id" in row:
            return self._pair(str(row["custom_id"]), _batch_half(row))
        for recognised, read in FORMATS:
            if recognised(row):
                return read(row)
        return read_ours(row)

    def read_text(self, line: str) -> Served | None:
        """The same of a line of vLLM's own log. Raises Unreadable."""
        for pattern, name in ((ASKED, "prompt"), (ANSWERED, "completion")):
            if match := pattern.search(line):
                half = {name: _literal(match["text"]), "time": _clock(line)}
                if name == "completion":
                    half["finish_reason"] = match["finish"]
                return self._pair(match["id"], {key: value for key, value in half.items() if value is not None})
        raise Unreadable("a line that is neither JSON nor a request of vLLM's log")

    def _pair(self, identity: str, half: dict[str, Any]) -> Served | None:
        other = self._pending.pop(identity, None)
        whole = {**(other or {}), **half}
        if "prompt" in whole and "completion" in whole:
            prompt, completion = whole.pop("prompt"), whole.pop("completion")
            return make(prompt, completion, identity=identity, **whole)
        self._pending[identity] = whole
        if len(self._pending) > MOST_PENDING:
            self._pending.popitem(last=False)
            self.num_unpaired += 1
        return None

    @property
    def num_waiting(self) -> int:
        return len(self._pending)

    def pending(self) -> dict[str, dict[str, Any]]:
        """The halves that wait, for the next call."""
        return dict(self._pending)

    def restore(self, pending: Mapping[str, dict[str, Any]]) -> None:
        self._pending = OrderedDict(pending)


def found(row: Any, path: str) -> Any:
    """The value at `a.b.c`, flat or nested; None if there is none."""
    if isinstance(row, Mapping):
        if path in row:
            return row[path]
        head, dot, rest = path.partition(".")
        while dot:
            if isinstance(row.get(head), Mapping | list):
                return found(row[head], rest)
            more, dot, rest = rest.partition(".")
            head = f"{head}.{more}"
        return None
    head, _, rest = path.partition(".")
    if isinstance(row, list) and head.isdigit() and int(head) < len(row):
        return found(row[int(head)], rest) if rest else row[int(head)]
    return None


def _parsed(value: Any) -> Any:
    """What JSON inside a text says; the text itself where it is none."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


# OpenAI

_ASKED = ("messages", "input", "prompt")


def _is_openai(row: Mapping[str, Any]) -> bool:
    response = _parsed(row.get("response"))
    has_response = isinstance(response, Mapping) and ("choices" in response or "output" in response)
    return has_response or ("choices" in row and any(name in row for name in _ASKED))


def _openai(row: Mapping[str, Any]) -> Served:
    response = _parsed(row.get("response")) or row
    request = _parsed(row.get("request") or row.get("body")) or row
    return make(
        _asked(request), **_answer(response),
        time=_first(row, "time", "timestamp", "created_at", "created") or _first(response, "created", "created_at"),
        model=_first(response, "model") or _first(request, "model"),
        identity=_first(response, "id") or _first(row, "id", "request_id"), **_opinions(row),
    )  # fmt: skip


def _asked(request: Mapping[str, Any]) -> Any:
    return _first(request, *_ASKED)


def _answer(response: Mapping[str, Any]) -> dict[str, Any]:
    """completion, finish_reason and log-probabilities of a response with one answer."""
    if "choices" in response:
        choices = response["choices"]
        if not choices:
            raise Unreadable("no completion")
        choice = choices[0]
        message = choice.get("message") or {}
        text = message.get("content") if message else choice.get("text")
        logged = choice.get("logprobs") or {}
        tokens = logged.get("content") or []
        numbers = [token.get("logprob") for token in tokens] or logged.get("token_logprobs")
        text = message.get("refusal") if text is None else text
        return {"completion": text, "finish_reason": choice.get("finish_reason"), "logprobs": numbers or None}
    parts = [part for part in response.get("output") or [] if part.get("type", "message") == "message"]
    texts = [piece.get("text", "") for part in parts for piece in part.get("content") or []]
    reason = (response.get("incomplete_details") or {}).get("reason")
    return {"completion": "\n".join(texts) if texts else None, "finish_reason": "length" if reason else "stop"}


def _batch_half(row: Mapping[str, Any]) -> dict[str, Any]:
    if "body" in row:
        half = {"prompt": _asked(row["body"]), "model": row["body"].get("model")}
    else:
        body = (row.get("response") or {}).get("body") or {}
        if "choices" not in body and "output" not in body:
            raise Unreadable("a request that failed")
        half = {**_answer(body), "time": body.get("created") or body.get("created_at"), "model": body.get("model")}
    return {name: value for name, value in half.items() if value is not None}


# Langfuse

_TYPES = frozenset({"GENERATION", "SPAN", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING",
                    "GUARDRAIL"})  # fmt: skip


def _is_langfuse(row: Mapping[str, Any]) -> bool:
    named = any(name in row for name in ("traceId", "trace_id", "startTime", "start_time", "projectId", "project_id"))
    return named and ("input" in row or row.get("type") in _TYPES or "dataType" in row or "data_type" in row)


def _langfuse(row: Mapping[str, Any]) -> Served:
    if row.get("type", "GENERATION") != "GENERATION" or "input" not in row:
        raise Unreadable(OTHER_SPAN)
    asked, answer = _parsed(row.get("input")), _parsed(row.get("output"))
    if isinstance(asked, Mapping):
        asked = _first(asked, *_ASKED) or asked
    known: dict[str, Any] = {"completion": answer}
    if isinstance(answer, Mapping) and "choices" in answer:
        known = _answer(answer)
    return make(
        asked, **known, time=_first(row, "startTime", "start_time", "timestamp"),
        model=_first(row, "providedModelName", "provided_model_name", "model"), identity=_first(row, "id"),
        **_opinions(row),
    )  # fmt: skip


# Phoenix

_KINDS = ("attributes.openinference.span.kind", "span_kind", "openinference.span.kind")


def _is_phoenix(row: Mapping[str, Any]) -> bool:
    return any(found(row, name) is not None for name in _KINDS) or found(row, "attributes.llm") is not None


def _phoenix(row: Mapping[str, Any]) -> Served:
    kind = next((value for name in _KINDS if (value := found(row, name)) is not None), "LLM")
    if str(kind).upper() != "LLM":
        raise Unreadable(OTHER_SPAN)

    def attribute(*names: str) -> Any:
        paths = [f"{start}{name}" for name in names for start in ("attributes.", "")]
        return next((_parsed(value) for path in paths if (value := found(row, path)) is not None), None)

    asked = attribute("llm.input_messages", "input.value")
    identities = [found(row, name) for name in ("context.span_id", "span_id", "id")]
    return make(
        _turns(asked), _turns(attribute("llm.output_messages", "output.value")),
        time=_first(row, "start_time", "startTime"), model=attribute("llm.model_name"),
        identity=next((value for value in identities if value is not None), None),
        **_opinions(row),
    )  # fmt: skip


def _turns(value: Any) -> Any:
    """Messages of OpenInference (`message.content`) as messages; an OpenAI request or response inside a span, too."""
    if isinstance(value, Mapping):
        return _answer(value)["completion"] if "choices" in value else _first(value, *_ASKED) or value
    if not isinstance(value, list):
        return value
    return [
        {"role": found(turn, "message.role"), "content": found(turn, "message.content")}
        if found(turn, "message.role") is not None
        else turn
        for turn in value
    ]


FORMATS = ((_is_phoenix, _phoenix), (_is_openai, _openai), (_is_langfuse, _langfuse))


OPINIONS: Mapping[str, tuple[str, ...]] = {
    "label": ("rating", "label", "outcome"),
    "judge": ("judge",),
    "score": ("score", "reward"),
}


def _opinions(row: Mapping[str, Any]) -> dict[str, Any]:
    """Labels, verdicts and scores that stand in or beside the row: our names, or Langfuse's and Phoenix's lists."""
    said: dict[str, Any] = {}
    for entry in [*_listed(row.get("scores")), *_listed(row.get("annotations"))]:
        value = entry.get("value", entry.get("score", found(entry, "result.score")))
        name, source = str(entry.get("name", "")).lower(), str(entry.get("source", entry.get("annotator_kind", "")))
        kind = "judge" if source.upper() in ("EVAL", "LLM") or "judge" in name else "label"
        said.setdefault("score" if name in ("reward", "reward_model") else kind, number_of(value))
    for ours, names in {
        "label": ("rating", "label", "outcome"),
        "judge": ("judge",),
        "score": ("score", "reward"),
    }.items():
        number = number_of(_first(row, *names))
        if number is not None:
            said[ours] = number
    for name in ("slice", "anchor", "holdout", "propensity"):
        if row.get(name) is not None:
            said[name] = row[name]
    return said


def _listed(value: Any) -> list[Mapping[str, Any]]:
    value = _parsed(value)
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _first(row: Mapping[str, Any], *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


# vLLM

_TEXT = r"(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
ASKED = re.compile(r"(?:Received request |Request )(?P<id>[\w.-]+)(?: details)?: prompt: " + _TEXT)
ANSWERED = re.compile(
    r"Generated response (?P<id>[\w.-]+)(?: \([^)]*\))?: output: " + _TEXT + r"(?:.*finish_reason: (?P<finish>\w+))?"
)
_CLOCK = re.compile(r"(?P<year>\d{4}-)?(?P<month>\d\d)-(?P<day>\d\d)[ T](?P<clock>\d\d:\d\d:\d\d)")


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise Unreadable("a text of vLLM's log that is cut") from None


def _clock(line: str) -> str | None:
    """The time of a line; vLLM's own format has no year, so such a line has no time."""
    match = _CLOCK.search(line)
    if match is None or not match["year"]:
        return None
    return f"{match['year']}{match['month']}-{match['day']}T{match['clock']}"
