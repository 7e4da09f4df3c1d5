"""Adds the figures of an evaluation to the model cards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from assent.reporting.sources import Source, read_source
from assent.runs.model_card import Figure, figures_of_policy, figures_of_reward_model, write_card
from assent.runs.reading import read_run


def update_cards(folder: str | Path) -> list[Path]:
    """Updates the cards of the models that the folder's evaluation is about, and returns their paths.

    Only results of finished runs are updated. A card that the user wrote is not changed.
    """
    source = read_source(folder)
    written = []
    for model, figures in _judged(source):
        run = model.parent
        if model.name != "model" or not model.is_dir() or not (run / "run.json").is_file():
            continue
        view = read_run(run)
        if view.result is None or "model_path" not in view.result:
            continue
        card = write_card(run, view.manifest, view.result["metrics"], figures)
        written += [card] if card is not None else []
    return written


def _judged(source: Source) -> Iterator[tuple[Path, list[Figure]]]:
    """The model folders of the evaluation, with their figures."""
    evaluation = source.evaluation
    stage = next((stage for stage in reversed(source.stages) if (stage.folder / "evaluation.json").is_file()), None)
    if evaluation is None or stage is None:
        return
    policies: Mapping[str, Any] = stage.options.get("policies") or {}
    for name, path in policies.items():
        yield _now(source, str(path)), figures_of_policy(evaluation, name)
    judge = stage.options.get("reward_model")
    if judge and evaluation["reward_model"] is not None:
        yield _now(source, str(judge)), figures_of_reward_model(evaluation["reward_model"])


def _now(source: Source, path: str) -> Path:
    """Where a stage's model is now, in case the pipeline's folder was moved."""
    for stage in source.stages:
        if stage.written_to and Path(path).is_relative_to(stage.written_to):
            return stage.folder / Path(path).relative_to(stage.written_to)
    return Path(path)
