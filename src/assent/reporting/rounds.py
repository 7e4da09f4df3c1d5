"""The page about a loop: what each round brought, at what distance from the start, for how many labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from assent.reporting.charts import FrontierPoint, frontier_chart
from assent.reporting.formatting import kl_estimate, number
from assent.reporting.page import template, write_page


def write_rounds(folder: str | Path, record: Mapping[str, Any]) -> Path:
    """Writes the page about `iterate.json` (SCHEMA.md) as the folder's report.html, and returns its path."""
    return write_page(Path(folder) / "report.html", render_rounds(record))


def render_rounds(record: Mapping[str, Any]) -> str:
    """The page as text. It depends only on the record."""
    rounds = record["rounds"]
    taken = [one for one in rounds if one["taken"]]
    return template("rounds.html.jinja").render(
        name=record["name"],
        rounds=rounds,
        record=record,
        verdict=_verdict(rounds, taken),
        tone="better" if taken else "plain",
        picture=_picture(rounds),
        labels=sum(one["labels"] for one in rounds),
    )


def _verdict(rounds: list[Mapping[str, Any]], taken: list[Mapping[str, Any]]) -> str:
    if not rounds:
        return "No round has finished."
    if not taken:
        return "No round brought a policy that was taken."
    last = taken[-1]
    number_of = "round was" if len(taken) == 1 else "rounds were"
    return (
        f"{len(taken)} {number_of} taken of {len(rounds)}: the policy of round {last['round']} wins "
        f"{100 * last['win_rate']['value']:.0f}% against the one before it."
    )


def _picture(rounds: list[Mapping[str, Any]]) -> Markup | None:
    """Score against KL, a point for each round; without scores, the win rate against the policy before."""
    points = []
    for one in rounds:
        score, kl = one["score"] or one["win_rate"], one["kl_nats"]
        if kl is not None:
            name = f"round {one['round']}"
            points.append(
                FrontierPoint(
                    name=name, kl=kl["value"], kl_ends=_ends(kl_estimate(kl)), score=score["value"],
                    score_ends=_ends(score),
                )
            )  # fmt: skip
    if not points:
        return None
    described = "; ".join(f"{point.name} {number(point.score)} at {number(point.kl)} nats" for point in points)
    return Markup(frontier_chart(points, identity="rounds", description=f"Rounds against KL: {described}"))


def _ends(estimate: Mapping[str, Any] | None) -> tuple[float, float] | None:
    if estimate is None or estimate["low"] is None or estimate["high"] is None:
        return None
    return float(estimate["low"]), float(estimate["high"])
