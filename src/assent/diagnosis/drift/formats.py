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
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

from assent.config.loading import unknown_name
from assent.diagnosis.drift.served import OURS, Served, Unreadable, known_of, make, number_of, read_ours

MOST_PENDING = 20_000
"""Halves that wait for their other half. The oldest go first, and are counted."""
OTHER_SPAN = "no request to a model (another span, event or score)"
UNPAIRED = "a request without its answer, or the reverse"


class Reader:
    """Reads rows of any of the formats. Halves wait for each other, so one reader reads a whole log."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        """columns   names of the log's fields -> ours, dots leading into nested ones. Raises ConfigError for a name
        that is none of ours."""
        ours = {"messages", *OURS, *(name for names in OURS.values() for name in names)}
        for name in columns.values():
            if name not in ours:
                raise unknown_name("field in --columns (THEIRS=OURS)", name, ours)
        first = {alias: names[0] for names in OURS.values() for alias in names}  # of which the first is read first
        self.columns = {theirs: first.get(ours, ours) for theirs, ours in columns.items()}
        self._pending: OrderedDict[str, list[dict[str, Any]]] = OrderedDict()
        self._failed: Counter[str] = Counter()  # answers that failed, whose request is not known yet
        self._unsure: set[str] = set()  # what belongs together under these keys cannot be known any more
        self.num_unpaired = self.num_waiting = 0

    def read(self, row: Mapping[str, Any]) -> Served | None:
        """The row; None if it is a half whose other half is still to come. Raises Unreadable."""
        named = {ours: value for theirs, ours in self.columns.items() if (value := found(row, theirs)) is not None}
        row, told = {**row, **named}, _told(named)
        if "prompt" in told and "completion" in told:
            return read_ours(row)
        if "custom_id" in row:
            return self._batch(row, told)
        for recognised, read in FORMATS:
            if recognised(row):
                return make(**{**read(row), **told})
        return read_ours(row)

    def read_text(self, line: str) -> Served | None:
        """The same of a line of vLLM's own log. Raises Unreadable."""
        for pattern, name in ((ASKED, "prompt"), (ANSWERED, "completion")):
            if match := pattern.search(line):
                half = {name: _literal(match["text"]), "time": _clock(line), "identity": match["id"]}
                if name == "completion":
                    half["finish_reason"] = match["finish"]
                return self._pair(match["id"], {key: value for key, value in half.items() if value is not None})
        raise Unreadable("a line that is neither JSON nor a request of vLLM's log")

    def _batch(self, row: Mapping[str, Any], told: Mapping[str, Any]) -> Served | None:
        """Half of a batch. Its `custom_id` joins the two files and is no identity: the next batch has the same."""
        key = str(row["custom_id"])
        try:
            half = {**_batch_half(row), **told}
            if half.keys().isdisjoint(HALVES):
                raise Unreadable("no prompt" if "body" in row else "no completion")
        except Unreadable:
            self._lost(key, "prompt" if "body" in row else "completion")
            raise
        return self._pair(key, half)

    def _lost(self, key: str, side: str) -> None:
        """A half that cannot be used was read: the other half of it must not be joined to another batch's."""
        waiting = self._pending.get(key, [])
        if side == "prompt":
            self._unsure.add(key)
        elif len(waiting) == 1 and "prompt" in waiting[0]:  # what was asked has had its answer, if none to be used
            self._dropped(key)
        else:
            self._failed[key] += 1

    def _pair(self, key: str, half: dict[str, Any]) -> Served | None:
        """The row, if one half alone waits for this one. Of several that wait, `rest` decides at the end."""
        waiting = self._pending.get(key, [])
        if key in self._unsure or (not waiting and "prompt" in half and self._failed[key]):
            self._failed[key] -= bool(self._failed[key])
            self.num_unpaired += 1
            return None
        if len(waiting) == 1 and not self._failed[key] and all(name in half or name in waiting[0] for name in HALVES):
            return make(**{**self._dropped(key)[0], **half})
        self._pending.setdefault(key, []).append(half)
        self.num_waiting += 1
        if self.num_waiting > MOST_PENDING:
            oldest = next(iter(self._pending))
            self._unsure.add(oldest)
            self.num_unpaired += len(self._dropped(oldest))
        return None

    def _dropped(self, key: str) -> list[dict[str, Any]]:
        """The halves under a key, which wait no longer."""
        halves = self._pending.pop(key)
        self.num_waiting -= len(halves)
        return halves

    def rest(self) -> list[dict[str, Any]]:
        """What `make` takes, of rows that only the end of the log decides; to be called there.

        Several batches use the same ids: as many answers as requests are joined in their order. Other numbers, or a
        failure among them, leave open what belongs together, and nothing is joined. Requests without any answer wait
        for the next call; answers never wait so long, because a request is logged first.
        """
        joined = []
        for key, halves in list(self._pending.items()):
            asked = [half for half in halves if "prompt" in half]
            answers = [half for half in halves if "prompt" not in half]
            sure = key not in self._unsure and not self._failed[key]
            if sure and not answers:
                continue
            self._dropped(key)
            if sure and len(asked) == len(answers):
                joined += [{**one, **other} for one, other in zip(asked, answers, strict=True)]
            else:
                self.num_unpaired += len(halves)
        self._failed.clear()
        self._unsure.clear()
        return joined

    def pending(self) -> dict[str, list[dict[str, Any]]]:
        """The halves that wait, for the next call."""
        return dict(self._pending)

    def restore(self, pending: Mapping[str, list[dict[str, Any]]]) -> None:
        self._pending = OrderedDict((key, list(halves)) for key, halves in pending.items())
        self.num_waiting = sum(map(len, pending.values()))


HALVES = ("prompt", "completion")


def _told(named: Mapping[str, Any]) -> dict[str, Any]:
    """What --columns says of a row, as `make` takes it: it stands before what the row's format says."""
    known = {**known_of(named), **{name: next((named[one] for one in OURS[name] if one in named), None)
                                   for name in HALVES}}  # fmt: skip
    return {name: value for name, value in known.items() if value is not None}


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
        except (ValueError, RecursionError):
            return value
    return value


# OpenAI

_ASKED = ("messages", "input", "prompt")


def _is_openai(row: Mapping[str, Any]) -> bool:
    response = _parsed(row.get("response"))
    has_response = isinstance(response, Mapping) and ("choices" in response or "output" in response)
    return has_response or ("choices" in row and any(name in row for name in _ASKED))


def _openai(row: Mapping[str, Any]) -> dict[str, Any]:
    response = _parsed(row.get("response")) or row
    request = _parsed(row.get("request") or row.get("body")) or row
    return {
        "prompt": _asked(request), **_answer(response),
        "time": _first(row, "time", "timestamp", "created_at", "created") or _first(response, "created", "created_at"),
        "model": _first(response, "model") or _first(request, "model"),
        "identity": _first(response, "id") or _first(row, "id", "request_id"), **_opinions(row),
    }  # fmt: skip


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
        half = {**_answer(body), "time": _first(body, "created", "created_at"), "model": body.get("model"),
                "identity": _first(body, "id") or _first(row, "id")}  # fmt: skip
    return {name: value for name, value in half.items() if value is not None}


# Langfuse

_TYPES = frozenset({"GENERATION", "SPAN", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING",
                    "GUARDRAIL"})  # fmt: skip


def _is_langfuse(row: Mapping[str, Any]) -> bool:
    named = any(name in row for name in ("traceId", "trace_id", "startTime", "start_time", "projectId", "project_id"))
    return named and ("input" in row or row.get("type") in _TYPES or "dataType" in row or "data_type" in row)


def _langfuse(row: Mapping[str, Any]) -> dict[str, Any]:
    if row.get("type", "GENERATION") != "GENERATION" or "input" not in row:
        raise Unreadable(OTHER_SPAN)
    asked, answer = _parsed(row.get("input")), _parsed(row.get("output"))
    if isinstance(asked, Mapping):
        asked = _first(asked, *_ASKED) or asked
    known: dict[str, Any] = {"completion": answer}
    if isinstance(answer, Mapping) and "choices" in answer:
        known = _answer(answer)
    return {
        "prompt": asked, **known, "time": _first(row, "startTime", "start_time", "timestamp"),
        "model": _first(row, "providedModelName", "provided_model_name", "model"), "identity": _first(row, "id"),
        **_opinions(row),
    }  # fmt: skip


# Phoenix

_KINDS = ("attributes.openinference.span.kind", "span_kind", "openinference.span.kind")


def _is_phoenix(row: Mapping[str, Any]) -> bool:
    return any(found(row, name) is not None for name in _KINDS) or found(row, "attributes.llm") is not None


def _phoenix(row: Mapping[str, Any]) -> dict[str, Any]:
    kind = next((value for name in _KINDS if (value := found(row, name)) is not None), "LLM")
    if str(kind).upper() != "LLM":
        raise Unreadable(OTHER_SPAN)

    def attribute(*names: str) -> Any:
        paths = [f"{start}{name}" for name in names for start in ("attributes.", "")]
        return next((_parsed(value) for path in paths if (value := found(row, path)) is not None), None)

    asked = attribute("llm.input_messages", "input.value")
    identities = [found(row, name) for name in ("context.span_id", "span_id", "id")]
    return {
        "prompt": _turns(asked), "completion": _turns(attribute("llm.output_messages", "output.value")),
        "time": _first(row, "start_time", "startTime"), "model": attribute("llm.model_name"),
        "identity": next((value for value in identities if value is not None), None),
        **_opinions(row),
    }  # fmt: skip


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


OPINIONS = ("label", "judge", "score", "slice", "anchor", "holdout", "propensity", "by_outcome")
"""What may stand under our names beside the fields of any format."""


def _opinions(row: Mapping[str, Any]) -> dict[str, Any]:
    """Labels, verdicts and scores that stand in or beside the row: our names, or Langfuse's and Phoenix's lists."""
    said: dict[str, Any] = {}
    for entry in [*_listed(row.get("scores")), *_listed(row.get("annotations"))]:
        value = entry.get("value", entry.get("score", found(entry, "result.score")))
        name, source = str(entry.get("name", "")).lower(), str(entry.get("source", entry.get("annotator_kind", "")))
        kind = "judge" if source.upper() in ("EVAL", "LLM") or "judge" in name else "label"
        said.setdefault("score" if name in ("reward", "reward_model") else kind, number_of(value))
    known = known_of(row)
    return said | {name: known[name] for name in OPINIONS if known[name] is not None}


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
