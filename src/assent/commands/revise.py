"""`judge --revise`: completions criticised by principles and rewritten; the new one is chosen, the old one rejected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from assent.commands.judges import chat_of, continue_chat, hashes_of, rubric_of
from assent.config.judge import JudgeConfig
from assent.data.loading import write_groups
from assent.data.named import load_named
from assent.data.texts import counted
from assent.errors import DataError
from assent.judging.budget import Prices, estimated_tokens
from assent.judging.collecting import shown_text
from assent.judging.revising import Revised, critique_texts, principle_for, revise
from assent.judging.rubric import written
from assent.runs.files import write_json
from assent.runs.folder import KEPT, RunFolder
from assent.runs.kept import Kept
from assent.runs.progress import Progress
from assent.types import Message, Preference, PromptGroup, Text

Old = tuple[PromptGroup, int]
"""A row, and which of its completions."""


def revise_answers(config: JudgeConfig, *, progress: Progress) -> dict[str, Any]:
    """Outputs: `judged` (file), `report` (judge.json), `output_dir`, `spent`, `lines`; with `dry_run` the counts."""
    dataset = load_named(config, is_to_be_judged=True)
    groups = list(dataset)[: config.num_prompts or None]
    old = [(group, k) for group in groups for k in range(len(group.completions))]
    if not old:
        raise DataError(f"{config.data} has no completions to revise", expected="prompt, completion")
    if config.dry_run:
        return _dry_run(config, old)
    chat, rubric = chat_of(config, max_tokens=config.max_new_tokens), rubric_of(config)
    hashes = {"data": dataset.sha256, **hashes_of(config)}
    with RunFolder.open(config.output_dir, config.model_dump(), command="judge", resume=True, hashes=hashes) as folder:
        if folder.result is not None:
            progress.line(f"{folder.path}: every completion is revised; nothing to do")
            return folder.result
        continue_chat(chat, kept_of(folder, progress), folder.path)
        for note in dataset.lines():
            progress.line(f"{config.data}: {note}")
        with progress.task("completions", total=len(old)) as task:
            texts = [shown_text(group.completions[k]) for group, k in old]
            prompts = [group.prompt for group, _ in old]
            new = revise(
                chat, prompts, texts, rubric=rubric, turns=config.revise, seed=config.seed, advance=task.advance
            )
        assert chat.budget is not None
        return _finish(config, folder, old, new, name=f"{chat.model} at {chat.url}", spent=chat.budget.as_dict())


def _finish(
    config: JudgeConfig, folder: RunFolder, old: list[Old], new: list[Revised], *, name: str, spent: dict[str, Any]
) -> dict[str, Any]:
    pairs = [_pair(*one, revised, name) for one, revised in zip(old, new, strict=False)]
    kept = [pair for pair in pairs if pair is not None]
    is_spent = len(new) < len(old)
    if not kept and is_spent:
        raise DataError(
            "the budget was spent before one completion was changed",
            got=f"{len(new):,} of {counted(len(old), 'completion')} done", fix="raise --max-requests or --max-cost",
        )  # fmt: skip
    if not kept:
        raise DataError(
            "no completion was changed", got=counted(len(new), "completion"), fix="look at judgements.jsonl"
        )
    paths = paths_of(folder.path)
    write_groups(paths["judged"], kept, "comparisons")
    record = {
        "schema": 1, "judge": name, "completions": len(old), "revised": len(kept), "unchanged": len(new) - len(kept),
        "spent": spent,
    }  # fmt: skip
    write_json(Path(paths["report"]), record)
    lines = [
        f"judge {name}",
        f"  {len(kept):,} of {len(old):,} completions revised, {len(new) - len(kept):,} unchanged",
        f"  {spent['requests']:,} requests, {spent['input_tokens']:,} tokens read, {spent['output_tokens']:,} written, "
        f"cost {spent['cost']:.4g}",
    ]
    lines += ["  the budget is spent: with a larger one the same command continues"] if is_spent else []
    outputs = {**paths, "spent": is_spent, "lines": [*lines, f"judge -> {paths['judged']}"]}
    if not is_spent:
        folder.finish(outputs)
    return outputs


def _pair(group: PromptGroup, k: int, revised: Revised, name: str) -> PromptGroup | None:
    """The new completion and the old one; None if they are the same."""
    before = group.completions[k]
    if not revised.answers or revised.answers[-1].strip() == shown_text(before).strip():
        return None
    text = revised.answers[-1]
    after: Text = text if isinstance(before, str) else (Message("assistant", text),)
    number = len(group.completions)
    columns = {
        column: value[k] if isinstance(value, list) and len(value) == number > 1 else value
        for column, value in group.columns.items()
    }
    return replace(
        group,
        completions=(after, before),
        preference=Preference(ranking=(1, 2), annotator=name),
        logps=None,
        steps=None,
        columns={**columns, "critiques": list(revised.critiques)},
    )


def _dry_run(config: JudgeConfig, old: list[Old]) -> dict[str, Any]:
    """A critique is taken to be as long as it may be."""
    rubric, longest = rubric_of(config), config.max_new_tokens
    inputs = 0
    for number, (group, k) in enumerate(old):
        principle = principle_for(rubric, prompt=number, turn=0, seed=config.seed)
        once = estimated_tokens(*critique_texts(group.prompt, shown_text(group.completions[k]), principle))
        later = estimated_tokens(written(group.prompt)) + longest
        inputs += 2 * once + longest + (config.revise - 1) * (2 * later + longest)
    requests = 2 * config.revise * len(old)
    outputs = requests * longest
    cost = Prices(config.input_price, config.output_price).of(inputs, outputs)
    lines = [
        f"{len(old):,} completions, {config.revise} rounds of critique and revision: at most {requests:,} requests",
        f"  some {inputs:,} tokens to read, at most {outputs:,} to write",
        f"  cost at most about {cost:.4g}",
        "nothing was asked (--dry-run)",
    ]
    counts = {"requests": requests, "input_tokens": inputs, "output_tokens": outputs, "cost": cost}
    return {**paths_of(Path(config.output_dir)), "dry_run": True, **counts, "lines": lines}


def kept_of(folder: RunFolder, progress: Progress) -> Kept:
    """The answers that an earlier process was given."""
    kept = Kept(folder.path / KEPT[0])
    for line in kept.said:
        progress.line(line)
    if len(kept):
        progress.line(f"{len(kept):,} answers are kept from before and are not requested again")
    return kept


def paths_of(folder: Path) -> dict[str, str]:
    return {"output_dir": str(folder), "judged": str(folder / "judged.jsonl"), "report": str(folder / "judge.json")}
