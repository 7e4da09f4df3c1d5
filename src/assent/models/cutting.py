"""Finds where a completion begins and ends in text (law 8). A row is one prompt text, and each completion is a chain of
pieces.

A piece is counted (an assistant turn, through its EOS) or not (the text between two assistant turns). Text that the
template writes after an EOS is dropped at the end of a completion; inside a completion it joins the next piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

from assent.data.rows_read import STEP_SEPARATOR
from assent.errors import TemplateError
from assent.models.templates import REMEDIES, Template
from assent.models.written import Changes, check_shape, check_turn, closed_reasoning, open_reasoning, unmarked
from assent.types import Message, PromptGroup, Text

GENERATION_PROMPT = 80
"""Characters at the end of a prompt in which a template may write the beginning of the answer."""


class RefusedRowError(Exception):
    """A row that cannot be used. The report counts it under `reason`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    counted: bool
    ends_step: bool = False


@dataclass(frozen=True, slots=True)
class CompletionText:
    """`append_eos`: the text has no EOS at its end, so its id is added. `tail`: the text dropped after the EOS.

    `turns_dropped`: the number of turns after the last assistant turn, which are not trained on.
    `markers`: the next speaker's marker for each turn that ends with one, because it is an EOS.
    `open_ends`: the number of turns before the last that have no EOS at their end.
    `reasoning_closed`: the prompt opens a block of reasoning, and the completion begins with the closing tag.
    """

    pieces: tuple[Piece, ...]
    append_eos: bool
    tail: str = ""
    turns_dropped: int = 0
    markers: tuple[str, ...] = ()
    open_ends: int = 0
    reasoning_closed: bool = False


@dataclass(frozen=True, slots=True)
class RowText:
    """`raw`: strings that are not rendered. `literals`: how many contents (or strings) spell a control token.

    In contents such a spelling is marked and stays text. A raw string has no template that could write control tokens,
    so there a spelling is read as the control token. `changes` counts what the template changes in the turns.
    """

    prompt: str
    completions: tuple[CompletionText, ...]
    raw: bool
    literals: int = 0
    changes: Changes = field(default_factory=Changes)


def row_text(group: PromptGroup, template: Template) -> RowText:
    """The texts of a row.

    Raises TemplateError if the template fails, if the rendered prompt is not a prefix of the whole, or if the template
    leaves out what a turn holds; RefusedRowError for a conversation without a prompt.
    """
    if isinstance(group.prompt, str):
        if any(not isinstance(c, str) for c in group.completions):
            raise TemplateError(
                "a row mixes a raw prompt with completions that are conversations",
                got=group.source or None,
                expected="strings only, or lists of messages only",
            )
        raw = [_raw(str(c), template) for c in group.completions]
        spelled = [group.prompt, *(p.text.removesuffix(eos) for c, eos in raw for p in c.pieces)]
        controls = sum(map(template.encoder.spells_control, spelled))
        return RowText(group.prompt, _in_steps([c for c, _ in raw], group), raw=True, literals=controls)
    if not group.prompt:
        raise RefusedRowError("the conversation begins with an assistant turn")
    literals = _Literals(template)
    prompt = literals.of_messages(group.prompt)
    turns = [literals.of_messages(_as_turns(c)) for c in group.completions]
    options: dict[str, Any] = {
        "tools": None if group.tools is None else [literals.of_value(t) for t in group.tools],
        "chat_template_kwargs": group.chat_template_kwargs,
    }
    rendered, changes = template.render(prompt, add_generation_prompt=True, **options), Changes()
    for number, message in enumerate(prompt, start=1):
        check_turn(message, rendered, number=number, trained=False, changes=changes)
    if not turns or template.prompt_format == "concat":
        check_shape(prompt, template, add_generation_prompt=True, options=options)
    completions = [_conversation(prompt, t, rendered, template, options) for t in turns]
    if template.prompt_format == "template":
        for given, t, completion in zip(group.completions, turns, completions, strict=True):
            if not isinstance(given, str):  # a string was sampled: what the template leaves out is no fault of the data
                check_shape(prompt + _through_last(t), template, add_generation_prompt=False, options=options)
                _check_turns(rendered, len(prompt), t, completion, changes)
    return RowText(rendered, _in_steps(completions, group), raw=False, literals=literals.count, changes=changes)


def _in_steps(completions: Sequence[CompletionText], group: PromptGroup) -> tuple[CompletionText, ...]:
    """Completions cut after each step and its separator, so that a token ends where a step ends. The last step includes
    the rest of the completion and its EOS."""
    if group.steps is None:
        return tuple(completions)
    out = []
    for completion, steps in zip(completions, group.steps, strict=True):
        text, answer = completion.pieces[-1].text, STEP_SEPARATOR.join(steps)
        start = text.find(answer.strip()) - (len(answer) - len(answer.lstrip()))
        if len(completion.pieces) > 1 or answer.strip() not in text:
            raise RefusedRowError("its steps are not in the text that the template writes")
        lengths = accumulate(len(step) + len(STEP_SEPARATOR) for step in steps[:-1])
        cuts = [0, *(start + length for length in lengths), len(text)]
        pieces = tuple(Piece(text[a:b], True, ends_step=True) for a, b in pairwise(cuts))
        out.append(replace(completion, pieces=pieces))
    return tuple(out)


def _as_turns(completion: Text) -> tuple[Message, ...]:
    return (Message("assistant", completion),) if isinstance(completion, str) else completion


def last_turn_only(group: PromptGroup) -> PromptGroup:
    """For `--train-on last`: the turns before the last assistant turn become prompt (in rows with one completion)."""
    turns = group.completions[0] if len(group.completions) == 1 else ()
    if isinstance(turns, str) or isinstance(group.prompt, str):
        return group
    last = max((i for i, m in enumerate(turns) if m.role == "assistant"), default=0)
    return replace(group, prompt=group.prompt + turns[:last], completions=(turns[last:],)) if last else group


def _raw(text: str, template: Template) -> tuple[CompletionText, str]:
    """A raw completion, and the EOS that it spells at its end, or "". Such a spelling is the completion's EOS."""
    eos = next((eos for eos in template.encoder.eos_literals if text.endswith(eos)), "")
    return CompletionText((Piece(text, True),), append_eos=not eos), eos


def _conversation(
    prompt: tuple[Message, ...],
    turns: tuple[Message, ...],
    rendered: str,
    template: Template,
    options: dict[str, Any],
) -> CompletionText:
    """A completion. Each assistant turn is what the template adds to the turns before it and the generation prompt."""
    assistant = [i for i, m in enumerate(turns) if m.role == "assistant"]
    if not assistant:
        raise TemplateError("a completion has no assistant turn", got=", ".join(m.role for m in turns) or "no turns")
    if template.prompt_format == "concat":
        return _apart(turns, rendered, template)
    pieces: list[Piece] = []
    markers: list[str] = []
    open_ends, before = 0, rendered
    for n, (i, following) in enumerate(zip(assistant, [*assistant[1:], len(turns)], strict=True)):
        if not n and i:
            before = template.render(prompt + turns[:i], add_generation_prompt=True, **options)
            pieces.append(Piece(_continuation(rendered, before, turns), False))
        turn = _continuation(before, template.render(prompt + turns[: i + 1], **options), turns)
        kept, tail, found = _cut(turn, turns[i].content, template)
        if following < len(turns) or (not found and i + 1 < len(turns)):
            after = template.render(prompt + turns[:following], add_generation_prompt=True, **options)
            marker = "" if found else _marker(before + kept, after, template)
            markers += [marker] if marker else []
            kept, found = kept + marker, found or bool(marker)
        if following == len(turns):
            dropped = len(turns) - 1 - i
            out = _finished(tuple(pieces), kept, tail, found, template)
            return replace(out, turns_dropped=dropped, markers=tuple(markers), open_ends=open_ends)
        pieces += [Piece(kept, True), Piece(_continuation(before + kept, after, turns), False)]
        open_ends += not found
        before = after
    raise AssertionError("there is a last assistant turn")


def _marker(written: str, after: str, template: Template) -> str:
    """The text from a turn's end through the next speaker's marker if that is an EOS (as GLM's is), else ""."""
    following = after[len(written) :] if after.startswith(written) else ""
    text, _, found = template.encoder.cut_after_eos(following)
    return text if found and text.lstrip() in template.encoder.eos_literals else ""


def _through_last(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns through the last assistant turn. The others are not trained on."""
    return turns[: max(i for i, m in enumerate(turns) if m.role == "assistant") + 1]


def _check_turns(
    rendered: str, first: int, turns: tuple[Message, ...], completion: CompletionText, changes: Changes
) -> None:
    """Checks that each turn's text is in its own piece. A trained turn may begin in the generation prompt."""
    texts, before = iter(completion.pieces), rendered
    piece = next(texts)
    for i, message in enumerate(_through_last(turns), start=1):
        trained = message.role == "assistant"
        if trained and not piece.counted:
            before, piece = piece.text, next(texts)
        opening = before[-GENERATION_PROMPT:] if trained else ""
        check_turn(message, opening + piece.text, number=first + i, trained=trained, changes=changes)
        if trained:
            before, piece = "", next(texts, piece)


def _cut(turn: str, content: str, template: Template) -> tuple[str, str, bool]:
    """(the turn through the first EOS after its content, the text after it, whether there is an EOS)."""
    text = content.strip()
    start = max(0, turn.find(text)) + len(text) if text in turn else 0
    kept, tail, found = template.encoder.cut_after_eos(turn[start:])
    return turn[:start] + kept, tail, found


def _finished(pieces: tuple[Piece, ...], kept: str, tail: str, found: bool, template: Template) -> CompletionText:
    """The completion with its last turn. The text after the EOS is dropped unless the tail is kept."""
    if template.keep_template_tail:
        kept, tail = kept + tail, ""
    return CompletionText((*pieces, Piece(kept, True)), append_eos=not found, tail=tail)


def _apart(turns: tuple[Message, ...], rendered: str, template: Template) -> CompletionText:
    """For `--prompt-format concat`: the content, and the text that the template writes after a turn.

    If the prompt opens a block of reasoning, the content continues it: its own opening tag is dropped, and a content
    without reasoning begins with the closing tag.
    """
    if not _may_be_apart(turns):
        raise TemplateError(
            "--prompt-format concat needs completions of one assistant turn that has only a content",
            got=", ".join(" ".join([m.role, *m.extra]) for m in turns),
            fix=_alone(turns) + "give a template that continues its own prompt with --chat-template FILE",
        )
    content, closed = turns[0].content, False
    if (opened := open_reasoning(rendered)) is not None:
        start, end, blanks = opened
        begins = content.lstrip()
        if begins.startswith(start):
            content = begins.removeprefix(start).removeprefix(blanks)
        elif end not in content:
            content, closed = f"{blanks}{end}\n\n{begins}", True
    elif (again := closed_reasoning(rendered)) is not None and content.lstrip().startswith(again):
        raise TemplateError(
            f"the generation prompt ends the reasoning, and a completion begins with {again} again",
            got=f"prompt …{unmarked(rendered[-60:])!r}; completion {unmarked(content[:40])!r}…",
            expected="reasoning in one of the two",
            fix="let the template leave the reasoning open with --chat-template-kwargs (Qwen3: enable_thinking), or "
            "take it out of the data",
        )
    kept, tail, found = _cut(content + template.tail, content, template)
    return replace(_finished((), kept, tail, found, template), reasoning_closed=closed)


def _may_be_apart(turns: tuple[Message, ...]) -> bool:
    return len(turns) == 1 and not turns[0].extra


def _alone(turns: tuple[Message, ...]) -> str:
    if len(turns) == 1:
        return ""
    return (
        "give each assistant turn a row of its own (sft --train-on each), or train on the last (--train-on last), or "
    )


def _continuation(before: str, after: str, turns: tuple[Message, ...]) -> str:
    """What `after` adds to `before`. `turns` are the completion's, for the remedies."""
    if after.startswith(before):
        return after[len(before) :]
    differing = (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
    same = next(differing, min(len(before), len(after)))
    view = slice(max(0, same - 40), same + 60)
    if _may_be_apart(turns):
        fix = f"{REMEDIES}, or render prompt and completion apart with --prompt-format concat"
    else:
        fix = _alone(turns) + REMEDIES
    raise TemplateError(
        "the rendered prompt is not a prefix of the rendered conversation, so the completion has no clear beginning; "
        f"they differ after {same} characters",
        got=f"prompt …{unmarked(before[view])!r}; conversation …{unmarked(after[view])!r}",
        expected="a conversation that begins with its prompt",
        fix=fix,
    )


class _Literals:
    """Marks control tokens that are spelled in contents and tools, and counts the contents that spell one."""

    def __init__(self, template: Template) -> None:
        self._encoder = template.encoder
        self.count = 0

    def of_messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(
            Message(m.role, self.of_value(m.content), self.of_value(dict(m.extra)) if m.extra else m.extra)
            for m in messages
        )

    def of_value(self, value: Any) -> Any:
        """Marks the strings anywhere in a JSON value except keys."""
        if isinstance(value, str):
            if not self._encoder.spells_control(value):
                return value
            self.count += 1
            return self._encoder.mark(unmarked(value))
        if isinstance(value, dict):
            return {k: self.of_value(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.of_value(v) for v in value]
        return value
