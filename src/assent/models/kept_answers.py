"""Answers of probes on small copies, kept in the user's cache folder.

An answer is about code and configuration. Its key is a hash of all that it depends on: the model's class and
configuration, device, type, attention, versions, and the source of this package. Where the folder cannot be written,
each process asks anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from assent.models.small_copy import small_copy
from assent.runs.environment import versions
from assent.runs.files import from_json, user_cache, write_json
from assent.runs.kept import content_key

_NAMES = ("_name_or_path", "name_or_path", "_model_name_or_path", "transformers_version")
"""They say where a model came from, not what it is."""
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Answer:
    """refused   for each way of reading or decoding why it may not be used; None: it may
    facts     what else was found out
    """

    refused: Mapping[str, str | None]
    facts: Mapping[str, bool]


def ask_copies(
    model: PreTrainedModel, what: str, ask: Callable[[PreTrainedModel], Answer], *, ways: Collection[str]
) -> Answer | None:
    """The kept answer for the model, or what `ask` says about small copies; None if there is no small copy.

    In half precision, a copy in float32 is asked too: rounding hides small mistakes. `ask` raises if a copy cannot be
    read at all.
    """
    path = _path(model, what)
    if (kept := _read(path, ways)) is not None:
        return kept
    types = {model.dtype} | ({torch.float32} if model.dtype.itemsize < 4 else set())
    try:
        answers = [ask(copy) for dtype in types if (copy := small_copy(model, dtype=dtype)) is not None]
    except Exception:  # the copy's sizes do not fit each other after all
        return None
    if len(answers) < len(types):
        return None
    answer = Answer(
        {way: next((r for a in answers if (r := a.refused[way]) is not None), None) for way in ways},
        {fact: all(a.facts[fact] for a in answers) for fact in answers[0].facts},
    )
    _write(path, answer)
    return answer


def _path(model: PreTrainedModel, what: str) -> Path | None:
    config: Any = model.config
    device = model.device.type
    capability = torch.cuda.get_device_capability(model.device) if device == "cuda" else None
    depends_on = {
        "what": what,
        "class": type(model).__qualname__,
        "configuration": _without_names(config.to_dict()),
        "device": [device, capability, torch.backends.cpu.get_cpu_capability()],
        "dtype": str(model.dtype),
        "attention": [config._attn_implementation, config._experts_implementation],
        "versions": versions(),
        "source": _source(),
    }
    try:
        return user_cache() / "probes" / f"{content_key(depends_on)[:32]}.json"
    except RuntimeError:  # no home folder
        return None


def _without_names(options: Any) -> Any:
    if isinstance(options, dict):
        return {str(k): _without_names(options[k]) for k in sorted(options, key=str) if k not in _NAMES}
    return options


@cache
def _source() -> str:
    """SHA-256 of the source that reads models and decodes with them: a change of it asks again."""
    digest = hashlib.sha256()
    for part in ("models", "rollouts"):
        for file in sorted((_PACKAGE / part).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(path: Path | None, ways: Collection[str]) -> Answer | None:
    """None if nothing is kept, or something else than an answer: it is then asked for and written anew."""
    try:
        stored = from_json(path.read_bytes() if path else b"{}")
        answer = Answer(stored["refused"], stored["facts"])
        return answer if set(answer.refused) == set(ways) and stored["sha256"] == content_key(asdict(answer)) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _write(path: Path | None, answer: Answer) -> None:
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {**asdict(answer), "sha256": content_key(asdict(answer))})
    except OSError:  # a cache that cannot be written is no fault
        return
