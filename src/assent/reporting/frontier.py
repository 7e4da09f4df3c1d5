"""frontier.json as lines of text within 80 columns, and as a picture that stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assent.reporting.charts import over_optimisation_chart
from assent.reporting.formatting import DASH, number

WIDEST_NAME = 20
_STYLE = """<style>
svg { --ink: #1b2026; --muted: #5f6872; --line: #d6d9db; --series-1: #1d5a96; --series-2: #c0622a; --series-3: #468646;
      background: #ffffff; font-family: system-ui, sans-serif; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e6e8eb; --muted: #98a1ac; --line: #2b3138; --series-1: #82b6ea; --series-2: #eca564;
        --series-3: #8fca8c; background: #181c21; }
}
</style>"""


def frontier_picture(document: Mapping[str, Any]) -> str:
    """An SVG file: the page's picture with colours of its own, for light and dark."""
    names = ", ".join(curve["name"] for curve in document["methods"])
    drawing = over_optimisation_chart(document, identity="f", description=f"Gold and proxy against √KL: {names}")
    return drawing.replace("<g ", f"{_STYLE}<g ", 1) + "\n"


def frontier_lines(document: Mapping[str, Any]) -> list[str]:
    """Where gold peaks, what the laws say, and best-of-N against the rest at equal KL."""
    start = number(document["gold_at_reference"])
    lines = [
        f"{document['num_prompts']} prompts, gold by {_tail(document['gold'], 28)}: {start} at the reference",
        f"d = √KL, KL in nats per completion; {document['confidence']:.0%} intervals over prompts",
        "",
        *_aligned([("gold", "pairs", "d up to", "peak at d", "gain", "loss after the peak"), *_peaks(document)]),
    ]
    fitted = [curve for curve in document["methods"] if curve["fits"]]
    if fitted:
        head = ("law", "R²: BoN", "RL", "peak by its own law", "error beyond: BoN", "RL")
        lines += ["", *_aligned([head, *map(_laws, fitted)])]
    compared = [row for row in document["at_equal_kl"] if row["more_gold_at_equal_kl"] is not None]
    if compared:
        body = [(row["curve"], _short(row["best_of_n"]), _signed(row["more_gold_at_equal_kl"])) for row in compared]
        lines += ["", *_aligned([("at equal KL", "best-of-N by", "best-of-N has more gold by"), *body])]
    return lines


def _peaks(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for curve in document["methods"]:
        top, found = curve["highest"], curve["peak"] is not None
        farthest = max(point["d"] for point in curve["points"])
        fall = _signed(top["drop"], plus=False) if found else f"none seen {_ends(top['drop'])}"
        at = number(top["sqrt_kl"]) + ("" if found else "?")
        pairs = DASH if curve["pairs"] is None else f"{curve['pairs']:,}"
        rows.append((curve["name"], pairs, number(farthest), at, number(top["gain"]), fall))
    return rows


def _laws(curve: Mapping[str, Any]) -> tuple[str, ...]:
    fits, beyond = {fit["law"]: fit for fit in curve["fits"]}, curve["beyond_peak"]
    own = fits["best_of_n" if curve["method"] == "best-of-n" else "rl"]
    errors = (DASH, DASH) if beyond is None else (number(beyond["rmse"][law], 3) for law in ("best_of_n", "rl"))
    ends = "" if own["peak_ends"] is None else " [" + ", ".join(_open_end(end) for end in own["peak_ends"]) + "]"
    peak = _open_end(own["peak_sqrt_kl"]) + ends
    return (curve["name"], number(fits["best_of_n"]["r2"]), number(fits["rl"]["r2"]), peak, *errors)


def _open_end(end: float | None) -> str:
    return "∞" if end is None or end > 99 else number(end)


def _signed(estimate: Mapping[str, Any], *, plus: bool = True) -> str:
    value = number(estimate["value"])
    return f"{'+' if plus and estimate['value'] > 0 else ''}{value} {_ends(estimate)}"


def _ends(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return "(too few)"
    return f"[{number(estimate['low'])}, {number(estimate['high'])}]"


def _short(name: str) -> str:
    return name.removeprefix("best-of-n ")


def _tail(text: str, width: int) -> str:
    """The end of a path says more than its beginning."""
    name = text if ":" in text else str(Path(text))
    return name if len(name) <= width else "…" + name[1 - width :]


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """First column left, the others right; a rule under the head; a long name loses its middle."""
    rows = [(_cut(row[0]), *row[1:]) for row in table]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [lines[0], "─" * max(map(len, lines)), *lines[1:]]


def _cut(text: str) -> str:
    half = WIDEST_NAME // 2
    return text if len(text) <= WIDEST_NAME else f"{text[: half - 1]}…{text[-half:]}"
