"""Experiment trackers that a run can report to, and whether they are installed. Torch-free: nothing is imported."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

from assent.errors import ConfigError

TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}
"""Packages of each tracker. One of them must be installed."""
WITH_PROJECT = frozenset({"wandb", "mlflow", "trackio"})
"""TensorBoard has no projects: it reads folders."""


def check_trackers(names: Sequence[str]) -> None:
    """ConfigError for a tracker that is unknown, named twice, or not installed."""
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigError("a tracker is named twice", got=name, fix="name it once")
        if ":" not in name and name not in TRACKERS:
            expected = f"{', '.join(TRACKERS)}, or module:Class of a subclass of accelerate's GeneralTracker"
            raise ConfigError("unknown tracker", got=name, expected=expected)
        packages = TRACKERS.get(name, (name.partition(":")[0],))
        if not any(map(_is_installed, packages)):
            fix = f"pip install {packages[0]}, or leave it out" if name in TRACKERS else "check the module's name"
            raise ConfigError(f"tracker {name} is not installed", expected=f"package {packages[0]}", fix=fix)


def _is_installed(module: str) -> bool:
    """Whether the top package of the module is on Python's path or in the working directory."""
    top, here = module.partition(".")[0], os.getcwd()
    sys.path.insert(0, here)
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False
    finally:
        sys.path.remove(here)
