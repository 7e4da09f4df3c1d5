"""`judge`: has completions compared, and writes preferences that train directly.

judged.jsonl       prompt, completions, ranking; of two completions with probabilities prompt, chosen, rejected,
                   chosen_probability
judge.json         how the judge behaved, and what it cost
findings.json      what is wrong with it
judgements.jsonl   the verdicts, or an endpoint's answers, by the content of the question: nothing is asked twice
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assent.commands.judge_findings import findings_of
from assent.commands.judge_text import dry_lines, lines_of
from assent.commands.judges import continue_chat, hashes_of, judge_of
from assent.commands.revise import kept_of, paths_of, revise_answers
from assent.config.judge import JudgeConfig
from assent.data.loading import load_groups, write_groups
from assent.data.named import load_named
from assent.data.texts import counted
from assent.errors import DataError, UsageError
from assent.judging.budget import Prices
from assent.judging.chat import ChatJudge
from assent.judging.collecting import ANCHOR, DATA, Comparison, comparisons_of, join_prompts, with_preference
from assent.judging.controls import CONTROLS, with_controls
from assent.judging.record import record_of, writers_of
from assent.judging.verdicts import KeptJudge, PairJudge, Verdicts, judge_both_orders
from assent.runs.files import from_json, write_json
from assent.runs.folder import KEPT, RunFolder
from assent.runs.kept import Kept
from assent.runs.progress import Progress, Silent
from assent.types import PromptGroup


@dataclass(frozen=True, slots=True)
class Data:
    """The prompts to judge, and everything to ask about them."""

    groups: list[PromptGroup]
    comparisons: list[Comparison]
    hashes: dict[str, str]
    lines: list[str]


def judge(config: JudgeConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `judged` (file), `report` (judge.json), `output_dir`, `findings`, `spent` (whether the budget ended
    first), `lines`. With `dry_run` instead of the last three: `requests`, `kept`, `input_tokens`, `output_tokens`,
    `cost`, `lines`.
    """
    progress = progress or Silent()
    if config.revise:
        return revise_answers(config, progress=progress)
    data = _data(config)
    by = judge_of(config)
    if config.dry_run:
        return _dry_run(config, data, by)
    previous = None if config.previous is None else _record(config.previous)
    hashes = {**data.hashes, **hashes_of(config)}
    with RunFolder.open(config.output_dir, config.model_dump(), command="judge", resume=True, hashes=hashes) as folder:
        if folder.result is not None:
            progress.line(f"{folder.path}: every prompt is judged; nothing to do")
            return folder.result
        asked = _continuing(by, folder, progress)
        for line in data.lines:
            progress.line(line)
        with progress.task("comparisons", total=len(data.comparisons)) as task:
            verdicts = judge_both_orders(
                asked,
                [one.group.prompt for one in data.comparisons],
                [one.a for one in data.comparisons],
                [one.b for one in data.comparisons],
                groups=[one.group for one in data.comparisons],
                advance=task.advance,
            )
        return _finish(config, folder, data, by, verdicts, previous)


def _data(config: JudgeConfig) -> Data:
    dataset = load_named(config, is_to_be_judged=True)
    joined = join_prompts(dataset)
    groups = [group for group in joined if len(group.completions) > 1]
    lines = [f"{config.data}: {note}" for note in dataset.lines()]
    if alone := len(joined) - len(groups):
        lines.append(f"{counted(alone, 'prompt')} left out: one completion alone cannot be compared")
    if not groups:
        raise DataError(
            f"{config.data}: no prompt has two completions",
            expected="rows with completions, or rows with one completion that share their prompt",
            fix="sample with --num-completions 2 or more",
        )
    groups = groups[: config.num_prompts or None]
    hashes = {"data": dataset.sha256}
    anchors: list[PromptGroup] = []
    if config.anchor is not None:
        people = load_groups(config.anchor)
        anchors, hashes["anchor"] = list(people), people.sha256
    controls = with_controls(config.controls, len(groups), seed=config.seed)
    comparisons = comparisons_of(groups, anchors=anchors, controls=controls, texts=CONTROLS)
    _check(config, comparisons)
    return Data(groups, comparisons, hashes, lines)


def _check(config: JudgeConfig, comparisons: Sequence[Comparison]) -> None:
    if config.anchor is not None and not any(one.part == ANCHOR for one in comparisons):
        raise DataError(
            f"{config.anchor} has no comparison in which people prefer one completion",
            expected="prompt, chosen, rejected; or prompt, completions, ranking",
        )
    column = config.writers
    if column is not None and not any(writers_of(one, column) for one in comparisons if one.part == DATA):
        raise DataError(
            f"{config.data} has no column {column!r} that names who wrote each completion",
            expected="a list with a name for each completion; or in rows of one completion, its name",
        )


def _record(path: str) -> dict[str, Any]:
    """judge.json of an earlier run."""
    file = Path(path) / "judge.json" if Path(path).is_dir() else Path(path)
    try:
        record = from_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--previous {path} cannot be read", got=error, expected="the folder of a judge's run"
        ) from None
    if not isinstance(record, dict) or not isinstance(record.get("anchor"), dict):
        raise UsageError(
            f"--previous {path} has no anchor set", fix="give the folder of a run of judge that had --anchor"
        )
    return record


def _continuing(by: PairJudge, folder: RunFolder, progress: Progress) -> PairJudge:
    """The judge, which asks nothing again that an earlier process was answered."""
    kept = kept_of(folder, progress)
    if not isinstance(by, ChatJudge):
        return KeptJudge(by, kept)
    continue_chat(by.chat, kept, folder.path)
    return by


def _finish(
    config: JudgeConfig,
    folder: RunFolder,
    data: Data,
    by: PairJudge,
    verdicts: Verdicts,
    previous: dict[str, Any] | None,
) -> dict[str, Any]:
    done = data.comparisons[: len(verdicts)]
    judged = _preferences(config, data.groups, done, verdicts, by.name)
    if not judged:
        raise DataError("the budget was spent before one prompt was judged", fix="raise --max-requests or --max-cost")
    as_comparisons = all(group.preference and group.preference.chosen_probability is not None for group in judged)
    paths = paths_of(folder.path)
    write_groups(paths["judged"], judged, "comparisons" if as_comparisons else "rankings")
    spent = len(verdicts) < len(data.comparisons)
    record = {"judge": by.name, "prompts": len(data.groups), "prompts_judged": len(judged)}
    record |= record_of(done, verdicts, writers=config.writers, previous=previous, seed=config.seed)
    if isinstance(by, ChatJudge) and by.chat.budget is not None:
        record["spent"] = by.chat.budget.as_dict()
    write_json(Path(paths["report"]), record)
    findings = [finding.as_dict() for finding in findings_of(record)]
    folder.write_findings({"findings": findings, "not_checked": []})
    lines = lines_of(record, findings, spent=spent, path=paths["judged"])
    outputs = {**paths, "spent": spent, "findings": findings, "lines": lines}
    if not spent:
        folder.finish(outputs)
    return outputs


def _preferences(
    config: JudgeConfig, groups: Sequence[PromptGroup], done: Sequence[Comparison], verdicts: Verdicts, name: str
) -> list[PromptGroup]:
    """The prompts of which every comparison was judged. The budget may end within a prompt."""
    by_prompt: dict[int, list[int]] = {}
    for number, one in enumerate(done):
        if one.part == DATA:
            by_prompt.setdefault(one.pair.prompt, []).append(number)
    two = config.probabilities and all(len(group.completions) == 2 for group in groups)
    found = []
    for i, numbers in by_prompt.items():
        k = len(groups[i].completions)
        if len(numbers) == k * (k - 1) // 2:
            pairs = [done[number].pair for number in numbers]
            shares = [float(verdicts.shares[number]) for number in numbers]
            found.append(with_preference(groups[i], pairs, shares, annotator=name, as_probability=two))
    return found


def _dry_run(config: JudgeConfig, data: Data, by: PairJudge) -> dict[str, Any]:
    """What `judge` would ask for: nothing is asked, and nothing is written."""
    assert isinstance(by, ChatJudge)
    kept_path = Path(config.output_dir) / KEPT[0]
    by.chat.kept = Kept(kept_path) if kept_path.exists() else None
    requests = kept = inputs = outputs = 0
    counted_already: set[tuple[str, str]] = set()
    for one in data.comparisons:
        for first, second in ((one.a, one.b), (one.b, one.a)) if one.a != one.b else ():
            question = by.question(one.group.prompt, first, second)
            if question in counted_already:
                continue
            counted_already.add(question)
            if by.chat.is_kept(*question):
                kept += 1
                continue
            size = by.chat.size(*question)
            requests, inputs, outputs = requests + 1, inputs + size[0], outputs + size[1]
    counts: dict[str, float] = {"requests": requests, "kept": kept, "input_tokens": inputs, "output_tokens": outputs}
    counts["cost"] = Prices(config.input_price, config.output_price).of(inputs, outputs)
    return {
        **paths_of(Path(config.output_dir)),
        "dry_run": True,
        **counts,
        "lines": dry_lines(counts, data.comparisons),
    }
