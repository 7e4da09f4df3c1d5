"""Untrusted text as HTML: Markdown without links, images and HTML, and everything that would be hidden shown."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markupsafe import Markup, escape

from assent.types import Message, Text

LONGEST_MARKDOWN = 20_000
"""Characters. A longer text is shown as it is: Markdown that nests takes long to read."""
DEEPEST = 20
UNSAFE_RULES = ["link", "autolink", "image", "html_inline", "html_block", "reference", "linkify"]
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that change the direction of what follows, so that text reads as what it is not."""
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\u200b]|[\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with every character that would turn or hide something as ⟦its code⟧."""

    def code(found: re.Match[str]) -> str:
        return f"⟦U+{ord(found[0]):04X}⟧"

    return _CONTROL.sub(code, _TURNING.sub(code, text.replace("\r\n", "\n").replace("\r", "\n")))


def _no_styles(state: StateCore) -> None:
    """Columns of a table that are aligned would have a style, which the policy of the page forbids."""
    for token in state.tokens:
        token.attrs.pop("style", None)


def _fence(_: RendererProtocol, tokens: Sequence[Token], at: int, *__: Any) -> str:
    """A block of code with what stands behind its ``` above it: in an attribute nobody would see that."""
    info = Markup('<p class="info">{}</p>').format(tokens[at].info.strip()) if tokens[at].info.strip() else Markup()
    return str(info + Markup("<pre><code>{}</code></pre>\n").format(tokens[at].content))


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("js-default", {"html": False, "linkify": False, "breaks": True, "maxNesting": DEEPEST})
    markdown.disable(UNSAFE_RULES, ignoreInvalid=True)
    markdown.core.ruler.push("no_styles", _no_styles)
    markdown.add_render_rule("fence", _fence)
    return markdown


@lru_cache(maxsize=2048)
def markdown(text: str) -> Markup:
    """Text as HTML. Where Markdown would lose a part (it nests too deeply) or take too long, the text as it is."""
    text = visible(text)
    if len(text) <= LONGEST_MARKDOWN:
        tokens = _markdown().parse(text)
        if max((token.level for token in tokens), default=0) < DEEPEST - 2:
            return Markup(_markdown().renderer.render(tokens, _markdown().options, {}))
    return Markup('<pre class="plain">{}</pre>').format(text)


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    body: Markup


def turns(text: Text) -> list[Turn]:
    """A prompt or a completion as turns. Raw text is one turn without a role."""
    if isinstance(text, str):
        return [Turn("", markdown(text))]
    return [Turn(visible(message.role), _body(message)) for message in text]


def _body(message: Message) -> Markup:
    body = markdown(message.content)
    return body + shown_json(dict(message.extra)) if message.extra else body


def shown_json(value: Any) -> Markup:
    """Tool calls, tools and other keys of a message."""
    text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)
    return Markup('<pre class="plain">') + escape(visible(text)) + Markup("</pre>")


def only_body(text: Text) -> Sequence[Turn]:
    """A completion: its one turn needs no role."""
    found = turns(text)
    return [Turn("", found[0].body)] if len(found) == 1 else found
