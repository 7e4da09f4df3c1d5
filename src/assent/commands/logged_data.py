"""`logged-data`, a stage of an update's pipeline: logs as rows to train on, and prompts to compare models on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assent.config.update import LoggedDataConfig
from assent.data.loading import write_groups
from assent.data.splitting import conversation_root, split_by_conversation_root
from assent.diagnosis.drift.reading import read_baseline
from assent.errors import DataError
from assent.planning.logged import Logged, asked, comparisons, pairs_of, read_logged, roots, thumbs
from assent.runs.progress import Progress, Silent
from assent.types import PromptGroup

LAYOUTS = {"pairs": "comparisons", "thumbs": "thumbs", "prompts": "prompts"}
MOST_OF_BASELINE = 50_000


def logged_data(config: LoggedDataConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `train`, `eval` (rows of the kind), `prompts` (files), `output_dir`, `rows` (their numbers).

    Raises DataError if one of them would be empty.
    """
    logged = read_logged(config.logs, config.columns).since(config.since)
    halves = split_by_conversation_root(
        list(logged.prompts.values()), fractions={"train": 1 - config.fraction, "eval": config.fraction},
        seed=config.seed,
    )  # fmt: skip
    prompts = _compared_on(config, halves["eval"])
    held_out, compared = roots(halves["eval"]), roots(prompts)
    labelled = _labelled(config, logged)
    known = [(conversation_root(group.prompt), group) for group in labelled]
    parts = {
        "train": [group for root, group in known if root not in held_out and root not in compared],
        "eval": [group for root, group in known if root in held_out],
    }
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    outputs: dict[str, Any] = {"output_dir": str(folder), "rows": {}}
    for name, groups, layout in (
        *((name, part, LAYOUTS[config.kind]) for name, part in parts.items()),
        ("prompts", prompts, "prompts"),
    ):
        if not groups:
            raise DataError(f"{config.logs} leaves no rows for {name}.jsonl", fix="give more logs, or another fraction")
        write_groups(folder / f"{name}.jsonl", groups, layout)
        outputs[name] = str(folder / f"{name}.jsonl")
        outputs["rows"][name] = len(groups)
        (progress or Silent()).line(f"{name}: {len(groups):,} {config.kind if name != 'prompts' else 'prompts'}")
    return outputs


def _labelled(config: LoggedDataConfig, logged: Logged) -> list[PromptGroup]:
    if config.kind == "pairs":
        return comparisons(pairs_of(logged.rated), logged=config.logged, weighted=config.weighted)
    if config.kind == "thumbs":
        assert config.up_above is not None
        return thumbs(logged.rated, up_above=config.up_above, weighted=config.weighted)
    return list(logged.prompts.values())


def _compared_on(config: LoggedDataConfig, held_out: Sequence[PromptGroup]) -> list[PromptGroup]:
    """The held-out prompts, and as many of the baseline's that are not among the logs'."""
    now = [_with_era(group, "now") for group in held_out[: config.eval_prompts]]
    if config.baseline is None:
        return now
    rows, _ = read_baseline(Path(config.baseline), columns=config.columns, most=MOST_OF_BASELINE)
    before = {conversation_root(group.prompt): group for group in (asked(row, era="release") for row in rows)}
    taken = roots(now)
    fresh = [group for root, group in before.items() if root not in taken]
    return [*now, *fresh[: config.eval_prompts]]


def _with_era(group: PromptGroup, era: str) -> PromptGroup:
    return PromptGroup(prompt=group.prompt, columns={"era": era, **group.columns})
