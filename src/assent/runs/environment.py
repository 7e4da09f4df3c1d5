"""The environment of a run: versions of packages, cores, and the git revision of this package's source."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGES = ("assent", "torch", "transformers", "accelerate", "tokenizers", "safetensors", "peft", "datasets", "numpy")


def versions() -> dict[str, str]:
    """Installed versions, without importing the packages."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_revision() -> str | None:
    """The commit of this package's work tree, with `+changes` if files differ from it; None if it is installed."""
    folder = Path(__file__).resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # not tracked: the package is installed in an environment inside someone's repository
    revision = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder.parent, "status", "--porcelain", "--untracked-files=no", ".")
    return revision and revision + ("+changes" if changes else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
