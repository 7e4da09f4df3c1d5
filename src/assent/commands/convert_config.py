"""`convert-config`: another trainer's configuration in our names. The answers stand in `config/foreign.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from assent.commands.conversion import BATCH, Conversion
from assent.commands.foreign_defaults import fill_in
from assent.commands.foreign_files import ForeignFile, read_foreign
from assent.commands.foreign_rules import RULES
from assent.config.commands import ConvertConfig
from assent.config.foreign import LOSSES, answer
from assent.config.loading import parse_options
from assent.config.loss_options import comparison_loss_declaration
from assent.config.losses import THUMBS_LOSSES
from assent.errors import ConfigError, UsageError
from assent.pipelines.steps import STEPS
from assent.runs.files import storage_errors

COMMANDS = {"sft": "sft", "dpo": "dpo", "rm": "reward", "reward": "reward", "reward_modeling": "reward", "kto": "kto",
            "ppo": "ppo", "ppo_ray": "ppo", "grpo": "grpo", "gdpo": "grpo", "rloo": "rloo", "prm": "reward",
            "online_dpo": "online-dpo", "ipo": "dpo", "orpo": "dpo", "simpo": "dpo", "cpo": "dpo"}  # fmt: skip
"""Their stages and scripts, and our commands."""
SCRIPT = re.compile(
    r"(?:^|[/._ ])(?:train_)?(online_dpo|reward_modeling|ppo_ray|sft|dpo|rm|reward|kto|ppo|grpo|rloo|prm|orpo|cpo)"
    r"(?:\.py|_llama|$|[ /_.])"
)
"""A stage in the name of a script or in a sub-command: train_dpo.py, openrlhf.cli.train_rm, trl sft."""
LOSS_OF_STAGE = {"ipo": "ipo", "orpo": "orpo", "simpo": "simpo", "cpo": "cpo"}
ESTIMATORS = {"gae": "ppo", "group_norm": "grpo", "grpo": "grpo", "dr_grpo": "grpo", "rloo": "rloo",
              "reinforce": "rloo", "reinforce_baseline": "rloo"}  # fmt: skip
"""OpenRLHF's estimators of the advantage, and our commands."""
TELLING = (
    ("reward_funcs num_generations max_completion_length", "grpo"),
    ("total_episodes missing_eos_penalty response_length", "ppo"),
    ("desirable_weight undesirable_weight", "kto"),
    ("center_rewards_coefficient", "reward"),
    ("beta loss_type max_prompt_length precompute_ref_log_probs", "dpo"),
    ("packing assistant_only_loss completion_only_loss dataset_text_field max_seq_length", "sft"),
)
"""Options of TRL by which a file without a script's name is known."""


def convert_config(config: ConvertConfig) -> tuple[dict[str, Any], list[str]]:
    """The document (`command`, `options`, `changed`, `left`, `to_do`, `output`) and the same as lines of YAML."""
    foreign = read_foreign(config.file)
    stage, command = _stage_of(foreign, config.command)
    found = Conversion(foreign.trainer, command, STEPS[command].config_class(), foreign.options)
    found.num_devices = config.num_devices or foreign.num_devices or 1
    found.has_devices = bool(config.num_devices or foreign.num_devices)
    if stage in LOSS_OF_STAGE:
        found.ours["loss_type"] = LOSS_OF_STAGE[stage]
    if stage == "prm":
        found.ours |= {"supervision": "process", "loss_type": "bce"}
    _convert(found)
    to_do = _checked(found)
    lines = _lines(config, found, to_do)
    if config.output is not None:
        _write(Path(config.output), lines)
    document = {"trainer": foreign.trainer, "for": command, "options": found.ours, "changed": found.changed}
    return {**document, "left": found.left, "to_do": to_do, "output": config.output}, lines


def _stage_of(foreign: ForeignFile, given: str | None) -> tuple[str, str]:
    """Their stage, and our command. Raises ConfigError where the file does not say it."""
    options = foreign.options
    said = str(options.get("stage") or options.get("rl") or "").lower()
    if not said and foreign.trainer == "axolotl":
        said = "rm" if options.get("reward_model") else "prm" if options.get("process_reward_model") else "sft"
    if not said:
        names = re.findall(SCRIPT, " ".join(foreign.words))
        said = names[0] if names else ""
    if said in ("ppo", "ppo_ray") and (estimator := str(options.get("advantage_estimator", "gae"))):
        return said, given or ESTIMATORS.get(estimator, "ppo")
    if not said and foreign.trainer == "TRL":
        parts = re.split(r"[/._-]", foreign.path.lower())
        said = next((part for part in reversed(parts) if part in COMMANDS), "")
        said = said or next((stage for names, stage in TELLING if set(names.split()) & options.keys()), "")
    if given is None and said not in COMMANDS:
        raise ConfigError(
            f"{foreign.path} does not say what it trains"
            if not said
            else f"there is no command for their stage {said}",
            got=f"{foreign.trainer}: {', '.join(list(options)[:6])} …",
            expected="one of " + ", ".join(sorted(set(COMMANDS))),
            fix="name our command with --command",
        )
    return said, given or COMMANDS[said]


def _convert(found: Conversion) -> None:
    """Each option by its rule, or by the table; then those that follow from several."""
    for name, value in found.options.items():
        if value in (None, "", []) or name in ("stage", "rl"):
            continue
        if name in RULES:
            RULES[name](found, name, value)
        elif name in BATCH:
            continue  # taken together
        elif name in found.fields:
            found.take(name, value)
        else:
            _by_table(found, name, value)
    _loss(found)
    found.adapter()
    found.batch()
    found.held_out()
    fill_in(found)
    found.schedule()
    unset = [name for name in ("learning_rate", "max_length") if name not in found.ours]
    if unset:
        found.changed.append(f"{', '.join(unset)}: unset there; the defaults here may differ")


def _by_table(found: Conversion, name: str, value: Any) -> None:
    known = answer(name)
    if known is None:
        found.left.append(f"{name}: unknown")
    elif value is False:
        return  # what is switched off there is not missed here
    elif known.ours is None:
        found.left.append(f"{name}: {known.says}")
    elif known.ours.partition(".")[0] not in found.fields:
        found.left.append(f"{name}: {found.command} has no {known.ours}" + (f"; {known.says}" if known.says else ""))
    elif known.says:
        found.left.append(f"{name}: {known.ours}: {known.says}")
    else:
        found.take(known.ours, value)


def _loss(found: Conversion) -> None:
    """The loss under our name, and the hyperparameters that it has."""
    if found.command not in ("dpo", "online-dpo"):
        found.left += [f"{name}: {found.command} has none" for name in found.hyperparameters]
        return
    theirs = str(found.ours.get("loss_type", "sigmoid"))
    found.ours["loss_type"] = name = LOSSES.get(theirs, theirs)
    if theirs == "kto_pair":
        near = "their kto_pair without its estimate of the KL; assent kto takes thumbs"
        found.changed.append(f"loss_type apo_zero: {near}")
    try:
        known = comparison_loss_declaration(name).hyperparameters
    except ConfigError:
        found.ours.pop("loss_type")
        note = "a loss of thumbs: assent kto" if name in THUMBS_LOSSES else "no such loss; docs/papers.md lists ours"
        found.left.append(f"loss {name}: {note}")
        return
    for theirs in ("beta", *list(found.hyperparameters)):
        store = found.ours if theirs == "beta" else found.hyperparameters
        if theirs in store and theirs not in known:
            store.pop(theirs)
            found.left.append(f"{theirs}: loss {name} has none")
    if found.hyperparameters:
        found.ours["hyperparameters"] = dict(found.hyperparameters)


def _checked(found: Conversion) -> list[str]:
    """What must be done before our parser accepts the options; nothing if it accepts them."""
    to_do = list(found.to_do)
    if "reward" in found.fields and "reward" not in found.ours:
        found.ours["reward"] = "my_rewards:reward"
        to_do.append("reward: name what scores completions, a reward model's folder or module:function")
    for name in ("model", "data", "output_dir"):
        if name not in found.ours:
            found.ours[name] = f"my-{name.replace('_dir', '')}"
            to_do.append(f"{name}: the file names none")
    try:
        parse_options(found.kind, found.ours)
    except ConfigError as error:
        parts = (" ".join(line.split()) for line in str(error).splitlines())
        to_do.append(f"not accepted yet: {'; '.join(filter(None, parts))}")
    return to_do


def _lines(config: ConvertConfig, found: Conversion, to_do: list[str]) -> list[str]:
    """YAML whose comments say what has changed and what is left."""
    head = [
        f"# From {config.file}, a configuration of {found.trainer}. Run it with:",
        f"#   assent {found.command} --config {config.output or 'FILE'}",
    ]
    body = yaml.safe_dump(found.ours, sort_keys=False, allow_unicode=True, width=110).splitlines()
    said = []
    for title, notes in (("To do", to_do), ("Changed in meaning", found.changed), ("No counterpart", found.left)):
        said += ["#", f"# {title}:", *(f"#   {note}" for note in notes)] if notes else []
    return [*head, *body, *said]


def _write(path: Path, lines: list[str]) -> None:
    if path.exists():
        raise UsageError(f"{path} exists already", fix="delete it, or give another --output")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
