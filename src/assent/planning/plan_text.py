"""The plan as lines of text, 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from assent.data.overlooked import WARNING
from assent.data.sources import CHOSEN
from assent.diagnosis.examine import Report
from assent.planning.choice import Alternative, Choice
from assent.planning.facts import KINDS, Facts, Source, shown
from assent.planning.frontier import Chosen
from assent.planning.measuring import Measurement
from assent.planning.rules import rules

WIDTH = 80
SHARES = (
    "largest_group",
    "thumbs_up",
    "tied",
    "contradictory",
    "raters",
    "agreement",
    "noise",
    "longer_wins",
    "logged",
)
MOST_FINDINGS = 6


def lines_of_facts(facts: Facts) -> list[str]:
    """The facts that the data tells."""
    told = [*(kind for kind in KINDS if facts[kind]), *(name for name in SHARES if facts[name])]
    rows = [(name.replace("_", " "), shown(facts, name)) for name in told]
    rows.append(("start", f"{facts.start} (--start; auto goes by the chat template alone)"))
    rows += [(name, shown(facts, name)) for name in ("feedback", "reward")]
    return ["What the data can support", *(f"  {name:<18}{value}" for name, value in rows)]


def lines_of_warnings(sources: Iterable[Source]) -> list[str]:
    """What was chosen, or is doubtful, in how the data was read."""
    notes = [(source.name, note) for source in sources for note in source.rows.dataset.notes]
    warnings = [f"{path}: {note}" for path, note in notes if note.startswith((WARNING, CHOSEN))]
    return [line for text in warnings for line in wrapped(text, "  ", "    ")]


def lines_of_choice(choice: Choice) -> list[str]:
    before = {"demonstrations": "SFT on the demonstrations, then ", "chosen": "SFT on the chosen answers, then "}
    lines = ["", *wrapped(f"The method: {before.get(choice.first, '')}{choice.title}", "", "  ")]
    for reason in choice.reasons:
        lines += wrapped(reason.text, "  because ", "    ")
        lines += wrapped(f"[{reason.source}]", "    ", "    ")
    if choice.options or choice.reward_options:
        lines += wrapped(f"options: {_listed({**choice.options, **choice.reward_options})}", "  ", "    ")
    return lines


def lines_of_alternatives(choice: Choice) -> list[str]:
    lines = ["", "What the others give up"]
    for one in choice.alternatives:
        what = f"not possible: {one.excluded}" if one.excluded else one.gives_up
        lines += wrapped(f"{_named(one)}: {what}", "  ", "    ")
    lines += ["", "When the answer would change"]
    for change in choice.changes or ("with none of the rules' conditions near",):
        lines += wrapped(change, "  ", "    ")
    return lines


def _named(one: Alternative) -> str:
    """The method's name, and what it is where no command has that name."""
    is_command = rules()["methods"][one.method]["command"] == one.method
    return one.method if is_command else f"{one.method} ({one.title})"


def lines_of_frontier(chosen: Chosen | None, choice: Choice) -> list[str]:
    """The point that was chosen, what each limit costs, and which settings are not options of the method."""
    if chosen is None:
        return []
    lines = [
        "",
        "From the measured frontier",
        *(line for text in chosen.lines() for line in wrapped(text, "  ", "    ")),
    ]
    if others := [name for name in chosen.settings if name not in choice.options]:
        lines += wrapped(f"set where the reward is combined: {', '.join(others)}", "  ", "    ")
    return lines


def lines_of_needs(chosen: str) -> list[str]:
    """What every method needs: phases, models in memory, data, samples, and how it fails."""
    lines = ["", "What each method needs"]
    for name, method in rules()["methods"].items():
        lines += ["", f"  {name}{' (chosen)' if name == chosen else ''}: {method['title']}"]
        for key in ("wants", "phases", "resident", "samples", "fails_by", "source"):
            lines += wrapped(f"{method[key]}", f"    {key.replace('_', ' '):<10}", " " * 14)
    return lines


def lines_of_risks(reports: Mapping[str, Report]) -> list[str]:
    lines = ["", "What is likely to go wrong"]
    for path, report in reports.items():
        for finding in report.findings[:MOST_FINDINGS]:
            lines += wrapped(f"{path}: {finding.verdict} ({finding.rule})", "  ", "    ")
            lines += wrapped(f"to do: {finding.next_action}", "    ", "      ")
        if len(report.findings) > MOST_FINDINGS:
            lines += wrapped(f"and {len(report.findings) - MOST_FINDINGS} more: assent data check {path}", "  ", "    ")
        if not report.findings:
            lines += wrapped(f"{path}: {len(report.checked)} rules found nothing", "  ", "    ")
    return lines


def lines_of_measurement(measurement: Measurement) -> list[str]:
    return ["", "What to measure", *(line for text in measurement.lines for line in wrapped(text, "  ", "    "))]


def lines_of_spending(spending: Sequence[Mapping[str, Any]]) -> list[str]:
    if not spending:
        return []
    lines = ["", "Where to spend on labels"]
    for one in spending:
        share = f"{one['share']:.0%}" if one["mends"] else "nothing: no preference method mends it"
        lines += wrapped(f"{one['problem']}: {share}; needs {one['needs']}", "  ", "    ")
    return lines


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def wrapped(text: str, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False, break_long_words=False
    )
