"""A reward model: a sequence classifier's folder, read at each completion's last token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from assent.config.ensembles import Combination
from assent.errors import DataError, ModelError
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.flops import Cost
from assent.models.loading import load_config, load_scorer, load_tokenizer
from assent.models.module import AlignmentModel
from assent.models.packing import pack, split_by_budget
from assent.models.templates import Template, resolve_template
from assent.models.tokenizing import tokenize_groups
from assent.rewards.base import checked_scores
from assent.types import PromptGroup, Rollout, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RewardModel:
    """Scores with a folder that `assent reward` wrote, or any sequence classifier with one label.

    policy_tokenizer    where it is the same as the reward model's, template included, rollouts are scored by their own
                        ids; else the decoded text is read in the reward model's template
    max_length          tokens of prompt and completion; longer texts lose the prompt's oldest turns (law 8)
    micro_batch_tokens  tokens per forward pass: memory and speed, not the result
    combination         of an ensemble's members; None: their mean

    `reads_ids` says which. `statistics` holds figures of the last call's scores: of an ensemble, `ensemble_std`.
    Errors: ModelError before any weights are read; ConfigError for a combination that does not fit.
    """

    def __init__(
        self,
        folder: str,
        *,
        policy_tokenizer: PreTrainedTokenizerBase | None = None,
        device: torch.device | str = "cpu",
        dtype: str = "float32",
        revision: str | None = None,
        max_length: int | None = None,
        micro_batch_tokens: int = 8192,
        template_options: Mapping[str, Any] | None = None,
        combination: Combination | None = None,
    ) -> None:
        self.name = folder
        self.statistics: dict[str, float] = {}
        heads = check_reward_model(folder, revision=revision)
        if combination is not None:
            combination.check(heads, name=folder)
        self.combination = combination or Combination()
        self.tokenizer = load_tokenizer(folder, revision=revision)
        self.template: Template = resolve_template(self.tokenizer, **(template_options or {}))
        self.reads_ids = policy_tokenizer is not None and same_tokenizer(policy_tokenizer, self.tokenizer)
        model = load_scorer(folder, dtype=dtype, revision=revision)
        self.module = AlignmentModel(model.to(device), kind="scorer").eval()  # type: ignore[arg-type]
        self.cost = Cost.of(self.module, shared=self.module.tier != "padded")
        self.flops = 0.0
        """Model FLOPs of what was scored so far."""
        self.device, self.heads, self.micro_batch_tokens = torch.device(device), heads, micro_batch_tokens
        context = getattr(self.module.config, "max_position_embeddings", None)
        self.max_length = max_length or context or 1 << 20

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> list[float]:
        """See `Reward.score`. Several heads are an ensemble, combined as asked for."""
        members = self.score_members(prompts, completions, groups=groups, rollouts=rollouts)
        if len(members) and members.shape[1] > 1:
            self.statistics = {"ensemble_std": float(members.std(1, correction=0).mean())}
        return checked_scores(self.name, combine(members, self.combination).tolist(), prompts, completions)

    def score_members(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> Tensor:
        """(S, M) every head's score of each completion, in order; arguments as for `score`."""
        if not completions:
            return torch.zeros(0, self.heads)
        tokens = (
            _ids_of(rollouts)
            if rollouts is not None and self.reads_ids
            else self._encode(prompts, completions, groups, rollouts)
        )
        return self._read(tokens)

    def _encode(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        groups: Sequence[PromptGroup] | None,
        rollouts: Sequence[Rollout] | None,
    ) -> list[TokenGroup]:
        """One group for each completion, in the reward model's own template.

        A completion that was cut at max_new_tokens does not end: the EOS that a text gets is taken off again.
        """
        rows = [
            PromptGroup(
                prompt=prompt,
                completions=(completion,),
                tools=None if groups is None else groups[i].tools,
                chat_template_kwargs={} if groups is None else groups[i].chat_template_kwargs,
                source=f"completion {i}",
            )
            for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        done = tokenize_groups(rows, tokenizer=self.tokenizer, template=self.template, max_length=self.max_length)
        if len(done.groups) != len(rows):
            reason, sources = next(iter(done.report.refused.items()))
            raise DataError(f"reward model {self.name} cannot read {sources[0]}: {reason}")
        if rollouts is None:
            return done.groups
        return [
            self._without_eos(group) if rollout.finish_reason == "length" else group
            for group, rollout in zip(done.groups, rollouts, strict=True)
        ]

    def _without_eos(self, group: TokenGroup) -> TokenGroup:
        ids = group.completions[0].ids
        if len(ids) > 1 and ids[-1] in self.template.eos_ids:
            return TokenGroup(prompt_ids=group.prompt_ids, completions=(TokenCompletion(ids=ids[:-1]),))
        return group

    @torch.no_grad()
    def _read(self, tokens: Sequence[TokenGroup]) -> Tensor:
        """(S, M) scores in the order given; completions of one prompt are read together, the prompt once."""
        shared, places = _by_prompt(tokens)
        scores = torch.empty(len(tokens), self.heads)
        self.flops += self.cost.score(shared)
        for indices in split_by_budget(shared, max_tokens=self.micro_batch_tokens, shared=self.cost.shared):
            outputs = self.module(pack([shared[i] for i in indices], device=self.device), frozenset({"scores"}))
            assert outputs.scores is not None
            read = outputs.scores.float().cpu()
            scores[[place for i in indices for place in places[i]]] = read.view(-1, self.heads)
        return scores


def combine(members: Tensor, combination: Combination) -> Tensor:
    """(S, M) scores of an ensemble's members -> (S,)."""
    if combination.kind == "min":
        return members.min(dim=1).values
    if combination.kind == "weights":
        return members @ torch.tensor(combination.weights, dtype=members.dtype)
    mean = members.mean(dim=1)
    return mean if combination.kind == "mean" else mean - combination.k * members.std(dim=1, correction=0)


def check_reward_model(folder: str, *, revision: str | None = None) -> int:
    """The number of heads, from the configuration alone. ModelError for what is no reward model.

    Several labels are an ensemble's members only where the configuration says so: `assent_ensemble_size`.
    """
    config = load_config(folder, revision=revision)
    names = getattr(config, "architectures", None) or []
    if not any(name.endswith("ForSequenceClassification") for name in names):
        raise ModelError(
            "this model has no score head, so its scores would be random",
            got=f"{folder}: {', '.join(names) or 'no architecture named'}",
            expected="a sequence classifier with one label",
            fix="train one with `assent reward --model …`",
        )
    declared = getattr(config, "assent_ensemble_size", 1)
    if config.num_labels != declared:
        raise ModelError(
            f"this classifier has {config.num_labels} labels, so it is no reward model",
            got=f"{folder}: {', '.join(map(str, list(config.id2label.values())[:5]))}",
            expected="one label, or as many as the configuration's assent_ensemble_size says",
        )
    return int(declared)


def same_tokenizer(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether both give the same ids for every text and conversation: equal tokenizer.json, equal chat template."""
    return a.chat_template == b.chat_template and same_ids(a, b)


def same_ids(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether both give the same ids for every text: equal tokenizer.json."""
    return _content(a) == _content(b)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what `same_tokenizer` compares."""
    content = json.dumps([tokenizer.chat_template, _content(tokenizer)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _content(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Any] | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {"not fast": tokenizer.name_or_path}
    content: dict[str, Any] = json.loads(backend.to_str())
    return {name: value for name, value in content.items() if name not in ("padding", "truncation")}


def _ids_of(rollouts: Sequence[Rollout]) -> list[TokenGroup]:
    return [TokenGroup(prompt_ids=r.prompt_ids, completions=(TokenCompletion(ids=r.ids),)) for r in rollouts]


def _by_prompt(tokens: Sequence[TokenGroup]) -> tuple[list[TokenGroup], list[list[int]]]:
    """One group per prompt with all its completions, and where each of these stood."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, group in enumerate(tokens):
        places.setdefault(group.prompt_ids, []).append(place)
    shared = [
        TokenGroup(prompt_ids=prompt, completions=tuple(tokens[i].completions[0] for i in at))
        for prompt, at in places.items()
    ]
    return shared, list(places.values())
