"""How often is `assent doctor` right, and does what it advises help?

Makes tiny runs with one known fault each (`assent.sandbox.faults`), healthy ones, and some with two faults or with a
weaker one; asks the doctor's rules about each run's log; counts. The runs are kept in the folder --runs and made only
once, so that an interrupted measurement goes on. `calibration` and `report` are two sets of seeds that never meet, and
one family of tasks is in the second alone: thresholds may be chosen on the first, figures are told of the second.

Beside it stands a baseline: the fixed thresholds that public tools use. A finding of severity info counts as none.

    python benchmarks/doctor.py --runs DIR --purpose report --first 3000 --seeds 20 --healthy 600 --cures 5

Two processes share the work: the same command with --part 1/2 and with --part 2/2 makes every second run each, and then
the command without --part, which finds all of them made, prints the whole.

--cures repeats runs whose fault is not one of code, with the change that the doctor prints. Cured is a run in which the
doctor finds nothing more, and whose gold (or held-out accuracy, or loss) is not below the interval of healthy runs of
the same stage and task (of which 5% lie below). `options` counts the faults that a change of options can mend; `others`
those of labels, rows, the reward or the start, for which no option gives what a healthy run reaches.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from assent.commands.doctor import fixed_options
from assent.diagnosis.case import Case
from assent.diagnosis.examine import Report, examine
from assent.diagnosis.fix import changes
from assent.sandbox.faults.confusion import Confusion, Seen, confusion, interval, lower_ends, table
from assent.sandbox.faults.records import (
    WITHOUT_GOLD,
    Planned,
    case_of,
    kept,
    outcome,
    plan_fault,
    plan_healthy,
    record_of,
)
from assent.sandbox.faults.registry import FAULTS, PAIRS
from assent.sandbox.faults.running import perform
from assent.sandbox.faults.settings import Setting
from assent.statistics.small import ends, fmean

STRENGTHS = (0.66, 0.33, 0.0)
ROUNDS_OF_CURE = 3
STUCK = frozenset({"nothing_learned", "learning_rate_zero", "no_gradient", "reference_moves", "labels_masked"})
"""What a loss that stays where it began may mean."""


def main() -> None:
    import torch

    options = _arguments()
    torch.set_num_threads(1)
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else None
    runs = Runs(options.runs, deadline, options.part)
    names = options.only or [*FAULTS]
    planned = [*plan_healthy(options.purpose, options.healthy, first=options.first)]
    for name in names:
        planned += plan_fault(name, options.purpose, range(options.first, options.first + options.seeds))
    planned.sort(key=lambda one: one.number % 50_000)  # all faults a little, rather than some of them wholly
    seen = [*runs.of(planned)]
    result: dict[str, Any] = {"purpose": options.purpose, "runs": len(seen), "missing": len(planned) - len(seen)}
    reports = [(one, record, _report(one, record)) for one, record in seen]
    ours, theirs = confusion(map(_seen, reports)), confusion(_by_thresholds(reports))
    result |= {"doctor": ours.as_dict(), "baseline": theirs.as_dict()}
    if options.pairs:
        result["two_faults"] = _two_faults(runs, options)
    if options.strengths:
        result["strengths"] = _strengths(runs, options, names)
    if options.cures:
        result["cures"] = _cures(runs, options, reports)
    result["cpu_seconds"] = round(time.process_time(), 1)
    print("\n".join(table(result["doctor"], result["baseline"])), file=sys.stderr)
    print(json.dumps(result, indent=1))


def parser_of(description: str | None, faults: Iterable[str], *, seeds: int, healthy: int) -> argparse.ArgumentParser:
    """The options of every such measurement."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder in which what was made is kept")
    parser.add_argument("--purpose", choices=("calibration", "report"), default="calibration")
    parser.add_argument("--seeds", type=int, default=seeds, help="of each fault")
    parser.add_argument("--first", type=int, default=0, help="number of the first seed; fresh ones after a calibration")
    parser.add_argument("--healthy", type=int, default=healthy, help="healthy ones, over all stages and tasks")
    parser.add_argument("--only", nargs="*", choices=[*faults], help="these faults alone")
    parser.add_argument("--part", type=part_of, default=(1, 1), help="I/N: make every N-th only, from the I-th on")
    parser.add_argument("--minutes", type=float, default=0.0, help="make no more after this time; 0: no limit")
    return parser


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, FAULTS, seeds=5, healthy=64)
    parser.add_argument("--pairs", type=int, default=0, help="runs of each pair of faults")
    parser.add_argument("--strengths", type=int, default=0, help="runs of each weaker strength")
    parser.add_argument("--cures", type=int, default=0, help="runs of each fault to cure")
    return parser.parse_args()


def part_of(text: str) -> tuple[int, int]:
    """`2/3` as (2, 3)."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    mine, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= mine <= parts:
        raise argparse.ArgumentTypeError(f"got {text}, expected I/N with I from 1 to N, as in 1/2")
    return mine, parts


class Runs:
    """Records of planned runs: those that are kept, and those of this part, made by `making` while there is time."""

    def __init__(
        self,
        folder: Path,
        deadline: float | None,
        part: tuple[int, int] = (1, 1),
        making: Callable[[Setting], dict[str, Any]] = perform,
    ) -> None:
        self.folder, self.deadline, self.part, self.making = folder, deadline, part, making

    def of(self, planned: Iterable[Planned]) -> Iterator[tuple[Planned, dict[str, Any]]]:
        for number, one in enumerate(planned):
            record = record_of(one, self.folder, make=self.makes(number), making=self.making)
            if record is not None:
                yield one, record
            if number % 50 == 49:
                print(f"{number + 1} runs, {time.process_time():.0f} s of CPU", file=sys.stderr, flush=True)

    def makes(self, number: int) -> bool:
        """Whether this process makes the run of this number, if it is not kept."""
        mine, parts = self.part
        return number % parts == mine - 1 and (self.deadline is None or time.monotonic() < self.deadline)


Reported = tuple[Planned, dict[str, Any], Report]


def _report(planned: Planned, record: Mapping[str, Any]) -> Report:
    needs_gold = any("reward_hacked" in FAULTS[name].rules for name in planned.faults)
    return examine(case_of(dict(record), with_gold=needs_gold or planned.seed % WITHOUT_GOLD == 0))


def _findings(report: Report) -> tuple[str, ...]:
    return tuple(finding.rule for finding in report.findings if finding.severity != "info")


def _seen(reported: Reported) -> Seen:
    planned, _, report = reported
    found = _findings(report)
    return Seen(planned.faults, planned.stage, found, found[0] if found else None)


def thresholds(case: Case) -> set[str]:
    """The rules that public tools' fixed thresholds amount to: post-training-toolkit (kl > 0.3, a DPO loss within 0.68
    to 0.71, margin < 0.1, approx_kl > 0.02), TRL (a KL below -1, a ratio above 10), and a check for NaN as all have."""
    found: set[str] = {"not_finite"} if case.not_finite else set()
    at_end = {name: fmean(ends(series.values)[1]) for name, series in case.series.items()}
    if case.stage in ("dpo", "online-dpo"):
        found |= STUCK if 0.68 <= at_end.get("loss", 0.0) <= 0.71 else set()
        if at_end.get("rewards/margins", 1.0) < 0.1:
            found |= STUCK | {"margin_falls", "beta_too_low"}
    kl = at_end.get("objective/kl", 0.0)
    found |= {"kl_explodes", "kl_unbounded", "reward_hacked"} if kl > 0.3 else set()
    found |= {"kl_negative"} if min((*_values(case, "objective/kl"), 0.0)) < -1 else set()
    too_far = at_end.get("policy/approxkl_avg", 0.0) > 0.02 or at_end.get("val/ratio", 1.0) > 10
    return found | ({"oversize_updates"} if too_far else set())


def _values(case: Case, name: str) -> tuple[float, ...]:
    series = case.find(name)
    return () if series is None else tuple(series.values)


def _by_thresholds(reports: Iterable[Reported]) -> Iterator[Seen]:
    for planned, _, report in reports:
        yield Seen(planned.faults, planned.stage, tuple(sorted(thresholds(report.case))))


def _two_faults(runs: Runs, options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in PAIRS:
        name = "+".join(pair)
        seen = [
            _seen((one, record, _report(one, record)))
            for one, record in runs.of(
                plan_fault(name, options.purpose, range(options.first, options.first + options.pairs))
            )
        ]
        counts: Confusion = confusion(seen)
        both = sum(all(set(FAULTS[fault].rules) & set(run.found) for fault in pair) for run in seen)
        found[name] = {"both": interval(both, len(seen)), **{k: interval(*v) for k, v in counts.detected.items()}}
    return found


def _strengths(runs: Runs, options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """By fault and strength: runs in which it is named, and runs in which anything is found."""
    found: dict[str, Any] = {}
    seeds = range(options.first, options.first + options.strengths)
    for name in names:
        for strength in STRENGTHS if FAULTS[name].fades else ():
            reports = [
                _report(one, record) for one, record in runs.of(plan_fault(name, options.purpose, seeds, strength))
            ]
            named = sum(bool(set(_findings(report)) & set(FAULTS[name].rules)) for report in reports)
            found.setdefault(name, {})[str(strength)] = {
                "named": interval(named, len(reports)),
                "anything": sum(bool(_findings(report)) for report in reports),
            }
    return found


def _cures(runs: Runs, options: argparse.Namespace, reports: list[Reported]) -> dict[str, Any]:
    """By fault: runs tried, cured by the first change, and by at most ROUNDS_OF_CURE changes one after another."""
    reached: dict[tuple[str, str], list[float]] = {}
    tried: dict[str, list[int]] = {}
    for planned, record, _ in reports:
        if not planned.faults and (value := outcome(record)) is not None:
            reached.setdefault((planned.stage, planned.family), []).append(value)
    least = lower_ends(reached)
    number = 0
    for planned, _, report in reports:
        last = options.first + options.cures
        if not planned.faults or planned.number >= last or not changes(report.case.config, report.findings):
            continue
        setting = planned.setting(runs.folder / "models")
        if setting.patches or setting.logged or (planned.stage, planned.family) not in least:
            continue  # no option mends code
        number += 1
        rounds = _cured_after(planned, report, least[planned.stage, planned.family], runs, makes=runs.makes(number))
        if rounds is not None:
            tried.setdefault(planned.name, []).append(rounds)
    found = {name: _of_cures(rounds) for name, rounds in sorted(tried.items())}
    for kind, mended in (("options", True), ("others", False)):
        found[kind] = _of_cures(
            [one for name, rounds in tried.items() if FAULTS[name].mended is mended for one in rounds]
        )
    return found


def _of_cures(rounds: list[int]) -> dict[str, Any]:
    first, any_of_three = (sum(0 < number <= most for number in rounds) for most in (1, ROUNDS_OF_CURE))
    return {"first": interval(first, len(rounds)), "in_three": interval(any_of_three, len(rounds))}


def _cured_after(planned: Planned, report: Report, least: float, runs: Runs, *, makes: bool) -> int | None:
    """How many changes, one after another, it took; 0: three did not do; None: a run of them is not kept."""
    for number in range(1, ROUNDS_OF_CURE + 1):
        made = changes(report.case.config, report.findings)
        if not made:
            return 0
        setting = planned.setting(runs.folder / "models")
        options = fixed_options(report.case, made)
        options["model"] = setting.options["model"]  # the folder may have moved since the run was made
        setting.options = {name: value for name, value in options.items() if name not in ("output_dir", "eval_data")}
        name = f"{planned.purpose}-{planned.number}-change-{number}"
        record = kept(setting, runs.folder / "cures" / planned.name, name, make=makes)
        if record is None:
            return None
        report, value = _report(planned, record), outcome(record)
        is_good = value is not None and value >= least
        print(f"{planned.name} {planned.number}, change {number}: {'; '.join(one.text() for one in made)}: "
              f"{report.verdict} {', '.join(_findings(report))}, {value} of {least:.3g}", file=sys.stderr)  # fmt: skip
        if report.verdict == "healthy" and is_good:
            return number
    return 0


if __name__ == "__main__":
    main()
