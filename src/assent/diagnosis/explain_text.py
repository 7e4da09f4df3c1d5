"""The result of `explain` as text of at most 80 columns."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 80
TOKENS_SHOWN = 24
"""Tokens shown for a completion; for a longer completion, those with the largest log-ratios."""
ROWS_SHOWN = 12
"""Rows of a file that are shown one by one; a longer file has only the summary."""
SHARES = {
    "preference_probability": "sigma(margin)",
    "loss": "-log sigma(margin), nats",
    "gradient_weight": "|d loss / d logp| = beta * sigma(-margin)",
}


SHORT = {
    "log_ratio_chosen": "log-ratio +",
    "log_ratio_rejected": "log-ratio -",
    "reward_chosen": "reward +",
    "reward_rejected": "reward -",
    "margin": "margin",
    "preference_probability": "P(chosen)",
    "loss": "loss",
    "gradient_weight": "weight",
}


def shown(number: float, *, signed: bool = False) -> str:
    """At most ten characters: four decimals if these suffice, otherwise three digits and an exponent."""
    size = abs(number)
    form = ".4f" if number == 0 or 1e-4 <= size < 100 else ".2f" if 100 <= size < 1e5 else ".3g"
    return f"{number:{'+' if signed else ''}{form}}"


def lines_of_pair(found: Mapping[str, Any]) -> list[str]:
    """One comparison: how its probability is computed, and the effect of beta."""
    out = [*_rewards(found), ""]
    meanings = dict(SHARES)
    if "beta" not in found:
        meanings["gradient_weight"] = "|d loss / d score| = sigma(-margin)"
    for name, meaning in meanings.items():
        out.append(f"{name.replace('_', ' '):<24}{shown(found[name]):>11}   {meaning}")
    out += ["", *_verdict(found)]
    if "betas" in found:
        out += ["", "effect of beta", *_betas(found["betas"], found["beta"])]
    return out


def _rewards(found: Mapping[str, Any]) -> list[str]:
    if "beta" not in found:
        names = {"chosen": "reward_chosen", "rejected": "reward_rejected", "margin": "margin"}
        return [f"{'':<24}{'score':>11}", *(f"{k:<24}{shown(found[v], signed=True):>11}" for k, v in names.items())]
    logps = found.get("logps")
    heads = [*(["policy", "reference"] if logps else []), "log-ratio", "reward"]
    rows = {}
    for side in ("chosen", "rejected"):
        cells = [shown(logps[f"{side}_logps"]), shown(logps[f"ref_{side}_logps"])] if logps else []
        cells += [shown(found[f"{kind}_{side}"], signed=True) for kind in ("log_ratio", "reward")]
        rows[side] = cells
    difference = found["log_ratio_chosen"] - found["log_ratio_rejected"]
    blank = ["", ""] if logps else []
    rows["difference"] = [*blank, shown(difference, signed=True), shown(found["margin"], signed=True)]
    out = [_row("", heads), *(_row(name, cells) for name, cells in rows.items())]
    return [
        *out,
        "",
        f"reward = beta * log-ratio, beta = {found['beta']:g}; margin = difference of the rewards",
    ]


def _verdict(found: Mapping[str, Any]) -> list[str]:
    prefers = found["prefers"]
    if prefers == "neither":
        text = "Neither is preferred: the loss is ln 2, and the gradient has half of its largest weight."
    elif prefers == "chosen":
        text = "The chosen is preferred: the loss is below ln 2. A larger margin changes the model less."
    else:
        text = "The rejected is preferred: the loss is above ln 2. Such pairs change the model most."
    if found.get("log_ratio_chosen", 0) < 0:
        text += f" The chosen is less likely than under the reference, by {shown(-found['log_ratio_chosen'])} nats."
    if "beta" not in found:
        text += " Only the difference matters: adding the same number to both scores changes nothing here."
    return textwrap.wrap(text, WIDTH)


def _betas(rows: Sequence[Mapping[str, float]], asked: float) -> list[str]:
    heads = ["chosen", "rejected", "margin", "P(chosen)", "loss", "weight"]
    names = ["reward_chosen", "reward_rejected", "margin", "preference_probability", "loss", "gradient_weight"]
    out = [_row("beta", heads, width=11, first=10)]
    for row in rows:
        cells = [shown(row[name], signed=name in names[:3]) for name in names]
        mark = "*" if row["beta"] == asked else ""
        out.append(_row(f"{row['beta']:g}{mark}", cells, width=11, first=10))
    note = "* the given beta. Beta scales the margin; it does not change which is preferred."
    return [*out, note]


def lines_of_rows(found: Mapping[str, Any]) -> list[str]:
    """A file of comparisons: a summary, and the rows if they are few."""
    count = found["num_rows"]
    share = f"{100 * found['share_preferred']:.1f}%"
    out = textwrap.wrap(
        f"{count} rows, none left out, beta = {found['beta']:g}. The chosen is preferred in {found['preferred']} "
        f"({share}; {found['ties']} ties, counted half).",
        WIDTH,
    )
    if found.get("columns_not_used"):
        out += textwrap.wrap(f"columns not used: {', '.join(found['columns_not_used'])}", WIDTH)
    heads = ["mean", "5%", "25%", "median", "75%", "95%"]
    out += ["", _row("", heads, width=11, first=14)]
    for name, summary in found["summary"].items():
        cells = [shown(summary[key]) for key in ("mean", "q05", "q25", "median", "q75", "q95")]
        out.append(_row(SHORT[name], cells, width=11, first=14))
    out.append("+ is the chosen completion, - the rejected one")
    if count <= ROWS_SHOWN:
        out += ["", _row("row", ["log-ratio +", "log-ratio -", "margin", "P(chosen)", "loss"], width=12, first=20)]
        names = ("log_ratio_chosen", "log_ratio_rejected", "margin", "preference_probability", "loss")
        for row in found["rows"]:
            cells = [shown(row[name], signed=name not in names[3:]) for name in names]
            out.append(_row(_end(row["source"], 20), cells, width=12, first=20))
    else:
        out += ["", f"lowest margins (--json has all {count} rows)"]
        lowest = found["lowest_margins"]
        out += [f"  {shown(row['margin'], signed=True):>11}  {_end(row['source'], 60)}" for row in lowest]
    return [*out, "", "effect of beta, means over the rows", *_betas(found["betas"], found["beta"])]


def lines_of_tokens(found: Mapping[str, Any]) -> list[str]:
    """The tokens of both completions, and their shares of the log-ratio."""
    out = []
    for side in ("chosen", "rejected"):
        tokens = found["tokens"][side]
        total = sum(abs(token["log_ratio"]) for token in tokens)
        few = tokens
        out += ["", f"{side}: {len(tokens)} tokens"]
        if len(tokens) > TOKENS_SHOWN:
            largest = sorted(tokens, key=lambda token: -abs(token["log_ratio"]))[:TOKENS_SHOWN]
            few = sorted(largest, key=lambda token: token["position"])
            held = sum(abs(token["log_ratio"]) for token in few) / total if total else math.nan
            out[-1] += f"; the {TOKENS_SHOWN} with the largest log-ratios ({100 * held:.0f}% of sum |log-ratio|)"
            out[-1] += "; --json has all"
            out[-1:] = textwrap.wrap(out[-1], WIDTH)
        out.append(_row("   # token", ["policy", "reference", "log-ratio", "reward", "share"], width=11, first=25))
        for token in few:
            share = f"{100 * abs(token['log_ratio']) / total:.0f}%" if total else "-"
            cells = [shown(token["logprob"]), shown(token["reference_logprob"])]
            cells += [shown(token["log_ratio"], signed=True), shown(token["reward"], signed=True), share]
            head = f"{token['position']:>4} " + _cell(repr(token["token"]), 19)
            out.append(head + " " + "".join(f"{cell:>11}" for cell in cells))
    return [*out, "", "share: part of the sum of |log-ratio| over the completion's tokens"]


def _row(name: str, cells: Sequence[str], *, width: int = 12, first: int = 24) -> str:
    return (f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell in cells)).rstrip()


def _end(source: str, width: int) -> str:
    """A row's name, cut at its start, because the line number is at its end."""
    return source if len(source) <= width - 1 else "…" + source[-(width - 2) :]


def _cell(text: str, width: int) -> str:
    """Cut or filled to `width` columns of a terminal; East Asian letters take two."""
    sizes = [2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text]
    if sum(sizes) > width:
        while sum(sizes) > width - 1:
            sizes.pop()
        text, sizes = text[: len(sizes)] + "…", [*sizes, 1]
    return text + " " * (width - sum(sizes))
