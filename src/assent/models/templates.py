"""Chat templates: which one is used, what it can render, and how a base model gets one.

A `Template` renders messages to text. It knows the EOS set and what it writes after a turn. `tokenizing` turns the text
into ids and finds where the completion begins.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jinja2
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from assent.errors import TemplateError
from assent.models import tool_arguments
from assent.models.bounded_jinja import bounded
from assent.models.encoding import Encoder
from assent.models.folder_contents import MAX_JSON_BYTES
from assent.models.vocabulary import add_control_tokens, choose_pad, eos_ids_of, sync_tokens
from assent.types import Message

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BUILTIN = {"chatml": CHATML}

REMEDIES = "pass what the template needs with --chat-template-kwargs, or use another template with --chat-template FILE"
_CONTROL_TOKEN = re.compile(r"<\|[^\s|<>{}'\"]+\|>|<｜[^\s｜<>{}'\"]+｜>|<\|\w+>|<\w+\|>|<(?:start|end)_of_\w+>")
"""The control tokens of an attached template, in the forms that ChatML, DeepSeek and Gemma use."""
_PROBE = "zqxvprobe"
"""A content that no template writes by itself. It has ordinary letters, so that templates treat it like any other."""


@dataclass(frozen=True)
class Template:
    """A tokenizer's chat template with options. `resolve_template` makes it.

    source     Jinja text; None: the tokenizer has no template, so only raw strings can be read
    eos_ids    ids that end a completion: generation config ∪ tokenizer
    """

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    source: str | None
    system: Literal["error", "merge"]
    prompt_format: Literal["template", "concat"]
    chat_template_kwargs: Mapping[str, Any]
    keep_template_tail: bool
    eos_ids: frozenset[int]

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.tokenizer, eos_ids=self.eos_ids)

    @property
    def eos_id(self) -> int:
        """The id that is appended to a text without an EOS: the tokenizer's EOS, or the lowest id of the set."""
        own = self.tokenizer.eos_token_id
        return own if own is not None else min(self.eos_ids)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """The messages as one text. The row's `chat_template_kwargs` override the run's.

        Raises TemplateError if there is no template, or if it fails on these messages.
        """
        if self.source is None:
            raise missing_template(self.tokenizer)
        if tools and "tools" not in self.source:
            raise TemplateError(
                "the data has tools, but the chat template does not read them",
                got=f"{len(tools)} tools",
                fix="use a template that reads them with --chat-template FILE, or remove the tools from the data",
            )
        if self.loses_text:
            raise TemplateError(
                "the chat template leaves out the text of a turn (it may expect lists of text and images)",
                fix="use a template for plain text with --chat-template chatml or --chat-template FILE",
            )
        if self.refuses_system and any(m.role == "system" for m in messages):
            if self.system == "error":
                raise TemplateError(
                    "the chat template refuses a system message",
                    got=_short(next(m.content for m in messages if m.role == "system")),
                    fix="put it into the first user turn with --system merge, or use another template with "
                    "--chat-template FILE",
                )
            messages = merge_system(messages)
        return self._render(messages, tools, {**self.chat_template_kwargs, **(chat_template_kwargs or {})},
                            add_generation_prompt)  # fmt: skip

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        kwargs: Mapping[str, Any],
        add_generation_prompt: bool,
    ) -> str:
        def applied(turns: list[dict[str, Any]]) -> str:
            with bounded():
                return str(
                    self.tokenizer.apply_chat_template(
                        turns,
                        tools=[dict(t) for t in tools] if tools else None,
                        chat_template=self.source,
                        add_generation_prompt=add_generation_prompt,
                        tokenize=False,
                        **kwargs,
                    )
                )

        try:
            return tool_arguments.encoded_once([m.as_dict() for m in messages], applied)
        except TemplateError:
            raise
        except Exception as error:  # a template is a program: it can divide by zero, recurse or run out of memory
            roles = ", ".join(m.role for m in messages) or "none"
            raise TemplateError(
                f"the chat template fails on a conversation: {str(error) or type(error).__name__}",
                got=f"turns: {roles}",
                fix=REMEDIES,
            ) from error

    @cached_property
    def refuses_system(self) -> bool:
        """Whether the template fails on a system message or silently leaves it out."""
        user = Message("user", "u")
        try:
            return _PROBE not in self._render((Message("system", _PROBE), user), None, self.chat_template_kwargs, True)
        except TemplateError:
            try:
                self._render((user,), None, self.chat_template_kwargs, True)
            except TemplateError:
                return False  # it fails without the system message too, and its own error says why
            return True

    @cached_property
    def loses_text(self) -> bool:
        """Whether the template renders without an error but leaves out a content."""
        try:
            text = self._render(
                (Message("user", _PROBE), Message("assistant", f"{_PROBE}2")), None, self.chat_template_kwargs, False
            )
        except TemplateError:
            return False  # its own error says why
        return text.replace(f"{_PROBE}2", "", 1).find(_PROBE) < 0 or f"{_PROBE}2" not in text

    @cached_property
    def unwritten(self) -> dict[Hashable, tuple[str, int] | None]:
        """A conversation's shape -> what the template leaves out, and of which turn (`written.check_shape`)."""
        return {}

    @cached_property
    def tail(self) -> str:
        """The text that the template writes after the last assistant turn's content; "" if that cannot be found."""
        turns = (Message("user", "u"), Message("assistant", _PROBE))
        try:
            return self._render(turns, None, self.chat_template_kwargs, False).partition(_PROBE)[2]
        except TemplateError:
            return ""

    @cached_property
    def end_of_turn(self) -> str | None:
        """The first special token that the template writes after an assistant turn's content."""
        found = [(self.tail.find(text), -len(text), text) for text in self.encoder.control if text in self.tail]
        return min(found)[2] if found else None

    @property
    def writes_bos(self) -> bool:
        """Whether a rendered conversation begins with the tokenizer's BOS."""
        bos = self.tokenizer.bos_token
        try:
            text = self._render((Message("user", "u"),), None, self.chat_template_kwargs, True)
        except TemplateError:
            return False
        return bool(bos) and text.startswith(str(bos))

    @property
    def writes_eos(self) -> bool:
        return self.encoder.cut_after_eos(self.tail)[2]


def resolve_template(
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat_template: str | None = None,
    system: Literal["error", "merge"] = "error",
    prompt_format: Literal["template", "concat"] = "template",
    chat_template_kwargs: Mapping[str, Any] | None = None,
    keep_template_tail: bool = False,
    eos_ids: Iterable[int] = (),
    model: PreTrainedModel | None = None,
) -> Template:
    """The template of `tokenizer` with its options. `chat_template` (chatml or a file), if given, is attached first.

    The EOS set is the tokenizer's EOS ∪ the generation config's ids, which come from the tokenizer (`load_tokenizer`
    sets them), from `model` or from `eos_ids`. Pass `model` so that new control tokens get embedding rows.
    Raises TemplateError for a template that cannot be read, kwargs that it does not use, or an empty EOS set.
    """
    if chat_template is not None:
        attach_template(model, tokenizer, chat_template)
    ends = {*eos_ids, *getattr(tokenizer, "generation_eos_ids", ())}
    if tokenizer.eos_token_id is not None:
        ends.add(int(tokenizer.eos_token_id))
    if model is not None:
        sync_tokens(model, tokenizer)
        ends |= eos_ids_of(getattr(model, "generation_config", None))
    if not ends:
        raise TemplateError(
            "neither the tokenizer nor the generation config names an end-of-sequence token",
            got=tokenizer.name_or_path or type(tokenizer).__name__,
            fix="set eos_token in the tokenizer's configuration, or attach a template with --chat-template chatml",
        )
    source = tokenizer.chat_template
    if isinstance(source, dict):
        source = source.get("default") or next(iter(source.values()), None)
    for name in chat_template_kwargs or {}:
        if source is None or not re.search(rf"\b{re.escape(name)}\b", source):
            raise TemplateError(
                f"--chat-template-kwargs has no effect: the chat template does not read {name!r}",
                fix="check the name in the template, or leave the option out",
            )
    return Template(
        tokenizer=tokenizer,
        source=source,
        system=system,
        prompt_format=prompt_format,
        chat_template_kwargs=dict(chat_template_kwargs or {}),
        keep_template_tail=keep_template_tail,
        eos_ids=frozenset(ends),
    )


def attach_template(model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, name_or_file: str) -> list[str]:
    """Gives a model a chat template. Returns the control tokens that were new to it.

    Control tokens of the template (<|name|> and the like) become single tokens, and new embedding rows start at the
    mean. The token that ends an assistant turn joins the EOS set: it becomes the tokenizer's EOS, and the generation
    config lists it beside the old one. Attaching the same template twice changes nothing.
    """
    source = read_template(name_or_file)
    wanted = list(dict.fromkeys(_CONTROL_TOKEN.findall(source)))
    added = add_control_tokens(model, tokenizer, wanted)
    tokenizer.chat_template = source
    ends = set(getattr(tokenizer, "generation_eos_ids", ()))
    if tokenizer.eos_token_id is not None:
        ends.add(int(tokenizer.eos_token_id))
    if model is not None:
        ends |= eos_ids_of(getattr(model, "generation_config", None))
    end_of_turn = Template(tokenizer, source, "error", "template", {}, False, frozenset()).end_of_turn
    if end_of_turn is not None:
        tokenizer.eos_token = end_of_turn
        ends.add(tokenizer.get_vocab()[end_of_turn])
    tokenizer.generation_eos_ids = frozenset(ends)
    choose_pad(tokenizer)
    if model is not None:
        sync_tokens(model, tokenizer)
    return added


def read_template(name_or_file: str) -> str:
    """The source of a built-in template or of a file."""
    if name_or_file in BUILTIN:
        return BUILTIN[name_or_file]
    path = Path(name_or_file)
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a file")
        if path.is_file() and path.stat().st_size > MAX_JSON_BYTES:
            raise OSError(f"it has more than {MAX_JSON_BYTES} bytes")
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(
            "the chat template cannot be read",
            got=name_or_file,
            expected=f"{', '.join(BUILTIN)}, or a file with a Jinja template",
            fix=f"check the name ({error})",
        ) from error
    try:
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(
            re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", source)
        )
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            f"the chat template is not valid Jinja: line {error.lineno}: {error.message}", got=name_or_file
        ) from error
    except RecursionError as error:
        raise TemplateError("the chat template is nested too deeply", got=name_or_file) from error
    return source


def merge_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Puts system messages before the first user turn's content, separated by a blank line."""
    system = [m.content for m in messages if m.role == "system"]
    rest = [m for m in messages if m.role != "system"]
    for i, message in enumerate(rest):
        if message.role == "user":
            rest[i] = Message("user", "\n\n".join([*system, message.content]), message.extra)
            return tuple(rest)
    return (Message("user", "\n\n".join(system)), *rest)


def missing_template(tokenizer: PreTrainedTokenizerBase) -> TemplateError:
    return TemplateError(
        "the data has conversations, but the model has no chat template",
        got=tokenizer.name_or_path or type(tokenizer).__name__,
        fix="attach one with --chat-template chatml or --chat-template FILE (it is saved with the result), or give the "
        "prompts and completions as plain strings",
    )


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
