"""What an adapter's folder may hold (law 13), as `folder_contents` says it of a model's. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from assent.errors import ModelError
from assent.models.folder_contents import check_safetensors

ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_PATTERN, MAX_NAMES, MAX_RANK = 10_000, 10_000, 2**16
_PATTERNS = ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern",
             "target_parameters", "modules_to_save")  # fmt: skip


def check_adapter_files(folder: Path, config: Mapping[str, Any]) -> None:
    """An adapter's folder: LoRA, weights in safetensors, nothing in adapter_config.json that makes PEFT load more."""
    if config.get("peft_type", "LORA") != "LORA":
        raise ModelError(
            "this kind of adapter is not supported",
            got=f"peft_type {config['peft_type']!r} in {folder}",
            expected="LORA",
        )
    for name in ("megatron_config", "corda_config", "eva_config", "lora_ga_config", "arrow_config"):
        if config.get(name):
            raise ModelError(
                "adapter_config.json asks PEFT to load other code or files",
                got=f"{name} in {folder}",
                fix=f"remove {name} from adapter_config.json",
            )
    _check_scales(folder, config)
    _check_patterns(folder, config)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError("the adapter's folder has no weights in safetensors", got=folder, expected=ADAPTER_WEIGHTS)
    check_safetensors(folder)


def _check_scales(folder: Path, config: Mapping[str, Any]) -> None:
    """Ranks and alphas, which multiply the weights, are numbers of their size."""
    alphas, ranks = (
        {name: config.get(name), **(more if isinstance(more := config.get(pattern), dict) else {})}
        for name, pattern in (("lora_alpha", "alpha_pattern"), ("r", "rank_pattern"))
    )
    for numbers, most in ((alphas, 1e9), (ranks, MAX_RANK)):
        for name, value in numbers.items():
            is_number = type(value) in (int, float) and math.isfinite(value) and 0 < value <= most
            if value is not None and not is_number:
                raise ModelError(
                    "adapter_config.json has a rank or an alpha that is none",
                    got=f"{name} {value!r:.60} in {folder}",
                    expected=f"a number above 0, at most {most:g}",
                )


def _check_patterns(folder: Path, config: Mapping[str, Any]) -> None:
    """PEFT searches the names of all layers for these patterns, so none may take time without end."""
    for name in _PATTERNS:
        if isinstance(config.get(name), (list, dict)) and len(config[name]) > MAX_NAMES:
            raise ModelError(
                "adapter_config.json names more layers than models have",
                got=f"{len(config[name])} {name} in {folder}",
                expected=f"at most {MAX_NAMES}",
            )
        for pattern in _texts(config.get(name)):
            if len(pattern) > MAX_PATTERN or _may_explode(pattern):
                raise ModelError(
                    "adapter_config.json has a pattern that may take without end to search for",
                    got=f"{name} {pattern!r:.60} in {folder}",
                    expected="names of layers, or a pattern without repeated repetitions",
                )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        yield from (item for item in value if isinstance(item, str))


def _may_explode(pattern: str) -> bool:
    """Whether a group that repeats something, or has a choice, is itself repeated: `(a+)+`, `(a|a)*`. Such a pattern
    may try exponentially many ways."""
    groups, closed, skip, in_set = [False], False, False, False
    for symbol in pattern:
        if skip:
            skip, closed = False, False
        elif symbol == "\\":
            skip = True
        elif in_set:
            in_set, closed = symbol != "]", False
        elif symbol == "[":
            in_set, closed = True, False
        elif symbol == "(":
            groups.append(False)
            closed = False
        elif symbol == ")" and len(groups) > 1:
            closed = groups.pop()
            groups[-1] = groups[-1] or closed
        else:
            if symbol in "*+{" and closed:
                return True
            groups[-1] = groups[-1] or symbol in "*+{|"
            closed = False
    return False
