"""frontier.json as text within 80 columns, as a picture of its own, and as a section of the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from assent.reporting.charts import over_optimisation_chart
from assent.reporting.formatting import DASH, number
from assent.runs.text_table import aligned

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
    """The page's chart as an SVG file with its own colours, for light and dark mode."""
    names = ", ".join(curve["name"] for curve in document["methods"])
    drawing = over_optimisation_chart(document, identity="f", description=f"Gold and proxy against √KL: {names}")
    return drawing.replace("<g ", f"{_STYLE}<g ", 1) + "\n"


def frontier_lines(document: Mapping[str, Any]) -> list[str]:
    """Where gold peaks, how well the laws fit, and best-of-N against the other methods at equal KL."""
    start = number(document["gold_at_reference"])
    lines = [
        f"{document['num_prompts']} prompts, gold by {_tail(document['gold'], 28)}: {start} at the reference",
        f"d = √KL, KL in nats per completion; {document['confidence']:.0%} intervals over prompts",
        "",
        *aligned([("gold", "pairs", "d up to", "peak at d", "gain", "fall after the peak"), *_peaks(document)]),
    ]
    fitted = [curve for curve in document["methods"] if curve["fits"]]
    if fitted:
        head = ("law", "R²: BoN", "RL", "peak by its law", "error after: BoN", "RL")
        lines += ["", *aligned([head, *map(_laws, fitted)])]
    compared = [row for row in document["at_equal_kl"] if row["more_gold_at_equal_kl"] is not None]
    if compared:
        body = [(row["curve"], _short(row["best_of_n"]), _signed(row["more_gold_at_equal_kl"])) for row in compared]
        lines += ["", *aligned([("at equal KL", "best-of-N by", "extra gold of best-of-N"), *body])]
    return lines


def _peaks(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for curve in document["methods"]:
        top, found = curve["highest"], curve["peak"] is not None
        farthest = max(point["d"] for point in curve["points"])
        fall = _signed(top["drop"], plus=False) if found else f"none {_ends(top['drop'])}"
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
    """Cuts a path at its beginning."""
    name = text if ":" in text else str(Path(text))
    return name if len(name) <= width else "…" + name[1 - width :]


def _name(text: str) -> str:
    half = WIDEST_NAME // 2
    return text if len(text) <= WIDEST_NAME else f"{text[: half - 1]}…{text[-half:]}"


def over_optimisation(frontier: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The page's section: picture, sentence and rows of frontier.json (SCHEMA.md); None if there is none."""
    if frontier is None or not frontier["methods"]:
        return None
    rows = [_figures(method) for method in frontier["methods"]]
    described = "; ".join(f"{row['name']} gains {row['gain']} at d = {row['at']}" for row in rows)
    picture = over_optimisation_chart(frontier, identity="over", description=f"Gold and proxy against √KL: {described}")
    return {"picture": Markup(picture), "sentence": sentence(frontier), "rows": rows, "frontier": frontier}


def sentence(frontier: Mapping[str, Any]) -> str:
    """What the curves show about over-optimisation."""
    fallen = [method for method in frontier["methods"] if method["peak"] is not None]
    if not fallen:
        return "No curve is over-optimised in the measured range: gold does not fall by more than chance."
    first = min(fallen, key=lambda method: method["peak"]["sqrt_kl"])
    drop = first["highest"]["drop"]
    curves = len(frontier["methods"])
    more = f" Gold falls on {len(fallen)} of {curves} curves." if curves > 1 else ""
    known = drop["low"] is not None and drop["high"] is not None
    ends = f" (interval {number(drop['low'])} to {number(drop['high'])})" if known else ""
    beyond = f"{first['name']} is over-optimised beyond a KL of {number(first['peak']['sqrt_kl'] ** 2, 1)} nats"
    return f"{beyond}: from there to its last point, gold falls by {number(drop['value'])}{ends}.{more}"


def _figures(method: Mapping[str, Any]) -> dict[str, Any]:
    highest, own = method["highest"], "best_of_n" if method["method"] == "best-of-n" else "rl"
    fits = {fit["law"]: fit for fit in method["fits"] if fit["score"] == "gold"}
    law = fits.get(own)
    beyond = method["beyond_peak"]
    return {
        "name": method["name"],
        "pairs": DASH if method["pairs"] is None else f"{method['pairs']:,}",
        "far": number(max(point["d"] for point in method["points"])),
        "at": number(highest["sqrt_kl"]),
        "at_ends": _range(highest["low"], highest["high"]),
        "found": method["peak"] is not None,
        "gain": number(highest["gain"]),
        "drop": highest["drop"],
        "law": {"best_of_n": "best-of-N", "rl": "RL"}[own],
        "r2": None if law is None or law["r2"] is None else number(law["r2"]),
        "law_peak": None if law is None else number(law["peak_sqrt_kl"]),
        "beyond": None
        if beyond is None
        else f"{number(beyond['rmse']['best_of_n'], 3)} and {number(beyond['rmse']['rl'], 3)}",
    }


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"
