"""`logged-data`, a stage of an update's pipeline: logs as rows to train on, and prompts to compare models on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from assent.config.update import LoggedDataConfig
from assent.data.loading import write_groups
from assent.data.splitting import conversation_root, split_by_conversation_root
from assent.data.texts import last_content
from assent.diagnosis.drift.encoding import hash_of
from assent.diagnosis.drift.reading import read_baseline
from assent.errors import DataError
from assent.planning.logged import Logged, asked, comparisons, pairs_of, read_logged, roots, thumbs
from assent.runs.progress import Progress, Silent
from assent.types import PromptGroup

LAYOUTS = {"pairs": "comparisons", "thumbs": "thumbs", "prompts": "prompts"}
MOST_OF_BASELINE = 50_000
NO_SLICE = "none"


def logged_data(config: LoggedDataConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `train`, `eval` (rows of the kind), `prompts` (files), `output_dir`, `rows` (their numbers), `not_used`
    (of the logs, by reason).

    Raises DataError if one of them would be empty.
    """
    logged = read_logged(config.logs, config.columns).since(config.since)
    half = config.fraction / 2  # prompts that chose the checkpoint would flatter it at the gate
    splits = split_by_conversation_root(
        list(logged.prompts.values()), fractions={"train": 1 - config.fraction, "eval": half, "compared": half},
        seed=config.seed,
    )  # fmt: skip
    prompts = _compared_on(config, splits["compared"])
    compared = roots(prompts)
    labelled = _labelled(config, logged)
    known = [(conversation_root(group.prompt), group) for group in labelled]
    parts = {
        name: [group for root, group in known if root in of_split and root not in compared]
        for name, of_split in ((name, roots(splits[name])) for name in ("train", "eval"))
    }
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    progress = progress or Silent()
    for line in logged.not_used():
        progress.line(f"of the logs {line}")
    outputs: dict[str, Any] = {"output_dir": str(folder), "rows": {}, "not_used": dict(logged.refused)}
    for name, groups, layout in (
        *((name, part, LAYOUTS[config.kind]) for name, part in parts.items()),
        ("prompts", prompts, "prompts"),
    ):
        if not groups:
            raise DataError(f"{config.logs} leaves no rows for {name}.jsonl", fix="give more logs, or another fraction")
        groups = [_as_text(group) for group in groups] if config.as_text else groups
        write_groups(folder / f"{name}.jsonl", groups, layout)
        outputs[name] = str(folder / f"{name}.jsonl")
        outputs["rows"][name] = len(groups)
        progress.line(f"{name}: {len(groups):,} {config.kind if name != 'prompts' else 'prompts'}")
    return outputs


def _labelled(config: LoggedDataConfig, logged: Logged) -> list[PromptGroup]:
    if config.kind == "pairs":
        pairs = pairs_of(logged.rated, every=config.weighted)
        return comparisons(pairs, logged=config.logged, weighted=config.weighted)
    if config.kind == "thumbs":
        assert config.up_above is not None
        return thumbs(logged.rated, up_above=config.up_above, weighted=config.weighted)
    return list(logged.prompts.values())


def _compared_on(config: LoggedDataConfig, held_out: Sequence[PromptGroup]) -> list[PromptGroup]:
    """The held-out prompts, and as many of the baseline's that are not among them."""
    now = [_with_era(group, "now") for group in _drawn(held_out, config)]
    if config.baseline is None:
        return now
    taken = roots(now)
    before = prompts_of_baseline(config.baseline, config.columns)
    fresh = [group for root, group in before.items() if root not in taken]
    return [*now, *(_with_era(group, "release") for group in _drawn(fresh, config))]


def prompts_of_baseline(baseline: str, columns: Mapping[str, str]) -> dict[str, PromptGroup]:
    """A prompt of each conversation of the release, by the conversation's root."""
    rows, _ = read_baseline(Path(baseline), columns=columns, most=MOST_OF_BASELINE)
    return {conversation_root(group.prompt): group for group in map(asked, rows)}


def _as_text(group: PromptGroup) -> PromptGroup:
    """Without roles, and without the system's turn, which a model without a chat template was not served."""
    assert not isinstance(group.prompt, str)  # a logged prompt is a conversation, if of one turn
    turns = [turn.content for turn in group.prompt if turn.role != "system"]
    return replace(group, prompt="\n".join(turns), completions=tuple(map(last_content, group.completions)))


def _drawn(groups: Sequence[PromptGroup], config: LoggedDataConfig) -> list[PromptGroup]:
    """At most `eval_prompts`, at random: a log's first prompts are its oldest."""
    by_hash = sorted(groups, key=lambda group: hash_of(str(config.seed), conversation_root(group.prompt)))
    return by_hash[: config.eval_prompts]


def _with_era(group: PromptGroup, era: str) -> PromptGroup:
    """With both columns that an evaluation slices by, which every row must have."""
    return PromptGroup(prompt=group.prompt, columns={"slice": NO_SLICE, **group.columns, "era": era})
