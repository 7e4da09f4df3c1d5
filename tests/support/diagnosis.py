"""Run folders and logs written by hand, for the doctor."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_run(
    folder: Path, rows: Iterable[Mapping[str, Any]], *, command: str = "dpo", status: str = "finished", **config: Any
) -> Path:
    """A run folder of ours with these lines of metrics and options."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "format": 1,
        "command": command,
        "config": {
            "model": "private/start",
            "data": "private/secret.jsonl",
            "output_dir": str(folder),
            **config,
        },
        "hashes": {},
        "status": status,
        "versions": {"assent": "0.1.0"},
        "facts": {},
        "notes": ["train data: private/secret.jsonl"],
        "result": None,
    }
    (folder / "run.json").write_text(json.dumps(manifest))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "samples.jsonl").write_text(json.dumps({"step": 1, "prompt": "a secret", "completion": "hidden"}) + "\n")
    return folder


def dpo_rows(margins: Sequence[float], *, rate: float = 1e-5, epochs: float = 1.0) -> list[dict[str, float]]:
    """Lines as `dpo` writes them, with a loss that belongs to the margin and some noise."""
    rows = []
    for i, margin in enumerate(margins):
        noisy = margin + 0.03 * (-1) ** i
        rows.append(
            {"step": i + 1, "loss": math.log1p(math.exp(-noisy)), "rewards/margins": noisy, "rewards/chosen": noisy / 2,
             "rewards/rejected": -noisy / 2, "rewards/accuracies": 0.5 if margin < 0.1 else 0.75, "grad_norm": 1.0,
             "logps/chosen": -40.0, "logps/rejected": -41.0, "learning_rate": rate,
             "epoch": epochs * (i + 1) / len(margins)}
        )  # fmt: skip
    return rows
