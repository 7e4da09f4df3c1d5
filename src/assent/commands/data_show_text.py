"""`data show` as text for a terminal of 80 columns: marks below the tokens that the loss counts, or colours."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len

WIDTH = 80
INDENT = "  "
ABRIDGED = 160
"""Tokens of one part that are shown of each row if none is named; half at its start, half at its end."""
BAR = "│"
VISIBLE = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
DIM, COUNTED, END, LOST, BOLD, OFF = "\x1b[2m", "\x1b[32m", "\x1b[30;42m", "\x1b[9;31m", "\x1b[1m", "\x1b[0m"

Token = Mapping[str, Any]


def lines_of(document: Mapping[str, Any], *, colour: bool, whole: bool) -> list[str]:
    """The lines. `whole`: nothing is abridged."""
    out = _wrapped(
        f"{document['file']}, read as `assent {document['stage']}` reads it, with the tokenizer and template of "
        f"{document['model']}, at most {document['max_length']} tokens"
    )
    out += [line for note in document["notes"] for line in _wrapped(note)]
    legend = "\n".join(_wrapped(f"{document['loss']}{_legend(document['stage'], colour=colour)}"))
    if colour:  # only now: the codes have no width
        legend = legend.replace("(green", f"({COUNTED}green{OFF}").replace("EOS);", f"{END}EOS{OFF});")
    out += legend.split("\n")
    for row in document["rows"]:
        out += ["", _painted(f"{row['source']}", BOLD, colour=colour)]
        out += _refusal(row["refused"]) if "refused" in row else _row(row, colour=colour, whole=whole)
    left = document["rows_in_file"] - len(document["rows"])
    if left and not whole:
        out += ["", f"{left:,} more rows: --row N shows one of them in full"]
    if document["refused_at_loading"]:
        out += [f"refused at loading: {document['refused_at_loading']:,} rows; assent data check says why"]
    return out


def _legend(stage: str, *, colour: bool) -> str:
    if stage == "ppo":
        return f"; {BAR} stands between tokens, ⏎ is a line break"
    if colour:
        return f" (green{' or' if stage == 'reward' else ','} EOS); {BAR} stands between tokens, ⏎ is a line break"
    return f" (^, or E if it is an EOS); {BAR} stands between tokens, ⏎ is a line break"


def _refusal(reason: str) -> list[str]:
    lines = [line for part in reason.splitlines() for line in textwrap.wrap(part, WIDTH - 4, subsequent_indent="  ")]
    return ["  refused: " + lines[0], *("    " + line for line in lines[1:])]


def _row(row: Mapping[str, Any], *, colour: bool, whole: bool) -> list[str]:
    prompt, eos = row["prompt"], {int(i) for i in row["eos"]}
    kind = ", ".join(prompt["roles"]) or "text without a template"
    out = _wrapped(f"prompt: {kind}; {_number(prompt['tokens'])}, none in the loss")
    out += _lost(prompt["cut"], colour=colour, whole=whole)
    out += _part(prompt["tokens"], eos, colour=colour, whole=whole)
    for completion in row["completions"]:
        tokens = completion["tokens"]
        counted = sum(token["loss"] for token in tokens)
        end = "ends with EOS" if completion["ends_with_eos"] else "ends without EOS"
        out += _wrapped(f"{completion['name']}: {_number(tokens)}, {counted} marked; {end}")
        start = 0
        for turn in completion["turns"]:
            if len(completion["turns"]) > 1:
                out.append(f"{INDENT}{', '.join(turn['roles']) or 'between turns'}:")
            out += _part(tokens[start : start + turn["tokens"]], eos, colour=colour, whole=whole)
            start += turn["tokens"]
        out += _lost(completion["cut"], colour=colour, whole=whole)
    values = [f"{name} {value:g}" for name, value in row["values"].items() if (name, value) != ("weight", 1)]
    out += _wrapped("; ".join(values))
    return out + [line for note in row["notes"] for line in _wrapped(f"note: {note}")]


def _number(tokens: Sequence[Token]) -> str:
    return f"{len(tokens):,} token{'s' if len(tokens) != 1 else ''}"


def _lost(tokens: Sequence[Token], *, colour: bool, whole: bool) -> list[str]:
    if not tokens:
        return []
    return [f"{INDENT}cut, {_number(tokens)}:", *_part(tokens, set(), colour=colour, whole=whole, lost=True)]


def _part(tokens: Sequence[Token], eos: set[int], *, colour: bool, whole: bool, lost: bool = False) -> list[str]:
    half = ABRIDGED // 2
    if whole or len(tokens) <= ABRIDGED:
        return list(_token_lines(tokens, eos, colour=colour, lost=lost))
    return [
        *_token_lines(tokens[:half], eos, colour=colour, lost=lost),
        f"{INDENT}{INDENT}… {len(tokens) - 2 * half:,} tokens more: --row shows a row in full …",
        *_token_lines(tokens[-half:], eos, colour=colour, lost=lost),
    ]


def _token_lines(tokens: Sequence[Token], eos: set[int], *, colour: bool, lost: bool) -> Iterator[str]:
    """Lines of tokens. A token that ends with a line break ends a line, and so does the last that fits."""
    line: list[tuple[str, str, str]] = []  # text, mark, colour
    used, room = 0, WIDTH - 2 * len(INDENT)
    for token in tokens:
        is_end = token["id"] in eos
        mark = ("E" if is_end else "^") if token.get("loss") else " "
        paint = LOST if lost else (END if is_end else COUNTED) if token.get("loss") else DIM
        for piece in _pieces(visible(token["text"]), room):
            width = cell_len(piece) + bool(line)
            if used + width > room:
                yield from _drawn(line, colour=colour)
                line, used, width = [], 0, cell_len(piece)
            line.append((piece, mark, paint))
            used += width
        if token["text"].endswith("\n"):
            yield from _drawn(line, colour=colour)
            line, used = [], 0
    yield from _drawn(line, colour=colour)


def _drawn(line: Sequence[tuple[str, str, str]], *, colour: bool) -> Iterator[str]:
    """One line of tokens, and without colour one of marks below it if a token counts."""
    if not line:
        return
    bar = _painted(BAR, DIM, colour=colour)
    yield INDENT * 2 + bar.join(_painted(text, paint, colour=colour) for text, _, paint in line)
    if not colour and any(mark != " " for _, mark, _ in line):
        yield (INDENT * 2 + " ".join(mark * cell_len(text) for text, mark, _ in line)).rstrip()


def visible(text: str) -> str:
    """Text whose line breaks and other control characters can be seen, and cannot act on a terminal."""
    return "".join(
        VISIBLE.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode("ascii")) for c in text
    )


def _pieces(text: str, room: int) -> Iterator[str]:
    """The text in pieces of at most `room` cells."""
    piece, used = "", 0
    for character in text:
        width = cell_len(character)
        if used + width > room:
            yield piece
            piece, used = "", 0
        piece, used = piece + character, used + width
    yield piece


def _painted(text: str, code: str, *, colour: bool) -> str:
    return f"{code}{text}{OFF}" if colour else text


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=INDENT, break_on_hyphens=False)
