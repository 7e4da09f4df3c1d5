"""Runs a setting, and keeps of it what a doctor sees: the log, the options, and what is known of the run's end."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from assent.config.loading import parse_options
from assent.config.online import GrpoConfig, PpoConfig, RlooConfig
from assent.config.online_dpo import OnlineDpoConfig
from assent.config.stages import KtoConfig, PreferenceConfig, RewardConfig, SftConfig
from assent.data.loading import write_groups
from assent.errors import AssentError, GateError
from assent.runs.files import read_lines
from assent.runs.folder import METRICS
from assent.runs.progress import Silent
from assent.runs.reading import read_manifest
from assent.sandbox.faults.settings import Setting
from assent.stages import gate, kto, online, online_preference, preference, reward, sft
from assent.stages.gate import Gate
from assent.stages.run_models import RunModels

MACHINE = ("cost/", "perf/", "time/", "critic/perf/", "rollout/tokens_per_second")
"""Metrics of the machine, which are not kept."""
STAGES: Mapping[str, tuple[Any, Any]] = {
    "sft": (SftConfig, sft.train),
    "reward": (RewardConfig, reward.train),
    "dpo": (PreferenceConfig, preference.train),
    "kto": (KtoConfig, kto.train),
    "ppo": (PpoConfig, online.train),
    "grpo": (GrpoConfig, online.train),
    "rloo": (RlooConfig, online.train),
    "online-dpo": (OnlineDpoConfig, online_preference.train),
}
LAYOUTS = {"sft": "demonstrations", "kto": "thumbs"}


class Mute(Silent):
    """Says nothing at all."""

    def line(self, text: str) -> None:
        pass


def perform(setting: Setting) -> dict[str, Any]:
    """Runs it in a folder that is gone afterwards. The record holds `stage`, `config`, `rows` (lines of the log),
    `known`, `gate` (checks before the first update that failed) and `error` (what ended the run, or None)."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        options = {**setting.options, "output_dir": str(folder)}
        if setting.held_out:
            options["eval_data"] = str(Path(scratch) / "held_out.jsonl")
            write_groups(Path(options["eval_data"]), setting.held_out, LAYOUTS.get(setting.stage, "comparisons"))
        with ExitStack() as stack:
            for patch in setting.patches:
                stack.enter_context(patch())
            failed = stack.enter_context(ungated())
            error = _run(setting, options)
        rows = [_kept(row) for row in read_lines(folder / METRICS)] if (folder / METRICS).exists() else []
        manifest = read_manifest(folder) if folder.exists() else {}
    for change in setting.logged:
        rows = change(rows)
    known = {"status": "finished" if error is None else "failed", **setting.known}
    known["planned_steps"] = manifest.get("facts", {}).get("planned_steps")
    config = {**manifest.get("config", options), **setting.shown, "output_dir": "run"}
    return {
        "stage": setting.stage,
        "family": setting.family,
        "seed": setting.seed,
        "config": config,
        "known": known,
        "gate": failed,
        "error": error,
        "rows": rows,
    }


def _run(setting: Setting, options: dict[str, Any]) -> str | None:
    config_class, train = STAGES[setting.stage]
    try:
        config = parse_options(config_class, options, where=f" of a {setting.stage} run")
        train(config, progress=Mute(), data=setting.rows)
    except AssentError as error:
        return f"{type(error).__name__}: {error.what}"
    return None


@contextmanager
def ungated() -> Iterator[list[str]]:
    """Lets runs go on that our checks would stop: before the first update (those are listed), at a later round's
    samples, and of the reference at the end."""
    failed: list[str] = []
    check = Gate.check

    def tolerant(self: Gate, name: str, value: float, **expected: Any) -> None:
        try:
            check(self, name, value, **expected)
        except GateError:
            failed.append(name)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Gate, "check", tolerant))
        stack.enter_context(mock.patch.object(gate, "MOST_MISMATCH", math.inf))
        stack.enter_context(mock.patch.object(RunModels, "check_same", return_value=None))
        yield failed


def _kept(row: dict[str, Any]) -> dict[str, float]:
    return {
        name: value if name == "step" else float(f"{value:.6g}")
        for name, value in row.items()
        if not name.startswith(MACHINE)
    }
