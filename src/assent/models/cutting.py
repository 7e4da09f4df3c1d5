"""Finds where a completion begins and ends in text (law 8). A row is one prompt text, and each completion is a chain of
pieces.

A piece is counted (an assistant turn, through its EOS) or not (the text between two assistant turns). Text that the
template writes after an EOS is dropped at the end of a completion; inside a completion it joins the next piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from assent.data.rows_read import STEP_SEPARATOR
from assent.errors import TemplateError
from assent.models.encoding import CLOSE, OPEN
from assent.models.templates import REMEDIES, Template
from assent.types import Message, PromptGroup, Text


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
    """

    pieces: tuple[Piece, ...]
    append_eos: bool
    tail: str = ""
    turns_dropped: int = 0


@dataclass(frozen=True, slots=True)
class RowText:
    """`raw`: strings that are not rendered. `literals`: how many contents (or strings) spell a control token.

    In contents such a spelling is marked and stays text. A raw string has no template that could write control tokens,
    so there a spelling is read as the control token.
    """

    prompt: str
    completions: tuple[CompletionText, ...]
    raw: bool
    literals: int = 0


def row_text(group: PromptGroup, template: Template) -> RowText:
    """The texts of a row.

    Raises TemplateError if the template fails, or if the rendered prompt is not a prefix of the whole; RefusedRowError
    for a conversation without a prompt.
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
    rendered = template.render(prompt, add_generation_prompt=True, **options)
    completions = [_conversation(prompt, t, rendered, template, options) for t in turns]
    return RowText(rendered, _in_steps(completions, group), raw=False, literals=literals.count)


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
        return _finished((), *_cut(_apart(turns, template), turns[0].content, template), template)
    pieces: list[Piece] = []
    written = before = rendered
    for n, i in enumerate(assistant):
        if i:
            before = template.render(prompt + turns[:i], add_generation_prompt=True, **options)
            pieces.append(Piece(_continuation(written, before, n), False))
        turn = _continuation(before, template.render(prompt + turns[: i + 1], **options), n)
        kept, tail, found = _cut(turn, turns[i].content, template)
        if i == assistant[-1]:
            return _finished(tuple(pieces), kept, tail, found, template, turns_dropped=len(turns) - 1 - i)
        pieces.append(Piece(kept, True))
        written = before + kept
    raise AssertionError("there is a last assistant turn")


def _cut(turn: str, content: str, template: Template) -> tuple[str, str, bool]:
    """(the turn through the first EOS after its content, the text after it, whether there is an EOS)."""
    text = content.strip()
    start = max(0, turn.find(text)) + len(text) if text in turn else 0
    kept, tail, found = template.encoder.cut_after_eos(turn[start:])
    return turn[:start] + kept, tail, found


def _finished(
    pieces: tuple[Piece, ...], kept: str, tail: str, found: bool, template: Template, *, turns_dropped: int = 0
) -> CompletionText:
    """The completion with its last turn. The text after the EOS is dropped unless the tail is kept."""
    if template.keep_template_tail:
        kept, tail = kept + tail, ""
    return CompletionText((*pieces, Piece(kept, True)), append_eos=not found, tail=tail, turns_dropped=turns_dropped)


def _apart(turns: tuple[Message, ...], template: Template) -> str:
    """For `--prompt-format concat`: the unchanged content, and the text that the template writes after a turn."""
    if len(turns) != 1 or turns[0].extra:
        raise TemplateError(
            "--prompt-format concat needs completions of one assistant turn that has only a content",
            got=", ".join(" ".join([m.role, *m.extra]) for m in turns),
            fix="use --train-on last for conversations, or use a template that continues its own prompt",
        )
    return turns[0].content + template.tail


def _continuation(before: str, after: str, turn: int) -> str:
    if after.startswith(before):
        return after[len(before) :]
    differing = (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
    same = next(differing, min(len(before), len(after)))
    view = slice(max(0, same - 40), same + 60)
    fix = REMEDIES if turn == 0 else f"train on the last assistant turn only with --train-on last, or {REMEDIES}"
    raise TemplateError(
        "the rendered prompt is not a prefix of the rendered conversation, so the completion has no clear beginning; "
        f"they differ after {same} characters",
        got=f"prompt …{_plain(before[view])!r}; conversation …{_plain(after[view])!r}",
        expected="a conversation that begins with its prompt",
        fix=fix,
    )


def _plain(text: str) -> str:
    return text.replace(OPEN, "").replace(CLOSE, "")


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
            return self._encoder.mark(_plain(value))
        if isinstance(value, dict):
            return {k: self.of_value(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.of_value(v) for v in value]
        return value
