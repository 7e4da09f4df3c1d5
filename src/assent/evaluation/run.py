"""`assent eval`: opens the models of a configuration, one at a time, and writes their table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assent.config.evaluation import EvalConfig
from assent.data.loading import Dataset, load_groups
from assent.errors import DataError, ModelError
from assent.evaluation.pairs import judge_reward, judge_reward_model, pairs_of
from assent.evaluation.policies import BestOfN, Policy, evaluate_policies
from assent.evaluation.reward_model import quality_lines
from assent.evaluation.table import PolicyTable
from assent.models.folders import check_revision, content_hash
from assent.models.loading import load_policy, load_tokenizer
from assent.models.module import AlignmentModel
from assent.models.templates import Template, resolve_template
from assent.models.tokenizing import tokenize_groups
from assent.rewards.base import Reward
from assent.rewards.loading import check_reward, load_reward, reward_hash
from assent.rewards.reward_model import same_ids
from assent.rollouts.torch_sampler import TorchSampler
from assent.runs.files import to_json
from assent.runs.folder import RunFolder
from assent.runs.progress import Progress, Silent
from assent.runs.reading import read_run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from assent.engine.runtime import Runtime


def evaluate(config: EvalConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Policies: writes evaluation.json and table.txt into `output_dir`; gives their paths and the table's lines.

    Without policies a reward model is judged on comparisons: see `judge_reward_model`.
    RunFolderError where the folder holds something else, or an evaluation of other options or other content.
    """
    progress = progress or Silent()
    if not config.policies:
        return judge_reward_model(config, progress=progress)
    assert config.baseline is not None
    assert config.output_dir is not None
    check_revision(config.revision, *config.policies.values())
    tokenizer = load_tokenizer(config.policies[config.baseline], revision=config.revision)
    _check_tokenizers(config, tokenizer)
    assert config.judge is not None
    check_reward(config.judge)
    if config.reward_model is not None:
        check_reward(config.reward_model, ensemble=config.reward_ensemble)
    data = load_groups(config.data)
    hashes = _hashes(config, data)
    with RunFolder.open(config.output_dir, config.model_dump(), command="eval", resume=True, hashes=hashes) as folder:
        if folder.result is not None:
            progress.line(f"{folder.path}: this evaluation is finished; nothing to do")
            return folder.result
        result = _evaluate(config, data, tokenizer, progress)
        folder.finish(result)
        return result


def _hashes(config: EvalConfig, data: Dataset) -> dict[str, str]:
    """SHA-256 of everything that is read: other content under the same names is another evaluation."""
    assert config.judge is not None
    hashes = {"data": data.sha256, "judge": reward_hash(config.judge)}
    hashes |= {f"policy {name}": content_hash(path, revision=config.revision) for name, path in config.policies.items()}
    hashes |= {f"ledger {name}": _digest(to_json(_ledger(folder))) for name, folder in config.ledgers.items()}
    if config.reward_model is not None:
        hashes["reward_model"] = reward_hash(config.reward_model)
    if config.reward_pairs is not None:
        hashes["reward_pairs"] = load_groups(config.reward_pairs).sha256
    if config.labels is not None:
        hashes["labels"] = _digest(Path(config.labels).read_text(encoding="utf-8"))
    return hashes


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _evaluate(
    config: EvalConfig, data: Dataset, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> dict[str, Any]:
    from assent.engine.runtime import Runtime  # evaluation stands below engine: only this function needs a device

    assert config.baseline is not None
    assert config.judge is not None
    groups = list(data)[: config.num_prompts or None]
    template = _template(config, tokenizer)
    tokenized = tokenize_groups(
        groups,
        tokenizer=tokenizer,
        template=template,
        max_length=config.max_length,
        max_new_tokens=config.max_new_tokens,
    )
    for line in tokenized.report.lines():
        progress.line(f"prompts: {line}")
    if not tokenized.groups:
        raise DataError(f"{config.data}: no usable prompt is left")
    runtime = Runtime(config.device, seed=config.seed)
    options = {"device": runtime.device, "dtype": config.dtype, "policy_tokenizer": tokenizer}
    if config.reward_model is None:
        reward = None
    else:
        reward = load_reward(config.reward_model, ensemble=config.reward_ensemble, **options)
    judge = load_reward(config.judge, **options)
    reference_name = config.reference or config.baseline
    policies = _policies(config, runtime, reward)
    with progress.task("evaluation", total=len(policies)) as task:
        table = evaluate_policies(
            policies,
            [groups[i] for i in tokenized.kept],
            prompt_ids=[group.prompt_ids for group in tokenized.groups],
            scorer=judge,
            reference=_open_reference(config, config.policies[reference_name], runtime),
            baseline=config.baseline,
            reference_name=reference_name,
            max_new_tokens=config.max_new_tokens,
            samples_per_prompt=config.samples_per_prompt,
            seed=config.seed,
            on_policy=lambda name: task.advance(1, policy=name),
        )
    extra = {} if reward is None or config.reward_pairs is None else {"reward_model": _quality(config, reward)}
    return _write(config, table, extra)


def _check_tokenizers(config: EvalConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """All policies are given the baseline's prompt ids, and the reference reads their own: all must mean the same."""
    for name, path in config.policies.items():
        if not same_ids(load_tokenizer(path, revision=config.revision), tokenizer):
            raise ModelError(
                f"policy {name} has another tokenizer than the baseline {config.baseline}",
                got=path,
                expected="policies that share a tokenizer: the KL compares them token by token",
                fix="evaluate it by itself, or against a baseline with its own tokenizer",
            )


def _template(config: EvalConfig, tokenizer: Any) -> Template:
    return resolve_template(
        tokenizer,
        chat_template=config.chat_template,
        system=config.system,
        chat_template_kwargs=config.chat_template_kwargs,
    )


def _policies(config: EvalConfig, runtime: Runtime, reward: Reward | None) -> list[Policy]:
    def opener(path: str) -> Callable[[], TorchSampler]:
        def open_sampler() -> TorchSampler:
            tokenizer = load_tokenizer(path, revision=config.revision)
            template = _template(config, tokenizer)
            model = load_policy(path, dtype=config.dtype, revision=config.revision, tokenizer=tokenizer)
            return TorchSampler(model.to(runtime.device), tokenizer, eos_ids=template.eos_ids)

        return open_sampler

    ledgers = {name: _ledger(folder) for name, folder in config.ledgers.items()}
    policies = [
        Policy(name=name, open=opener(path), ledger=ledgers.get(name, {})) for name, path in config.policies.items()
    ]
    if config.best_of_n:
        assert reward is not None
        assert config.baseline is not None
        name = f"best-of-{config.best_of_n}"
        start = opener(config.policies[config.baseline])
        policies.append(BestOfN(name=name, open=start, n=config.best_of_n, reward=reward, ledger=ledgers.get(name, {})))
    return policies


def _ledger(run_folder: str) -> dict[str, float]:
    """`cost/*` of a finished run."""
    metrics = (read_run(run_folder).result or {}).get("metrics", {})
    return {name: float(value) for name, value in metrics.items() if name.startswith("cost/")}


def _open_reference(config: EvalConfig, path: str, runtime: Runtime) -> AlignmentModel:
    tokenizer = load_tokenizer(path, revision=config.revision)
    model = load_policy(path, dtype=config.dtype, revision=config.revision, tokenizer=tokenizer)
    return AlignmentModel(model.to(runtime.device), kind="policy").eval()


def _quality(config: EvalConfig, reward: Reward) -> dict[str, Any]:
    """Accuracy and calibration of the reward model on held-out comparisons, with the labels' noise ceiling."""
    assert config.reward_pairs is not None
    groups = load_groups(config.reward_pairs)
    quality = judge_reward(reward, groups, pairs_of(groups, slices=config.slices), seed=config.seed)
    if config.labels is not None:
        facts = json.loads(Path(config.labels).read_text(encoding="utf-8"))
        quality["noise_ceiling"] = facts["noise_ceiling"]
    return quality


def _write(config: EvalConfig, table: PolicyTable, extra: dict[str, Any]) -> dict[str, Any]:
    assert config.output_dir is not None
    table = replace(table, extra={**table.extra, **extra})
    path = table.write(config.output_dir)
    lines: Sequence[str] = table.lines() + _quality_lines(extra)
    text = Path(config.output_dir) / "table.txt"
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"evaluation": str(path), "table": str(text), "lines": list(lines)}


def _quality_lines(extra: dict[str, Any]) -> list[str]:
    if "reward_model" not in extra:
        return []
    return ["", "reward model on held-out comparisons", *quality_lines(extra["reward_model"])]
