"""assent monitor: what moved in the logs of a deployed model since its release, and why.

Torch is imported only with --reward-model or --policy.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assent.config.monitor import MonitorConfig
from assent.diagnosis.drift.formats import UNPAIRED, Reader
from assent.diagnosis.drift.reading import content_of, read_baseline, read_logs
from assent.diagnosis.drift.reference import fit
from assent.diagnosis.drift.report import document_of, lines_of, openmetrics_of
from assent.diagnosis.drift.served import Served
from assent.diagnosis.drift.state import load, save
from assent.diagnosis.drift.watcher import Look, Watcher
from assent.errors import DataError, UsageError
from assent.runs.files import write_text

if TYPE_CHECKING:
    from assent.rewards.base import Reward


def monitor(config: MonitorConfig, *, now: float | None = None) -> tuple[dict[str, Any], list[str], int]:
    """The document, the same as lines of text, and the exit status. `now`: seconds since 1970, for tests."""
    scorer = None
    if config.reward_model is not None:
        from assent.commands.monitor_models import load_scorer

        scorer = load_scorer(config)  # once: --watch looks again and again
    while True:
        document, lines, status = _look(config, scorer, time.time() if now is None else now)
        if not config.watch:
            return document, lines, status
        for name in document["new"]:
            print(f"new alert: {name} ({config.logs})", file=sys.stderr, flush=True)
        time.sleep(config.refresh_seconds)


def _look(config: MonitorConfig, scorer: Reward | None, now: float) -> tuple[dict[str, Any], list[str], int]:
    bound = {} if config.state is None else _bound(config)
    watcher, notes = _opened(config, scorer, bound)
    reader = Reader(config.columns)
    reader.restore(watcher.pending)
    refused: Counter[str] = Counter()
    before = watcher.counts.copy()
    rows = read_logs(Path(config.logs), reader, places=watcher.places, refused=refused)
    policy = _take(watcher, rows, config, scorer, now=now)
    refused[UNPAIRED] += reader.num_unpaired
    watcher.counts.update({reason: count for reason, count in refused.items() if count})
    watcher.pending = reader.pending()
    read = watcher.counts - before
    if not watcher.counts["rows"] and not reader.num_waiting:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in read.most_common(3)) or "no rows"
        raise DataError(
            f"no row of {config.logs} can be used", got=reasons, expected="prompt and completion in each row",
            fix="--columns THEIRS=prompt,THEIRS=completion names the fields",
        )  # fmt: skip
    looks = watcher.test(now=now, policy=policy)
    if config.state is not None:
        save(watcher, Path(config.state), options=bound)
    document = document_of(watcher, looks, read, show_text=config.show_text)
    document["notes"], document["policy"] = notes, policy
    lines = [*notes, *lines_of(watcher, looks, read, show_text=config.show_text)]
    _write(config, watcher, looks, document)
    failed = document["new"] if config.fail_on == "new" else document["open"]
    return document, lines, int(bool(failed))


def _take(
    watcher: Watcher, rows: Iterator[Served], config: MonitorConfig, scorer: Reward | None, *, now: float
) -> dict[str, float] | None:
    """Counts the rows, scored if there is a reward model. What --policy measured on some of them."""
    if scorer is None and config.policy is None:
        watcher.take(rows, now=now)
        return None
    from assent.commands.monitor_models import Kept, scored, served_beside

    kept = Kept(config.policy_rows)
    seen = kept.through(rows) if config.policy is not None else rows
    watcher.take(seen if scorer is None else scored(seen, scorer), now=now)
    return None if config.policy is None else served_beside(kept.rows, config)


def _write(config: MonitorConfig, watcher: Watcher, looks: list[Look], document: dict[str, Any]) -> None:
    if config.output is not None:
        from assent.reporting.monitor import write_monitor

        document["page"] = str(write_monitor(Path(config.output), watcher, document))
    if config.openmetrics is not None:
        write_text(Path(config.openmetrics), openmetrics_of(watcher, looks), what=config.openmetrics)
        document["openmetrics"] = config.openmetrics


def _bound(config: MonitorConfig) -> dict[str, Any]:
    """Options that a state is bound to: with others its counts or its spending would mean something else."""
    return {
        "baseline": content_of(Path(config.baseline)),
        "baseline_rows": config.baseline_rows,
        "columns": dict(config.columns),
        "alpha": config.alpha,
        "season": config.season,
        "reward_model": _hash_of_reward(config),
    }


def _hash_of_reward(config: MonitorConfig) -> str | None:
    if config.reward_model is None:
        return None
    from assent.rewards.loading import reward_hash

    return reward_hash(config.reward_model)


def _opened(config: MonitorConfig, scorer: Reward | None, bound: Mapping[str, Any]) -> tuple[Watcher, list[str]]:
    """The watcher of the state, which must be bound to the same, or a new one."""
    if config.state is not None and Path(config.state).exists():
        watcher, options = load(Path(config.state))
        differing = [name for name, value in bound.items() if options.get(name) != value]
        if differing:
            raise UsageError(
                f"{config.state} belongs to another {', '.join(differing)}",
                got=", ".join(f"{name} {bound[name]}" for name in differing),
                expected=", ".join(f"{name} {options.get(name)}" for name in differing),
                fix="give the same, or another --state: days are then counted anew",
            )
        return watcher, []
    rows, refused = read_baseline(Path(config.baseline), columns=config.columns, most=config.baseline_rows)
    if scorer is not None:
        from assent.commands.monitor_models import scored

        rows = list(scored(rows, scorer))
    reference = fit(rows, season=config.season)
    notes = [f"baseline: {len(rows):,} rows"
             + (f" of {reference.num_days} days" if reference.num_days else " without times")
             + (", each weekday compared with its like" if reference.is_seasonal else "")]  # fmt: skip
    notes += [f"  of the baseline not used: {reason}: {count:,}" for reason, count in refused.most_common()]
    return Watcher(reference=reference, alpha=config.alpha), notes
