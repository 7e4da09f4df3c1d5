"""The frontier's section of the page: gold and proxy against √KL, where gold peaks, and what the laws say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from assent.reporting.charts import over_optimisation_chart
from assent.reporting.formatting import DASH, number


def over_optimisation(frontier: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Picture, sentence and rows of frontier.json (SCHEMA.md); None without one."""
    if frontier is None or not frontier["methods"]:
        return None
    rows = [_row(method) for method in frontier["methods"]]
    described = "; ".join(f"{row['name']} gains {row['gain']} at d = {row['at']}" for row in rows)
    picture = over_optimisation_chart(frontier, identity="over", description=f"Gold and proxy against √KL: {described}")
    return {"picture": Markup(picture), "sentence": sentence(frontier), "rows": rows, "frontier": frontier}


def sentence(frontier: Mapping[str, Any]) -> str:
    """What the curves show about too much of a proxy."""
    fallen = [method for method in frontier["methods"] if method["peak"] is not None]
    if not fallen:
        return "Gold falls on no curve by more than chance: as far as was measured, more of the proxy did no harm."
    first = min(fallen, key=lambda method: method["peak"]["sqrt_kl"])
    drop = first["highest"]["drop"]
    curves = len(frontier["methods"])
    more = f" Of {curves} curves, gold falls on {len(fallen)}." if curves > 1 else ""
    known = drop["low"] is not None and drop["high"] is not None
    ends = f" (interval {number(drop['low'])} to {number(drop['high'])})" if known else ""
    beyond = f"{first['name']} is over-optimised beyond {number(first['peak']['sqrt_kl'] ** 2, 1)} nats"
    return f"{beyond}: from there to its last point gold falls by {number(drop['value'])}{ends}.{more}"


def _row(method: Mapping[str, Any]) -> dict[str, Any]:
    highest, own = method["highest"], "best_of_n" if method["method"] == "best-of-n" else "rl"
    fits = {fit["law"]: fit for fit in method["fits"] if fit["score"] == "gold"}
    law = fits.get(own)
    beyond = method["beyond_peak"]
    return {
        "name": method["name"],
        "pairs": DASH if method["pairs"] is None else f"{method['pairs']:,}",
        "far": number(max(point["d"] for point in method["points"])),
        "at": number(highest["sqrt_kl"]),
        "at_ends": _ends(highest["low"], highest["high"]),
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


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"
