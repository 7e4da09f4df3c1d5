"""`serve-check`: compares what Assent computes with a model's folder and what the engines that serve it compute."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assent.commands.opening import open_prompts
from assent.config.serving import ServeCheckConfig
from assent.data.named import load_named
from assent.data.texts import last_content
from assent.engine.runtime import Runtime
from assent.errors import DataError, ModelError
from assent.models.adapters import is_adapter
from assent.models.batch import TokenGroup
from assent.models.bounded_jinja import bounded
from assent.models.folder_checks import Check, folder_checks, plain_tokenizer
from assent.models.folder_contents import SCORE_HEAD
from assent.models.folders import check_revision, read_json, resolve_folder
from assent.models.heads import has_own_head, is_classifier
from assent.models.loading import check_single_model, load_config, load_policy, load_tokenizer
from assent.models.templates import Template, resolve_template
from assent.models.tokenizing import tokenize_groups
from assent.rewards.reward_model import RewardModel, tokenizer_hash
from assent.rollouts import serving
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.serving import Answer
from assent.rollouts.torch_sampler import TorchSampler
from assent.rollouts.vllm_engine import check_vllm, is_installed
from assent.runs.manifest import MANIFEST
from assent.stages.gate import TOLERANCES
from assent.stages.selecting import to_prompts
from assent.types import Message, PromptGroup, Text

QUESTIONS = (
    (Message("user", "What is 2 plus 2?"),),
    (
        Message("user", "Hello! Who are you?"),
        Message("assistant", "A model."),
        Message("user", "Tell me more, please."),
    ),
)
ANSWERS = ("It is 4.", "I'd rather not say.")
LONGEST = 1024
"""Most tokens of a prompt and its completion together; the model's context if that is shorter."""


def serve_check(config: ServeCheckConfig) -> tuple[dict[str, Any], list[str]]:
    """A JSON-able document (`checks`, `differs`) and the same as lines of text. Raises ModelError if the folder cannot
    be opened."""
    engines: list[str] = list(config.engines or ["transformers"] + ["vllm"] * is_installed())
    if "vllm" in engines:
        check_vllm()
    check_revision(config.revision, config.model)
    folder = resolve_folder(config.model, revision=config.revision)
    check_single_model(folder)
    if is_adapter(folder):
        raise ModelError(
            "this folder holds an adapter, which is served together with its base model",
            got=folder,
            fix=f"assent merge {config.model} --output-dir FOLDER; then check that FOLDER",
        )
    model_config = load_config(folder)
    if has_own_head(model_config):
        raise ModelError(
            "serving engines do not read the score head of this reward model, because it has a file of its own",
            got=f"{folder}: {SCORE_HEAD}",
            expected="a policy, or a reward model whose architecture has a class for sequence classification",
            fix="score with Assent: --reward, --reward-model and --judge read this folder",
        )
    is_scorer = is_classifier(model_config)
    runtime = Runtime.of(config)
    checks = (_scorer if is_scorer else _policy)(config, folder, engines, runtime.device)
    if config.engines is None and not is_installed():
        checks.append(Check("vllm", "vllm", "note", "not installed, so not checked"))
    document = {
        "model": config.model,
        "kind": "reward model" if is_scorer else "policy",
        "engines": engines,
        "checks": [check.as_dict() for check in checks],
        "differs": any(check.status == "differs" for check in checks),
    }
    return document, [line for check in checks for line in _lines_of(check)]


def _lines_of(check: Check) -> list[str]:
    """What was checked, and what was found beside it, in 80 columns."""
    named = f"{check.status:<8}{check.where:<14}{check.name:<19}"
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(named + check.detail, 80, subsequent_indent=" " * len(named), **options)


def _policy(config: ServeCheckConfig, folder: Path, engines: Sequence[str], device: torch.device) -> list[Check]:
    tokenizer = load_tokenizer(folder)
    template = resolve_template(tokenizer)
    context = _context(folder)
    prompts = open_prompts(
        to_prompts(_rows(config, template))[0],
        template,
        source=config.data or "the built-in prompts",
        max_length=context,
        max_new_tokens=config.max_new_tokens,
    )
    model = load_policy(folder, dtype=config.dtype, tokenizer=tokenizer).to(device)  # type: ignore[arg-type]
    checks = [*_template(folder, template), *folder_checks(folder, model, template, is_scorer=False)]
    own = _answers(model, template, prompts.ids, config.max_new_tokens)
    options: dict[str, Any] = {"device": device, "dtype": config.dtype, "max_new_tokens": config.max_new_tokens}
    for engine in engines:
        if engine == "vllm":
            theirs = serving.vllm_answers(folder, prompts.groups, context=context, **options)
        else:
            theirs = serving.transformers_answers(folder, prompts.groups, **options)
        checks += compare_answers(engine, own, theirs, model=model, dtype=config.dtype)
    return checks


def _scorer(config: ServeCheckConfig, folder: Path, engines: Sequence[str], device: torch.device) -> list[Check]:
    reward = RewardModel(str(folder), device=device, dtype=config.dtype)
    rows = _rows(config, reward.template)
    if not any(row.completions for row in rows):
        raise DataError(
            "a reward model needs completions to score", got=f"{config.data}: only prompts", fix="give comparisons"
        )
    texts = [(row.prompt, text) for row in rows for text in row.completions]
    groups = [PromptGroup(prompt=prompt, completions=(text,)) for prompt, text in texts]
    tokenized = tokenize_groups(
        groups, tokenizer=reward.tokenizer, template=reward.template, max_length=_context(folder)
    )
    if len(tokenized.groups) != len(groups):
        raise DataError("some completions cannot be scored", got="\n".join(tokenized.report.lines()))
    ids = [group.prompt_ids + group.completions[0].ids for group in tokenized.groups]
    bias = torch.as_tensor(getattr(reward.module.config, "assent_score_bias", 0.0), dtype=torch.float32)
    own = reward.score_members([prompt for prompt, _ in texts], [last_content(text) for _, text in texts]) - bias
    base: Any = reward.module.base
    checks = [*_template(folder, reward.template), *folder_checks(folder, base, reward.template, is_scorer=True)]
    for engine in engines:
        if engine == "vllm":
            theirs = serving.vllm_scores(folder, ids, device=device, dtype=config.dtype, context=_context(folder))
        else:
            theirs = serving.transformers_scores(folder, ids, device=device, dtype=config.dtype)
        checks.append(compare_scores(engine, own, theirs, dtype=config.dtype))
    return [*checks, *_tail(tokenized.groups, groups, folder)]


def _answers(model: Any, template: Template, prompts: Sequence[tuple[int, ...]], max_new_tokens: int) -> list[Answer]:
    sampler = TorchSampler(model, template.tokenizer, eos_ids=template.eos_ids)
    sampler.load({}, "folder")
    params = SamplingParams(max_new_tokens=max_new_tokens, greedy=True)
    rollouts = sampler.sample(prompts, num_completions=1, params=params, seed=SeedKey(0, "serve-check", 0))
    return [Answer(rollout.prompt_ids, rollout.ids, rollout.logprobs) for rollout in rollouts]


def compare_answers(
    engine: str, own: Sequence[Answer], theirs: Sequence[Answer], *, model: Any, dtype: str
) -> list[Check]:
    """Compares prompt ids, greedy tokens and their log-probabilities. If two tokens are equally likely up to rounding,
    both are greedy, and the tokens after them are not compared."""
    tolerances, pairs = TOLERANCES[dtype], list(zip(own, theirs, strict=True))
    other = [i for i, (mine, its) in enumerate(pairs) if mine.prompt_ids != its.prompt_ids]
    fault = None
    if other:
        first, second = (answer.prompt_ids for answer in pairs[other[0]])
        at = _first_difference(first, second)
        first_seen = f"prompt {other[0] + 1} from token {at} on: {second[at:][:8]} instead of {first[at:][:8]}"
        fault = f"{len(other)} of {len(own)} differ; {first_seen}"
    checks = [Check.of(engine, "prompt tokens", fault, f"equal in all {len(own)} prompts")]
    distances: list[float] = []
    differing, ties = [], 0
    for i, (mine, its) in enumerate(pairs):
        if i in other:
            continue
        at = _first_difference(mine.ids, its.ids)
        distances += np.abs(np.subtract(mine.logprobs[:at], its.logprobs[:at])).tolist()
        if at < max(len(mine.ids), len(its.ids)):
            if _is_tie(model, mine, its, at, tolerances["token"]):
                ties += 1
            else:
                differing.append(
                    f"answer {i + 1} from token {at} on: {its.ids[at:][:8]} instead of {mine.ids[at:][:8]}"
                )
    if len(other) == len(own):
        return checks
    equal = f"{len(distances)} equal tokens" + (
        f"; {ties} answers differ after two equally likely ones" if ties else ""
    )
    checks.append(Check.of(engine, "greedy tokens", "; ".join(differing[:3]) or None, equal))
    if not distances:
        return checks
    mean, largest = float(np.mean(distances)), max(distances)
    measured = f"differ by {mean:.2g} nats on average, {largest:.2g} at most, over {len(distances)} tokens"
    near = mean <= tolerances["mean"] and largest <= tolerances["token"]
    limits = f"; rounding explains at most {tolerances['mean']:g} and {tolerances['token']:g}"
    return [*checks, Check.of(engine, "log-probabilities", None if near else measured + limits, measured)]


def compare_scores(engine: str, own: torch.Tensor, theirs: torch.Tensor, *, dtype: str) -> Check:
    """Compares scores (S, heads), without the bias."""
    if own.shape != theirs.shape:
        return Check(engine, "scores", "differs", f"shape {tuple(theirs.shape)} instead of {tuple(own.shape)}")
    largest = float((own - theirs).abs().max())
    limit = TOLERANCES[dtype]["score"] * max(1.0, float(own.abs().max()))
    measured = f"differ by {largest:.2g} at most, over {len(own)} completions"
    fault = None if largest <= limit else f"{measured}; rounding explains at most {limit:.2g}"
    return Check.of(engine, "scores", fault, measured)


def _first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@torch.no_grad()
def _is_tie(model: Any, a: Answer, b: Answer, at: int, tolerance: float) -> bool:
    if at >= min(len(a.ids), len(b.ids)):  # one of them ended
        return False
    row = torch.tensor([a.prompt_ids + a.ids[:at]], device=model.device)
    logits = model(input_ids=row).logits[0, -1].float()
    return abs(float(logits[a.ids[at]] - logits[b.ids[at]])) <= tolerance


def _template(folder: Path, template: Template) -> list[Check]:
    """Whether the folder's template and tokenizer are those of the run that it belongs to."""
    trained = read_json(folder.resolve().parent, MANIFEST).get("hashes", {}).get("tokenizer")
    has = "a chat template" if template.source is not None else "no chat template: prompts are plain text"
    if trained is None:
        return [
            Check(
                "folder",
                "template",
                "note",
                f"{has}; the folder is not part of a run, so what it was trained with is unknown",
            )
        ]
    fault = (
        None
        if trained == tokenizer_hash(template.tokenizer)
        else "tokenizer or chat template differ from those of the training"
    )
    return [Check.of("folder", "template", fault, f"{has}, as in training")]


def _tail(tokens: Sequence[TokenGroup], groups: Sequence[PromptGroup], folder: Path) -> list[Check]:
    """Whether the template writes more after an answer's end: a server would read the score there."""
    tokenizer = plain_tokenizer(folder)
    for own, group in zip(tokens, groups, strict=True):
        if isinstance(group.prompt, str):
            continue
        messages = [*serving.messages_of(group), *(m.as_dict() for m in group.completions[0] if isinstance(m, Message))]
        with bounded():
            whole = tuple(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])
        read = own.prompt_ids + own.completions[0].ids
        if whole != read:
            tail = tokenizer.decode(whole[len(read) :]) if whole[: len(read)] == read else "other tokens"
            note = f"ends with {tail!r} after the text that is scored here: give servers ids that end with EOS"
            return [Check("folder", "rendered answer", "note", note)]
    return []


def _rows(config: ServeCheckConfig, template: Template) -> list[PromptGroup]:
    if config.data is not None:
        dataset = load_named(config)
        return list(dataset[: config.num_prompts])
    chats: list[Text] = [turns if template.source is not None else last_content(turns) for turns in QUESTIONS]
    return [
        PromptGroup(
            prompt=prompt, completions=tuple(_answer(prompt, text) for text in ANSWERS), source=f"prompt {i + 1}"
        )
        for i, prompt in enumerate(chats)
    ]


def _answer(prompt: Text, text: str) -> Text:
    return text if isinstance(prompt, str) else (Message("assistant", text),)


def _context(folder: Path) -> int:
    config = load_config(folder).get_text_config()
    return min(LONGEST, getattr(config, "max_position_embeddings", None) or LONGEST)
