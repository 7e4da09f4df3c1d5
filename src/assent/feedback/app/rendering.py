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
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.table import escapedSplit, getLine, table
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markupsafe import Markup, escape

from assent.types import Message, Text

LONGEST_MARKDOWN = 20_000
"""Characters. A longer text is shown as it is: Markdown that nests takes long to read."""
DEEPEST = 20
UNSAFE_RULES = ["link", "autolink", "image", "html_inline", "html_block", "reference", "linkify"]
_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that change the direction of what follows, so that text reads as what it is not."""
_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f"
    "\u3164\ud800-\udfff\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Characters that a browser shows nothing of: controls, fillers, tags, selectors. The joiners U+200C and U+200D and the
selectors U+FE0E and U+FE0F are none of them: they shape the characters of many scripts and of emoji."""

_INDENT = re.compile(r"\n[ \t]+")


def visible(text: str) -> str:
    """The text with every character that would turn or hide something as ⟦its code⟧."""

    def code(found: re.Match[str]) -> str:
        return f"⟦U+{ord(found[0]):04X}⟧"

    return _HIDDEN.sub(code, _TURNING.sub(code, text.replace("\r\n", "\n").replace("\r", "\n")))


def _no_styles(state: StateCore) -> None:
    """Columns of a table that are aligned would have a style, which the policy of the page forbids."""
    for token in state.tokens:
        token.attrs.pop("style", None)


def _no_hidden_characters(state: StateCore) -> None:
    """Those that the text wrote as entities, such as &#8238;."""
    for token in state.tokens:
        for part in token.children or ():
            part.content = visible(part.content)


def _whole_table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A table of Markdown, unless a row has more cells than the head: they would be left out. Then it stays text."""
    before, parent = len(state.tokens), state.parentType
    if not table(state, start, end, silent):
        return False
    new = state.tokens[before:]
    width = sum(token.type == "th_open" for token in new)
    rows = [token.map[0] for token in new if token.type == "tr_open" and token.map]
    if all(_cells(getLine(state, row)) <= width for row in rows):
        return True
    del state.tokens[before:]
    state.line, state.parentType = start, parent
    return False


def _cells(line: str) -> int:
    """How many cells this line of a table has."""
    cells = escapedSplit(line.strip())
    return len(cells) - (cells[0] == "") - (len(cells) > 1 and cells[-1] == "")


def _fence(_: RendererProtocol, tokens: Sequence[Token], at: int, *__: Any) -> str:
    """A block of code with what stands behind its ``` above it: in an attribute nobody would see that."""
    info = Markup('<p class="info">{}</p>').format(tokens[at].info.strip()) if tokens[at].info.strip() else Markup()
    return str(info + Markup("<pre><code>{}</code></pre>\n").format(tokens[at].content))


def _keep_indents(state: StateCore) -> None:
    """Lines that go on with a paragraph keep their indent: code without a fence would read as other code."""
    for token in state.tokens:
        if token.type == "inline":
            token.content = _INDENT.sub(lambda found: found[0].expandtabs(4).replace(" ", "\xa0"), token.content)


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("js-default", {"html": False, "linkify": False, "breaks": True, "maxNesting": DEEPEST})
    markdown.disable(UNSAFE_RULES, ignoreInvalid=True)
    markdown.block.ruler.at("table", _whole_table, {"alt": ["paragraph", "reference"]})
    markdown.core.ruler.after("block", "keep_indents", _keep_indents)
    markdown.core.ruler.push("no_styles", _no_styles)
    markdown.core.ruler.push("no_hidden_characters", _no_hidden_characters)
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
