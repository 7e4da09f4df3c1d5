"""What the doctor says, as lines of text for a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from assent.diagnosis.against import differing_metrics, differing_options, only_here
from assent.diagnosis.case import Case
from assent.diagnosis.examine import Report
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.fix import described, shown
from assent.diagnosis.rule import EVERY, Rule
from assent.runs.foreign_options import CALLED, OURS, their_name

WIDTH = 80
COMMAND = re.compile(r"\bassent (data|doctor|merge|explain|eval|plan)\b[^);,]*")
FLAG = re.compile(r"--([a-z][a-z-]+(?:\.[a-z_]+)?)")
WORD = re.compile(r"[a-z]+(?:_[a-z]+)*")


def lines_of(report: Report, *, name: str, accepted: Mapping[str, str]) -> list[str]:
    lines = textwrap.wrap(f"{name}: {_about(report.case)}", WIDTH, subsequent_indent="  ", break_long_words=False)
    lines += [part for line in report.case.reading for part in _wrapped("", line)]
    return lines + lines_of_findings(report, accepted=accepted)


def lines_of_findings(report: Report, *, accepted: Mapping[str, str], above: int = 0) -> list[str]:
    """The findings, what they amount to, and what was not checked. `above`: findings that stand above these already."""
    lines: list[str] = []
    for finding in report.findings:
        lines += ["", *lines_of_finding(finding, report.case, accepted.get(finding.rule))]
    return [
        *lines,
        "",
        *textwrap.wrap(_conclusion(report, above), WIDTH, subsequent_indent="  "),
        *_not_checked(report),
    ]


def _about(case: Case) -> str:
    if case.data is not None and not case.series:
        return f"{case.data.dataset.layout}, {len(case.data):,} rows"
    if case.models is not None:
        return f"a {case.models.kind}, asked without a log"
    parts = [case.stage or "stage unknown"]
    if case.objective.loss:
        beta = f", beta {case.objective.beta:g}" if case.objective.beta is not None else ""
        smoothing = f", label smoothing {case.objective.label_smoothing:.2g}" if case.objective.label_smoothing else ""
        parts.append(f"loss {case.objective.loss}{beta}{smoothing} (by its {case.objective.how})")
    steps = f"{case.steps} of {case.planned_steps} steps" if case.planned_steps else f"{case.steps} steps"
    parts += [steps, *([case.status] if case.status else [])]
    return ", ".join(parts + ([f"log of {case.source}"] if case.source != "assent" else []))


def lines_of_finding(finding: Finding, case: Case, reason: str | None = None) -> list[str]:
    lines = [f"{finding.severity.upper()}  {finding.rule}  ({finding.confidence})", *_wrapped("", finding.verdict)]
    lines += [
        line
        for fact in finding.evidence
        for line in textwrap.wrap(_fact(fact), WIDTH, initial_indent="    ", subsequent_indent="      ")
    ]
    lines += _wrapped("cause: ", finding.cause) if finding.cause else []
    lines += _wrapped("to do: ", finding.next_action)
    changed = described(finding.fix, case.config)
    lines += _wrapped("change: ", "; ".join(changed)) if changed else []
    theirs = _there(finding, case)
    lines += _wrapped("there: ", "; ".join(theirs)) if theirs else []
    lines += _wrapped("change: ", _left_out(finding)) if finding.drop else []
    return lines + (_wrapped("accepted: ", reason) if reason else [])


def _there(finding: Finding, case: Case) -> list[str]:
    """Of the options that a finding names, those that the other trainer calls otherwise, or that it lacks."""
    if case.source not in CALLED:
        return []
    called, lacking = [], []
    for option in options_named(finding):
        name = their_name(option, case.source, case.stage)
        if name is None:
            lacking.append(option)
        elif name != option:
            called.append(f"{option} is {name}")
    if lacking:
        are = "is Assent's name" if len(lacking) == 1 else "are Assent's names"
        called.append(f"{', '.join(lacking)} {are}: none of {CALLED[case.source]} is known for it")
    return called


def options_named(finding: Finding) -> list[str]:
    """Options in a finding's change and in its words, each once; not those of a command to type in."""
    text = COMMAND.sub("", f"{finding.next_action}; {finding.cause}")
    flags = [flag.replace("-", "_") for flag in FLAG.findall(text)]
    words = [word for word in WORD.findall(text) if word in OURS]
    plain = (name.removeprefix("hyperparameters.") for name in (*finding.fix, *flags, *words))
    return list(dict.fromkeys("label_smoothing" if name == "hyperparameters" else name for name in plain))


def _left_out(finding: Finding) -> str:
    return f"leave out {_count(len(finding.drop), 'row')}: --apply writes the others"


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(f"{label}{text}", WIDTH, initial_indent="  ", subsequent_indent="    ")


def _fact(fact: Evidence) -> str:
    when = "" if fact.steps is None else f", steps {fact.steps[0]} to {fact.steps[1]}"
    if fact.steps is not None and fact.steps[0] == fact.steps[1]:
        when = f", step {fact.steps[0]}"
    return f"{fact.metric}{when}: {fact.value:.4g}" + (f", expected {fact.expected}" if fact.expected else "")


def _conclusion(report: Report, above: int) -> str:
    looked = f"{_count(len(report.checked), 'rule')} looked at {_looked_at(report)}"
    if report.verdict == "findings":
        return f"{_count(len(report.findings), 'finding')}: {looked}"
    if report.verdict == "healthy" and above:
        return f"{_count(above, 'finding')} above; {looked}, and found nothing else"
    if report.verdict == "healthy":
        so_far = " so far" if report.case.status == "running" else ""
        return f"Healthy{so_far}: {looked}, and found nothing wrong"
    too_little = "was logged" if report.case.data is None else "is there"
    return f"Cannot be judged yet, because too little {too_little}: {looked}"


def _looked_at(report: Report) -> str:
    if report.case.data is not None and not report.case.series:
        return f"{len(report.case.data):,} rows"
    if report.case.models is not None:
        return str(report.case.models.looked_at())
    rows = "" if report.data is None else f" and {len(report.data):,} rows of data"
    return f"{len(report.case.series)} metrics over {_count(report.case.steps, 'step')}{rows}"


def _not_checked(report: Report) -> list[str]:
    """Reasons with their rules, the most frequent first."""
    by_reason: dict[str, list[str]] = {}
    for rule, reason in report.not_checked:
        by_reason.setdefault(reason, []).append(rule)
    ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    lines = [line for reason, rules in ordered for line in _wrapped(f"{reason}: ", ", ".join(rules))]
    return [f"Not checked: {_count(len(report.not_checked), 'rule')}", *lines] if lines else []


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def lines_against(case: Case, good: Case, name: str) -> list[str]:
    """How the run differs from one that worked."""
    lines = [f"Beside {name}:"]
    options = differing_options(case, good)
    lines += [f"  {option}: {shown(here)} here, {shown(there)} there" for option, (here, there) in options.items()]
    lines += [] if options or not good.config else ["  no option differs, except places and seeds"]
    for one in differing_metrics(case, good):
        lines.append(f"  {one.metric}: {one.here:.4g} here, {one.there:.4g} there (last quarter of each)")
    for where, names in zip(("here", "there"), only_here(case, good), strict=True):
        lines += _wrapped(f"logged only {where}: ", ", ".join(names)) if names else []
    return lines


def lines_of_rules(rules: Iterable[Rule]) -> list[str]:
    lines: list[str] = []
    for rule in rules:
        where = "every stage" if rule.stages == EVERY else ", ".join(sorted(rule.stages))
        lines += [f"{rule.name}: {rule.title}", f"    {where}; reads {_reads(rule.metrics)}"]
    return lines


def _reads(metrics: Sequence[str]) -> str:
    return ", ".join(metrics) or "the run's end"
