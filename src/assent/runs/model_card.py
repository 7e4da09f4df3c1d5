"""The model card: README.md of a model folder, in the hub's format, with the facts of run.json and of an evaluation.

Every training stage writes one, and `assent report` adds the figures of an evaluation. A card that somebody has taken
over (without MARK) is left alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from assent.metrics import lookup
from assent.runs.files import as_number, from_json, write_text

CARD = "README.md"
MARK = "<!-- Written by Assent from the run's records. Without this line, Assent leaves the file alone. -->"
METHODS = {
    "sft": "instruction tuning (maximum likelihood of demonstrations)",
    "reward": "a reward model from preferences",
    "dpo": "direct preference optimisation",
    "kto": "preference optimisation from thumbs up and down (KTO)",
    "online-dpo": "direct preference optimisation on its own samples",
    "ppo": "PPO against a reward",
    "a2c": "advantage actor-critic against a reward",
    "grpo": "GRPO against a reward",
    "rloo": "REINFORCE leave-one-out against a reward",
}
COSTS = {
    "cost/labels": ("labels read", 1.0, ""),
    "cost/completions_sampled": ("completions sampled", 1.0, ""),
    "cost/reward_calls": ("reward calls", 1.0, ""),
    "cost/flops": ("compute", 1e12, " TFLOP"),
    "cost/seconds": ("time", 1.0, " s"),
    "cost/peak_memory_bytes": ("peak memory", 1e6, " MB"),
}
INPUTS = ("data", "eval_data", "reward", "reference", "critic")
SCORE_HEAD, SCORE_FLAG = "score_head.safetensors", "assent_score_head"
_OWN_HEAD = (
    "transformers has no class for sequence classification of this architecture. The model is a causal language model "
    f"with a score head beside it; `AutoModelForCausalLM` opens the folder, but reads no score. `{SCORE_HEAD}` (in an "
    "adapter: `score`) has the head's `weight` (scores, d). A completion's scores are `weight` times the trunk's last "
    "hidden state at the completion's last token, plus `assent_score_bias` in config.json if it is there."
)
_OWN_HEAD_SNIPPET = (
    "from assent.rewards.reward_model import RewardModel",
    "",
    'model = RewardModel(".")  # this folder',
    'scores = model.score(["a prompt"], ["a completion"])',
)
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


class Figure:
    """One measured figure: its name, what it was measured on, its value, and its interval if it has one."""

    def __init__(self, name: str, of: str, estimate: Mapping[str, Any], *, metric: str) -> None:
        self.name, self.of, self.metric = name, of, metric
        self.value = float(estimate["value"])
        ends = estimate.get("low"), estimate.get("high")
        self.ends = None if None in ends else ends
        self.count, self.confidence = estimate.get("n"), estimate.get("confidence", 0.95)

    def row(self) -> tuple[str, ...]:
        ends = "none" if self.ends is None else f"{self.ends[0]:.3g} to {self.ends[1]:.3g} ({self.confidence:.0%})"
        return self.name, f"{self.value:.3g}", ends, "" if self.count is None else str(self.count), self.of


def write_card(
    run: Path, manifest: Mapping[str, Any], metrics: Mapping[str, Any], measured: Sequence[Figure] = ()
) -> Path | None:
    """Writes `run`/model/README.md. Returns its path, or None if somebody's own card is there.

    manifest   run.json
    metrics    the last values of the run's metrics
    measured   the figures of an evaluation
    """
    path = run / "model" / CARD
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return None
    write_text(path, card(run, manifest, metrics, measured), what="the model card")
    return path


def card(run: Path, manifest: Mapping[str, Any], metrics: Mapping[str, Any], measured: Sequence[Figure] = ()) -> str:
    """The card's text, which depends on the arguments and on the folders of the models that this one was made from."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    command, config = manifest["command"], manifest["config"]
    members = sum(1 for _ in (run / "model").glob("member-*/adapter_config.json"))
    is_reward, is_adapter = command == "reward", members > 0 or (run / "model" / "adapter_config.json").is_file()
    own_head = is_reward and _has_own_head(run / "model")
    figures = [*measured, *_held_out(metrics, _held_out_data(config))]
    chain = list(_chain(config["model"]))
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-classification" if is_reward else "text-generation",
        license=config.get("license") or _license(chain),
        base_model=chain[-1] if _is_hub_name(chain[-1]) else None,
        datasets=[config["data"]] if _is_hub_name(config["data"]) else None,
        tags=["assent", command, *(["reward-model"] if is_reward else []), *(["lora"] if is_adapter else [])],
        model_name=run.resolve().name,
        eval_results=[
            EvalResult(
                task_type="text-classification" if is_reward else "text-generation",
                dataset_type="held-out",
                dataset_name=figure.of,
                metric_type=figure.metric,
                metric_name=figure.name,
                metric_value=figure.value,
                metric_args=None
                if figure.ends is None
                else {
                    "low": figure.ends[0],
                    "high": figure.ends[1],
                    "confidence": figure.confidence,
                    "n": figure.count,
                },
            )
            for figure in figures
        ]
        or None,
    )
    kind: dict[str, Any] = {"is_adapter": is_adapter, "members": members, "own_head": own_head}
    body = "\n".join(_body(run, manifest, metrics, figures, chain, **kind))
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def _has_own_head(folder: Path) -> bool:
    """Whether the score head has a file of its own, or is part of an adapter on a model with such a head."""
    for record in (folder / "assent_adapter.json", folder / "member-1" / "assent_adapter.json"):
        if record.is_file():
            return from_json(record.read_bytes()).get("config", {}).get(SCORE_FLAG) is True
    return (folder / SCORE_HEAD).is_file()


def _body(
    run: Path,
    manifest: Mapping[str, Any],
    metrics: Mapping[str, Any],
    figures: Sequence[Figure],
    chain: Sequence[str],
    *,
    is_adapter: bool,
    members: int,
    own_head: bool,
) -> Iterator[str]:
    command, config, hashes = manifest["command"], manifest["config"], manifest.get("hashes", {})
    what = "A reward model" if command == "reward" else "A language model"
    adapter = " It is an adapter, so you also need its base model." if is_adapter else ""
    if members:
        adapter = (
            f" It is an ensemble of {members} adapters on one base model, which you also need; each adapter can be "
            "opened by itself."
        )
    yield from (MARK, "", f"# {run.resolve().name}", "")
    yield f"{what}, made with Assent by {METHODS.get(command, command)}.{adapter}"
    if own_head:
        yield from ("", _OWN_HEAD)
    yield from ("", "## How good it is", "")
    if figures:
        yield from _table(("figure", "value", "interval", "n", "measured on"), [figure.row() for figure in figures])
    else:
        yield "Nothing was measured on held-out data, so it is not known whether it is better than its base model."
    yield from ("", "## How it was made", "")
    yield " ← ".join([run.resolve().name, *(f"`{_short(step)}`" for step in chain)])
    yield ""
    inputs = [(name, _short(str(config[name]))) for name in INPUTS if config.get(name)]
    yield from _table(("input", "what"), inputs)
    yield from ("", "<details><summary>Options, content and versions</summary>", "")
    elsewhere = {*INPUTS, "model", "output_dir", "license"}
    options = [(name, value) for name, value in config.items() if name not in elsewhere and value is not None]
    yield from _table(("option", "value"), options)
    yield ""
    facts = [*((f"SHA-256 of {name}", value) for name, value in hashes.items())]
    facts += [(f"version of {name}", value) for name, value in manifest.get("versions", {}).items()]
    facts += [("git revision", manifest["git_revision"])] if manifest.get("git_revision") else []
    yield from _table(("fact", "value"), facts)
    yield from ("", "</details>", "", "## What it cost", "")
    costs = [(COSTS[name], as_number(metrics[name])) for name in COSTS if name in metrics]
    yield ", ".join(f"{words}: {amount / unit:,.4g}{sign}" for (words, unit, sign), amount in costs if amount) + "."
    yield from (
        "",
        "## How to use it",
        "",
        "```python",
        *(_OWN_HEAD_SNIPPET if own_head else _snippet(command, is_adapter=is_adapter, members=members)),
        "```",
    )
    yield from ("", "## Licence", "")
    yield _license_line(config, chain)


def _snippet(command: str, *, is_adapter: bool, members: int) -> Iterator[str]:
    task = "SequenceClassification" if command == "reward" else "CausalLM"
    kind = f"Auto{'Peft' if is_adapter else ''}ModelFor{task}"
    yield f"from {'peft' if is_adapter else 'transformers'} import {kind}"
    yield "from transformers import AutoTokenizer"
    where = (
        f'folder = "member-1"  # in this folder; up to member-{members}' if members else 'folder = "."  # this folder'
    )
    yield from ("", where, f"model = {kind}.from_pretrained(folder)")
    yield "tokenizer = AutoTokenizer.from_pretrained(folder)"


def _held_out_data(config: Mapping[str, Any]) -> str:
    """The held-out data's name: a hub name, or a file's without its folders."""
    name = str(config.get("eval_data") or config["data"])
    name = name if _is_hub_name(name) else Path(name).name
    if config.get("eval_split"):
        return f"{name}, split {config['eval_split']}"
    return f"{name}, {config['eval_fraction']:.0%} held out" if config.get("eval_fraction") else name


def _held_out(metrics: Mapping[str, Any], data: str) -> list[Figure]:
    """The run's own figures on held-out data, with their intervals if those were logged."""
    found = []
    for name in metrics:
        value = as_number(metrics[name])
        is_figure = name.startswith("eval_") and not name.endswith(("_low", "_high"))
        if not is_figure or value is None or not math.isfinite(value):
            continue
        ends = {end: as_number(metrics.get(f"{name}_{end}")) for end in ("low", "high")}
        found.append(Figure(_words(name), data, {"value": value, **ends}, metric=name))
    return found


def _words(name: str) -> str:
    metric = lookup(name)
    return f"`{name}`" + ("" if metric.unit == "1" else f", {metric.unit}")


def figures_of_policy(evaluation: Mapping[str, Any], name: str) -> list[Figure]:
    """The figures of a policy in evaluation.json (reporting/SCHEMA.md)."""
    policy = next((policy for policy in evaluation["policies"] if policy["name"] == name), None)
    if policy is None:
        return []
    of, sampled = f"{evaluation['num_prompts']} prompts, scored by {evaluation['scorer']}", policy["sampled"]
    kl = policy["kl"] or {}
    found = [
        (f"wins against {evaluation['baseline']}", "win_rate", sampled["win_rate"]),
        ("mean score", "mean_score", sampled["gold"]),
        (f"KL to {evaluation['reference']}, nats per completion", "kl", kl.get("k1")),
        ("tokens per completion", "length", sampled["length"]),
    ]
    return [Figure(words, of, estimate, metric=metric) for words, metric, estimate in found if estimate]


def figures_of_reward_model(quality: Mapping[str, Any]) -> list[Figure]:
    """The figures of `reward_model` in evaluation.json."""
    return [Figure("accuracy", "held-out comparisons", quality["accuracy"], metric="accuracy")]


def _chain(model: str) -> Iterator[str]:
    """The models that this one was made from, back to the first, found through the run.json of each run's folder."""
    seen: set[str] = set()
    while model not in seen:
        seen.add(model)
        yield model
        try:
            record = from_json((Path(model).parent / "run.json").read_bytes())
            model = str(record["config"]["model"])
        except (OSError, ValueError, KeyError, TypeError):
            return


def _is_hub_name(name: str) -> bool:
    return bool(_HUB_NAME.match(name)) and not Path(name).exists()


def _license(chain: Sequence[str]) -> str | None:
    """The licence on the card of the nearest model in the chain that has one."""
    return next(filter(None, (_license_in(Path(model) / CARD) for model in chain)), None)


def _license_in(path: Path) -> str | None:
    from huggingface_hub import ModelCard

    if not path.is_file():
        return None
    try:
        found = ModelCard.load(path, ignore_metadata_errors=True).data.license
    except (OSError, ValueError):
        return None
    return str(found) if found else None


def _license_line(config: Mapping[str, Any], chain: Sequence[str]) -> str:
    """What is stated, and by whom. Nothing is guessed."""
    of_data = _license_in(Path(str(config["data"])) / CARD)
    data = "the licence of the data" + ("" if of_data is None else f" ({of_data}, according to its card)")
    own, found = config.get("license"), _license(chain)
    if own is not None:
        base = "" if found is None else f" ({found}, according to its card)"
        return f"{own}, according to whoever trained it. The licence of the base model{base} and {data} also apply."
    if found is None:
        return f"Not stated. The licence of the base model and {data} apply. State one before you share this model."
    return f"{found}, according to the card of the base model. {data[0].upper()}{data[1:]} also applies."


def _short(text: str) -> str:
    """A path without the folders above the run's, which would show where it is on somebody's disk."""
    return text if _is_hub_name(text) or not Path(text).is_absolute() else "/".join(Path(text).parts[-3:])


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield "| " + " | ".join(_cell(value) for value in row) + " |"


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
