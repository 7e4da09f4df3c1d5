"""Reads another trainer's configuration: a YAML or JSON file, or a shell script with its command. Nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assent.config.loading import MAX_YAML_BYTES, read_value, read_yaml
from assent.errors import ConfigError

TRAINERS = ("TRL", "LLaMA-Factory", "axolotl", "OpenRLHF")


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """`options` by their trainer's names; `words` are those of the command line that are no options."""

    path: str
    trainer: str
    options: Mapping[str, Any]
    words: Sequence[str] = ()
    num_devices: int | None = None
    """Processes that the command line starts, if it says so in figures."""


def read_foreign(path: str) -> ForeignFile:
    """Raises ConfigError for a file that is none of the four trainers'."""
    file = Path(path)
    if file.suffix.lower() in (".yaml", ".yml", ".json"):
        options = _flat(read_yaml(file))
        words: list[str] = []
        devices: int | None = None
    else:
        options, words, devices = _of_command(_text(file))
    trainer = _trainer_of(options, words)
    if trainer is None:
        raise ConfigError(
            f"{path} is not a configuration that is known here",
            got=", ".join(list(options)[:8]) or "no options",
            expected="a YAML or JSON file, or a shell script with one command, of " + ", ".join(TRAINERS),
        )
    return ForeignFile(path, trainer, options, words, devices)


def _text(file: Path) -> str:
    try:
        if not file.is_file():
            raise FileNotFoundError
        with file.open("rb") as stream:
            return stream.read(MAX_YAML_BYTES).decode("utf-8-sig", errors="replace")
    except FileNotFoundError:
        raise ConfigError(f"no file {file}", fix="check the path") from None
    except OSError as error:
        raise ConfigError(f"cannot read {file}", got=error.strerror, fix="check the path") from None


def _flat(loaded: Mapping[str, Any]) -> dict[str, Any]:
    """axolotl's `trl:` section holds options of its own; the others are flat."""
    nested = loaded.get("trl")
    rest = {name: value for name, value in loaded.items() if name != "trl"}
    return {**rest, **nested} if isinstance(nested, Mapping) else dict(loaded)


def _trainer_of(options: Mapping[str, Any], words: Sequence[str]) -> str | None:
    said, names = " ".join(words).lower(), set(options)
    if "openrlhf" in said or names & {"pretrain", "micro_train_batch_size", "actor_learning_rate"}:
        return "OpenRLHF"
    if re.search(r"llama.?factory|train_bash", said) or names & {"finetuning_type", "cutoff_len", "stage", "pref_beta"}:
        return "LLaMA-Factory"
    if "axolotl" in said or "base_model" in names:
        return "axolotl"
    if names & {"model_name_or_path", "dataset_name", "per_device_train_batch_size", "dataset_mixer"}:
        return "TRL"
    return None


def _of_command(text: str) -> tuple[dict[str, Any], list[str], int | None]:
    """The options of the script's longest command, its other words, and how many processes it starts."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
    commands = [_split(line) for line in lines if "--" in line]
    if not commands:
        return {}, [], None
    words = max(commands, key=lambda parts: sum(part.startswith("--") for part in parts))
    launched = re.search(r"--(?:nproc[-_]per[-_]node|num[-_]processes|num_gpus)[= ](?:\$\{\w+:-)?(\d+)", text)
    options: dict[str, Any] = {}
    rest: list[str] = []
    name: str | None = None
    start = _script_at(words)
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].replace("-", "_").partition("=")
            options[name] = read_scalar(value) if equals else True
            name = None if equals else name
        elif name is not None:
            before = options[name]
            options[name] = read_scalar(word) if before is True else [*_listed(before), read_scalar(word)]
        else:
            rest.append(word)
    for launcher in words[:start]:  # options of torchrun and accelerate are not the trainer's
        options.pop(launcher[2:].replace("-", "_").partition("=")[0], None) if launcher.startswith("--") else None
    return options, [*words[: start + 1], *rest], None if launched is None else int(launched[1])


def _script_at(words: Sequence[str]) -> int:
    """Where the trainer's own name stands: options before it are the launcher's."""
    found = [
        i for i, word in enumerate(words)
        if word.endswith(".py") or word.startswith("openrlhf") or word in ("trl", "llamafactory-cli", "axolotl")
    ]  # fmt: skip
    return found[0] if found else 0


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a quotation mark that is opened on another line
        return line.split()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def read_scalar(text: str) -> Any:
    """A word of a command line as YAML would read it."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    try:
        return read_value(text)
    except ConfigError:
        return text
