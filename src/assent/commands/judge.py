"""`judge`: has completions compared, and writes preferences that train directly.

judged.jsonl       prompt, completions, ranking; of two completions with probabilities prompt, chosen, rejected,
                   chosen_probability
judge.json         how the judge behaved, and what it cost
judgements.jsonl   an endpoint's answers, by the content of the question: a resumed run asks nothing twice
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assent.config.functions import import_function
from assent.config.judge import JudgeConfig
from assent.data.loading import write_groups
from assent.data.named import load_named
from assent.data.texts import counted
from assent.errors import DataError
from assent.judging.budget import Budget, Prices
from assent.judging.chat import LETTER_TOKENS, REASON_TOKENS, VERDICT_SCHEMA, ChatJudge, ChatModel
from assent.judging.collecting import Pair, join_prompts, pairs_of, shown_text, with_preference
from assent.judging.rubric import Rubric, read_rubric
from assent.judging.verdicts import FunctionJudge, PairJudge, Verdicts, judge_both_orders
from assent.runs.files import sha256_of, write_json
from assent.runs.folder import KEPT, RunFolder
from assent.runs.kept import Kept
from assent.runs.progress import Progress, Silent
from assent.statistics.intervals import proportion_interval
from assent.types import PromptGroup


@dataclass(frozen=True, slots=True)
class Data:
    """The prompts to judge, and every comparison of their completions."""

    groups: list[PromptGroup]
    pairs: list[Pair]
    sha256: str
    lines: list[str]


def judge(config: JudgeConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `judged` (file), `report` (judge.json), `output_dir`, `spent` (whether the budget ended first), `lines`.

    With `dry_run` instead: `requests`, `kept`, `input_tokens`, `output_tokens`, `cost`.
    """
    progress = progress or Silent()
    data = _data(config)
    by = _judge_of(config)
    if config.dry_run:
        return _dry_run(config, data, by)
    rubric = {"rubric": sha256_of(Path(config.rubric))} if config.rubric else {}
    hashes = {"data": data.sha256, **rubric, **_function_hash(config)}
    with RunFolder.open(config.output_dir, config.model_dump(), command="judge", resume=True, hashes=hashes) as folder:
        if folder.result is not None:
            progress.line(f"{folder.path}: every prompt is judged; nothing to do")
            return folder.result
        if isinstance(by, ChatJudge):
            _continue(by.chat, folder, progress)
        for line in data.lines:
            progress.line(line)
        with progress.task("comparisons", total=len(data.pairs)) as task:
            verdicts = _judged(by, data, task.advance)
        return _finish(config, folder, data, by, verdicts)


def _data(config: JudgeConfig) -> Data:
    dataset = load_named(config)
    joined = join_prompts(dataset)
    groups = [group for group in joined if len(group.completions) > 1]
    lines = [f"{config.data}: {note}" for note in dataset.notes]
    if alone := len(joined) - len(groups):
        lines.append(f"{counted(alone, 'prompt')} left out: one completion alone cannot be compared")
    if not groups:
        raise DataError(
            f"{config.data}: no prompt has two completions",
            expected="rows with completions, or rows with one completion that share their prompt",
            fix="sample with --num-completions 2 or more",
        )
    groups = groups[: config.num_prompts or None]
    return Data(groups, pairs_of(groups), dataset.sha256, lines)


def _judge_of(config: JudgeConfig) -> PairJudge:
    if config.function is not None:
        return FunctionJudge(import_function(config.function, what="judge"), name=config.function)
    assert config.endpoint is not None
    assert config.model is not None
    as_json = config.reply == "json"
    chat = ChatModel(
        config.endpoint,
        model=config.model,
        key_env=config.api_key_env,
        max_tokens=REASON_TOKENS if as_json else LETTER_TOKENS,
        logprobs=config.probabilities,
        schema=VERDICT_SCHEMA if as_json else None,
        concurrency=config.concurrency,
        timeout_seconds=config.timeout_seconds,
        budget=Budget(
            max_requests=config.max_requests,
            max_cost=config.max_cost,
            prices=Prices(config.input_price, config.output_price),
        ),
    )
    rubric = Rubric() if config.rubric is None else read_rubric(config.rubric)
    return ChatJudge(chat, rubric=rubric, probabilities=config.probabilities, as_json=as_json)


def _function_hash(config: JudgeConfig) -> dict[str, str]:
    """SHA-256 of the source file of the function's module."""
    if config.function is None:
        return {}
    file = getattr(sys.modules.get(config.function.partition(":")[0]), "__file__", None)
    return {"function": hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()}


def _continue(chat: ChatModel, folder: RunFolder, progress: Progress) -> None:
    """Answers of an earlier process are kept, and count in the budget."""
    chat.kept = Kept(folder.path / KEPT[0])
    for line in chat.kept.said:
        progress.line(line)
    assert chat.budget is not None
    for answer in chat.kept.answers():
        chat.budget.kept(answer["usage"])
    if len(chat.kept):
        progress.line(f"{len(chat.kept):,} answers are kept from before and are not requested again")


def _judged(by: PairJudge, data: Data, advance: Callable[[int], None]) -> Verdicts:
    prompts = [data.groups[pair.prompt] for pair in data.pairs]
    texts = [[shown_text(completion) for completion in group.completions] for group in data.groups]
    return judge_both_orders(
        by,
        [group.prompt for group in prompts],
        [texts[pair.prompt][pair.a] for pair in data.pairs],
        [texts[pair.prompt][pair.b] for pair in data.pairs],
        groups=prompts,
        advance=advance,
    )


def _finish(config: JudgeConfig, folder: RunFolder, data: Data, by: PairJudge, verdicts: Verdicts) -> dict[str, Any]:
    judged = _preferences(config, data, by, verdicts)
    if not judged:
        raise DataError("the budget was spent before one prompt was judged", fix="raise --max-requests or --max-cost")
    as_comparisons = all(group.preference and group.preference.chosen_probability is not None for group in judged)
    paths = _paths(folder.path)
    write_groups(paths["judged"], judged, "comparisons" if as_comparisons else "rankings")
    spent = len(judged) < len(data.groups)
    record = _record(data, by, verdicts, prompts=len(judged))
    write_json(Path(paths["report"]), record)
    outputs = {**paths, "spent": spent, "lines": _lines(record, spent=spent, path=paths["judged"])}
    if not spent:
        folder.finish(outputs)
    return outputs


def _paths(folder: Path) -> dict[str, str]:
    return {"output_dir": str(folder), "judged": str(folder / "judged.jsonl"), "report": str(folder / "judge.json")}


def _preferences(config: JudgeConfig, data: Data, by: PairJudge, verdicts: Verdicts) -> list[PromptGroup]:
    """The prompts of which every comparison was judged. The budget may end within a prompt."""
    by_prompt: dict[int, list[int]] = {}
    for number, pair in enumerate(data.pairs[: len(verdicts)]):
        by_prompt.setdefault(pair.prompt, []).append(number)
    two = config.probabilities and all(len(group.completions) == 2 for group in data.groups)
    found = []
    for i, numbers in by_prompt.items():
        group = data.groups[i]
        k = len(group.completions)
        if len(numbers) == k * (k - 1) // 2:
            pairs = [data.pairs[number] for number in numbers]
            shares = [float(verdicts.shares[number]) for number in numbers]
            found.append(with_preference(group, pairs, shares, annotator=by.name, as_probability=two))
    return found


def _record(data: Data, by: PairJudge, verdicts: Verdicts, *, prompts: int) -> dict[str, Any]:
    """judge.json. Intervals are over prompts."""
    record: dict[str, Any] = {
        "schema": 1,
        "judge": by.name,
        "prompts": len(data.groups),
        "prompts_judged": prompts,
        "comparisons": len(verdicts),
        "ties": int(np.sum(verdicts.shares == 0.5)),
        "calls": verdicts.calls,
        "invalid": verdicts.invalid,
    }
    of = [pair.prompt for pair in data.pairs[: len(verdicts)]]
    for name in ("consistent", "first_wins"):
        record[name] = _share(getattr(verdicts, name), of)
    if isinstance(by, ChatJudge) and by.chat.budget is not None:
        record["spent"] = by.chat.budget.as_dict()
    return record


def _share(values: np.ndarray, clusters: Sequence[int]) -> dict[str, Any] | None:
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return None
    return proportion_interval(values[known], clusters=[clusters[int(i)] for i in known]).as_dict()


def _lines(record: dict[str, Any], *, spent: bool, path: str) -> list[str]:
    lines = [
        f"judge {record['judge']}",
        f"  {record['prompts_judged']:,} of {record['prompts']:,} prompts judged, "
        f"{record['comparisons']:,} comparisons, {record['ties']:,} ties",
    ]
    names = {"consistent": "both orders agree", "first_wins": "the answer shown first wins"}
    lines += [f"  {text:<28} {_text(record[name])}" for name, text in names.items() if record[name]]
    lines += [f"  {record['invalid']:,} replies were no verdict and count as ties"] if record["invalid"] else []
    if "spent" in record:
        cost = record["spent"]
        lines.append(
            f"  {cost['requests']:,} requests, {cost['input_tokens']:,} tokens read, "
            f"{cost['output_tokens']:,} written, cost {cost['cost']:.4g}"
        )
    if spent:
        lines.append("  the budget is spent: with a larger one the same command continues")
    return [*lines, f"judge -> {path}"]


def _text(estimate: dict[str, Any]) -> str:
    ends = "" if estimate["low"] is None else f" [{estimate['low']:.2f}, {estimate['high']:.2f}]"
    return f"{estimate['value']:.2f}{ends}"


def _dry_run(config: JudgeConfig, data: Data, by: PairJudge) -> dict[str, Any]:
    """What `judge` would ask for: nothing is asked, and nothing is written."""
    assert isinstance(by, ChatJudge)
    kept_path = Path(config.output_dir) / KEPT[0]
    by.chat.kept = Kept(kept_path) if kept_path.exists() else None
    requests = kept = inputs = outputs = 0
    for pair in data.pairs:
        group = data.groups[pair.prompt]
        one, two = (shown_text(group.completions[k]) for k in (pair.a, pair.b))
        for first, second in ((one, two), (two, one)) if one != two else ():
            question = by.question(group.prompt, first, second)
            if by.chat.is_kept(*question):
                kept += 1
                continue
            size = by.chat.size(*question)
            requests, inputs, outputs = requests + 1, inputs + size[0], outputs + size[1]
    cost = Prices(config.input_price, config.output_price).of(inputs, outputs)
    lines = [
        f"{len(data.groups):,} prompts, {len(data.pairs):,} comparisons, both orders: {requests:,} requests",
        f"  some {inputs:,} tokens to read, at most {outputs:,} to write: cost about {cost:.4g}",
    ]
    lines += [f"  {kept:,} more answers are kept from before"] if kept else []
    lines.append("nothing was asked (--dry-run)")
    return {
        **_paths(Path(config.output_dir)),
        "dry_run": True,
        "requests": requests,
        "kept": kept,
        "input_tokens": inputs,
        "output_tokens": outputs,
        "cost": cost,
        "lines": lines,
    }
