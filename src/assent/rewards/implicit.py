"""The implicit reward of a policy trained with DPO, relative to its reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from assent.config.rewards import ImplicitSource
from assent.errors import ConfigError, ModelError
from assent.models.loading import check_adapter, check_is_policy, load_config, load_policy, load_tokenizer
from assent.models.module import AlignmentModel
from assent.models.templates import resolve_template
from assent.rewards.base import Scores, checked_scores
from assent.rewards.reading import Encoding, ModelReader
from assent.rewards.reward_model import same_ids, same_tokenizer
from assent.types import PromptGroup, Rollout, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ImplicitReward:
    """beta · Σ_t log(π/π_ref) over the completion's tokens (Rafailov et al., arXiv:2305.18290, eq. 5), up to a term of
    the prompt only, which cancels when completions of one prompt are compared.

    policy_tokenizer   if it is the models' tokenizer, rollouts are read by their own ids; otherwise the decoded text is
                       read in the models' template, as by a reward model
    """

    judges_alone = True

    def __init__(
        self,
        source: ImplicitSource,
        *,
        policy_tokenizer: PreTrainedTokenizerBase | None = None,
        device: torch.device | str = "cpu",
        dtype: str = "float32",
        micro_batch_tokens: int = 8192,
    ) -> None:
        self.name, self.beta = source.reward, source.beta
        policy, reference = source.models
        tokenizer = load_tokenizer(policy)
        self.readers: list[ModelReader] = []
        for path in (policy, reference):
            model = load_policy(path, dtype=dtype, tokenizer=tokenizer)
            module = AlignmentModel(model.to(device), kind="policy").eval()  # type: ignore[arg-type]
            self.readers.append(ModelReader(module, device=torch.device(device), micro_batch_tokens=micro_batch_tokens))
        self.reads_ids = policy_tokenizer is not None and same_tokenizer(policy_tokenizer, tokenizer)
        contexts = [getattr(reader.module.config, "max_position_embeddings", None) for reader in self.readers]
        self._encoding = Encoding(
            tokenizer,
            resolve_template(tokenizer),
            reads_ids=self.reads_ids,
            max_length=min((context for context in contexts if context), default=1 << 20),
            name=self.name,
        )

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
        rollouts: Sequence[Rollout] | None = None,
    ) -> list[float]:
        if not completions:
            return []
        tokens = self._encoding.tokens(prompts, completions, groups, rollouts)
        policy, reference = (reader.read(tokens, "logprobs") for reader in self.readers)
        scores = [
            self.beta * float((ours - theirs).double().sum()) for ours, theirs in zip(policy, reference, strict=True)
        ]
        return Scores(checked_scores(self.name, scores, prompts, completions), statistics=self._encoding.figures)


def check_implicit(source: ImplicitSource) -> None:
    """Raises ModelError or ConfigError if the two models cannot be compared token by token. Reads no weights."""
    policy, reference = source.models
    for path in (policy, reference):
        check_is_policy(load_config(path), f"{path} in {source.reward}")
        check_adapter(path)
    try:
        theirs = load_tokenizer(reference)
    except ModelError:
        return  # a folder of weights only: nothing says that its tokens differ
    if not same_ids(load_tokenizer(policy), theirs):
        raise ConfigError(
            "the policy and the reference of this implicit reward have different tokenizers",
            got=source.reward,
            expected="two models with the same tokenizer, because they are compared token by token",
        )
