"""What `judge` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from assent.judging.collecting import ANCHOR, DATA, Comparison
from assent.statistics.intervals import Estimate

WIDTH = 80


def lines_of(record: Mapping[str, Any], findings: Sequence[Mapping[str, Any]], *, spent: bool, path: str) -> list[str]:
    lines = [
        f"judge {record['judge']}",
        f"  {record['prompts_judged']:,} of {record['prompts']:,} prompts judged, "
        f"{record['comparisons']:,} comparisons, {record['ties']:,} ties",
    ]
    lines += [f"  {record['invalid']:,} replies were no verdict and count as ties"] if record["invalid"] else []
    lines += [_row("both orders agree", record["consistent"])] if record["consistent"] else []
    lines += _bias("wins of the first, beyond 0.5", record["position"])
    lines += [_row("the longer answer wins", record["longer_wins"])] if record["longer_wins"] else []
    for kind, control in record["controls"].items():
        lines.append(_row(f"bad answer wins: {kind}", control["success"]) + f"  of {control['number']}")
    if (anchor := record["anchor"]) is not None:
        lines.append(_row("agrees with people", anchor["agreement"]) + f"  of {anchor['comparisons']}")
        lines += _bias("longer wins, minus people's", anchor["length"])
        lines += [_row("agreement since --previous", anchor["moved"]["difference"])] if anchor["moved"] else []
    for rate in record.get("win_rates", ()):
        lines.append(_row(f"{rate['first']} beats {rate['second']}", rate["win_rate"]))
        if corrected := rate.get("corrected"):
            ends = f"{corrected['value']:.2f} [{corrected['low']:.2f}, {corrected['high']:.2f}]"
            lines.append(f"    corrected by people: {ends}, {corrected['width_factor']:.1f} times as wide")
    if cost := record.get("spent"):
        lines.append(
            f"  {cost['requests']:,} requests, {cost['input_tokens']:,} tokens read, "
            f"{cost['output_tokens']:,} written, cost {cost['cost']:.4g}"
        )
    for finding in findings:
        text = f"{finding['severity']}: {finding['verdict']}. To do: {finding['next_action']}"
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    if spent:
        lines.append("  the budget is spent: with a larger one the same command continues")
    return [*lines, f"judge -> {path}"]


def _row(name: str, estimate: Mapping[str, Any]) -> str:
    return f"  {name:<30} {Estimate.from_dict(dict(estimate)).text()}"


def _bias(name: str, test: Mapping[str, Any] | None) -> list[str]:
    """The bias, and the smallest one that so many comparisons could have shown."""
    if test is None:
        return []
    smallest = test["smallest_found"]
    could = "no bias could have been found" if smallest is None else f"one of {smallest:g} would have been found"
    return [_row(name, test["bias"]), f"    {could} in {'this many' if smallest is None else '80% of'} tests"]


def dry_lines(counts: Mapping[str, Any], comparisons: Sequence[Comparison]) -> list[str]:
    data = [one for one in comparisons if one.part == DATA]
    anchors = sum(one.part == ANCHOR for one in comparisons)
    controls = len(comparisons) - len(data) - anchors
    prompts = len({one.pair.prompt for one in data})
    lines = [
        f"{prompts:,} prompts: {len(data):,} comparisons, {controls:,} controls, {anchors:,} anchors, in both orders",
        f"  {counts['requests']:,} requests; some {counts['input_tokens']:,} tokens to read, at most "
        f"{counts['output_tokens']:,} to write",
        f"  cost about {counts['cost']:.4g}",
    ]
    lines += [f"  {counts['kept']:,} more answers are kept from before"] if counts["kept"] else []
    return [*lines, "nothing was asked (--dry-run)"]
