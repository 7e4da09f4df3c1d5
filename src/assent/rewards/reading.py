"""What a model reads to score a completion: the sampled ids if it has the policy's tokenizer, otherwise the text.

Legend: S completions, each with n tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from assent.data.rows_read import STEP_SEPARATOR
from assent.data.texts import last_content, shown
from assent.errors import RunError
from assent.models.batch import Outputs, TokenCompletion, TokenGroup
from assent.models.module import AlignmentModel
from assent.models.one_trunk import Ensemble, resident
from assent.models.packing import pack
from assent.models.shape import Cost, split_by_budget
from assent.models.templates import Template
from assent.models.tokenizing import Tokenized, decode, tokenize_groups
from assent.rewards.steps import step_ends, steps_of
from assent.runs.progress import Progress, Silent
from assent.types import PromptGroup, Rollout, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Encoding:
    """Turns completions into a model's tokens, one group for each. The completions of one row are cut together, with
    one prompt for all, as in training.

    reads_ids   rollouts are read by their own ids; otherwise their text is read in the model's template
    limit       what `max_length` is, for messages
    in_steps    completions get `step_ends`; blank lines of a text are left out, because process models see none
    name        the reward's name, for messages

    `figures` has `texts_shortened`, the share of the texts read last that lost tokens of prompt or completion to
    `max_length`. It is empty if none did.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        *,
        reads_ids: bool,
        max_length: int,
        name: str,
        limit: str = "its context",
        in_steps: bool = False,
    ) -> None:
        self.tokenizer, self.template, self.name, self.limit = tokenizer, template, name, limit
        self.reads_ids, self.max_length, self.in_steps = reads_ids, max_length, in_steps
        self.figures: dict[str, float] = {}

    def tokens(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        groups: Sequence[PromptGroup] | None,
        rollouts: Sequence[Rollout] | None,
    ) -> list[TokenGroup]:
        """One group for each completion, in order; arguments as in `Reward.score`. RunError if one is too long."""
        if rollouts is not None and self.reads_ids:
            return [self._of_ids(*one) for one in zip(prompts, rollouts, strict=True)]
        return self._of_text(prompts, completions, groups, rollouts)

    def _of_ids(self, prompt: Text, rollout: Rollout) -> TokenGroup:
        if (length := len(rollout.prompt_ids) + len(rollout.ids)) > self.max_length:
            raise RunError(
                f"reward model {self.name} cannot read {shown(prompt, rollout.text)}",
                got=f"{length} tokens",
                expected=f"at most {self.max_length}, {self.limit}",
                fix="lower --max-length, or use a reward model with a longer context",
            )
        ends: tuple[int, ...] = ()
        if self.in_steps:
            ends = step_ends(rollout.ids, rollout.text, lambda ids: decode(ids, self.tokenizer))
        return TokenGroup(
            prompt_ids=rollout.prompt_ids, completions=(TokenCompletion(ids=rollout.ids, step_ends=ends),)
        )

    def _of_text(
        self,
        prompts: Sequence[Text],
        completions: Sequence[str],
        groups: Sequence[PromptGroup] | None,
        rollouts: Sequence[Rollout] | None,
    ) -> list[TokenGroup]:
        """Reads the texts. A completion that was cut at max_new_tokens has no end, so its EOS is removed again."""
        steps = [tuple(steps_of(text)) for text in completions] if self.in_steps else None
        texts = completions if steps is None else [STEP_SEPARATOR.join(some) for some in steps]
        places = _rows(prompts, groups)
        rows = [_row(prompts[at[0]], at, texts, steps, None if groups is None else groups[at[0]]) for at in places]
        done = tokenize_groups(rows, tokenizer=self.tokenizer, template=self.template, max_length=self.max_length)
        if len(done.groups) != len(rows):
            reason, sources = next(iter(done.report.refused.items()))
            at = places[[row.source for row in rows].index(sources[0])][0]
            fix = f"use a reward model with a context of more than {self.max_length} tokens, or shorter prompts"
            raise RunError(
                f"reward model {self.name} cannot read {shown(prompts[at], completions[at])}: {reason}",
                got=f"max_length {self.max_length}, {self.limit}",
                fix=fix if self.limit == "its context" else "raise --max-length, or use shorter prompts",
            )
        self.figures = _shortened(done)
        found: dict[int, TokenGroup] = {}
        for at_all, group in zip(places, done.groups, strict=True):
            found |= {
                at: TokenGroup(group.prompt_ids, (one,)) for at, one in zip(at_all, group.completions, strict=True)
            }
        read = [found[i] for i in range(len(texts))]
        if steps is not None:
            self._check_steps(read, steps, prompts, completions)
        if rollouts is None:
            return read
        return [
            self._without_eos(group) if rollout.finish_reason == "length" else group
            for group, rollout in zip(read, rollouts, strict=True)
        ]

    def _check_steps(
        self,
        tokens: Sequence[TokenGroup],
        steps: Sequence[Sequence[str]],
        prompts: Sequence[Text],
        completions: Sequence[str],
    ) -> None:
        for i, (group, some) in enumerate(zip(tokens, steps, strict=True)):
            if len(group.completions[0].step_ends) != len(some):
                raise RunError(
                    f"reward model {self.name} cannot read {shown(prompts[i], completions[i])}: "
                    "some of its steps lie beyond max_length",
                    got=f"{len(some)} steps",
                    expected=f"{self.max_length} tokens with the prompt",
                )

    def _without_eos(self, group: TokenGroup) -> TokenGroup:
        completion = group.completions[0]
        ids = completion.ids
        if len(ids) > 1 and ids[-1] in self.template.eos_ids:
            ends = tuple(min(end, len(ids) - 2) for end in completion.step_ends)
            return TokenGroup(prompt_ids=group.prompt_ids, completions=(TokenCompletion(ids=ids[:-1], step_ends=ends),))
        return group


def _rows(prompts: Sequence[Text], groups: Sequence[PromptGroup] | None) -> list[list[int]]:
    """The places of each row's completions. Without `groups`, nothing says which completions belong together."""
    if groups is None:
        return [[i] for i in range(len(prompts))]
    found: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        found.setdefault(id(group), []).append(i)
    return list(found.values())


def _row(
    prompt: Text,
    places: Sequence[int],
    texts: Sequence[str],
    steps: Sequence[tuple[str, ...]] | None,
    group: PromptGroup | None,
) -> PromptGroup:
    """The row of these texts. Texts that are a file's own completions are read with all their turns."""
    given: tuple[Text, ...] = tuple(texts[i] for i in places)
    if group is not None and steps is None and tuple(map(last_content, group.completions)) == given:
        given = group.completions
    return PromptGroup(
        prompt=prompt,
        completions=given,
        steps=None if steps is None else tuple(steps[i] for i in places),
        tools=None if group is None else group.tools,
        chat_template_kwargs={} if group is None else group.chat_template_kwargs,
        source=f"completion {places[0]}",
    )


def _shortened(done: Tokenized) -> dict[str, float]:
    """The share of completions that lost tokens of their own or of their prompt; empty if none did."""
    number = lost = 0
    for group, before in zip(done.groups, done.report.prompt_lengths, strict=True):
        number += len(group.completions)
        whole = len(group.prompt_ids) < before
        lost += len(group.completions) if whole else sum(c.truncated for c in group.completions)
    return {"texts_shortened": lost / number} if lost else {}


class ModelReader:
    """A frozen model that reads packed batches. It reads each prompt once, with all its completions."""

    def __init__(self, module: AlignmentModel | Ensemble, *, device: torch.device, micro_batch_tokens: int) -> None:
        self.module, self.device, self.micro_batch_tokens = module, device, micro_batch_tokens
        self.cost = Cost.of(module, shared=module.tier != "padded")
        self.flops = 0.0
        """Model FLOPs of all reads so far."""
        self.offloaded = False
        self.progress: Progress = Silent()
        """Where a long reading shows how far it is."""

    def offload(self) -> None:
        """From now on the weights are in the host's memory while they are not used."""
        self.offloaded = True
        self.module.to("cpu")

    @torch.no_grad()
    def read(self, tokens: Sequence[TokenGroup], name: str) -> list[Tensor]:
        """One tensor for each of `tokens` (one completion each), in order, float32 on the CPU:

        `logprobs` (n,); `scores` (heads,) at the last token; `values` (n, heads) after each token.
        """
        shared, places = _by_prompt(tokens)
        self.flops += self.cost.score(shared) if name == "scores" else self.cost.forward(shared)
        found: list[Tensor] = [torch.empty(0)] * len(tokens)
        want = frozenset({"values", "last_values"} if name == "values" else {name})
        with (
            resident(self.module, self.device, offloaded=self.offloaded),
            self.progress.task("scoring", total=len(tokens), brief=True) as task,
        ):
            for indices in split_by_budget(shared, max_tokens=self.micro_batch_tokens, shared=self.cost.shared):
                outputs = self.module(pack([shared[i] for i in indices], device=self.device), want)
                at = [place for i in indices for place in places[i]]
                lengths = [tokens[place].completions[0].num_counted for place in at]
                for place, piece in zip(at, _pieces(outputs, name, lengths), strict=True):
                    found[place] = piece.float().cpu()
                task.advance(len(at))
        return found


def _pieces(outputs: Outputs, name: str, lengths: list[int]) -> Sequence[Tensor]:
    if name == "logprobs":
        assert outputs.logprobs is not None
        return outputs.logprobs.split(lengths)
    if name == "scores":
        assert outputs.scores is not None
        return list(outputs.scores.reshape(len(lengths), -1))
    assert outputs.values is not None
    assert outputs.last_values is not None
    before, last = outputs.values.reshape(sum(lengths), -1), outputs.last_values.reshape(len(lengths), -1)
    # the state after a token is the state before the next one
    return [torch.cat([piece[1:], end[None]]) for piece, end in zip(before.split(lengths), last, strict=True)]


def _by_prompt(tokens: Sequence[TokenGroup]) -> tuple[list[TokenGroup], list[list[int]]]:
    """One group per prompt with all its completions, and the place of each completion in `tokens`."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, group in enumerate(tokens):
        places.setdefault(group.prompt_ids, []).append(place)
    shared = [
        TokenGroup(prompt_ids=prompt, completions=tuple(tokens[i].completions[0] for i in at))
        for prompt, at in places.items()
    ]
    return shared, list(places.values())
