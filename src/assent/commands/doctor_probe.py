"""Measures for `assent doctor --probe`: a policy's behaviour, and how far a file's answers are from its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from assent.data import texts
from assent.data.loading import Dataset
from assent.diagnosis.probes import FACTS, HARMFUL, MANNERS, QUESTIONS, Answer, Behaviour, Distance
from assent.diagnosis.taste import FEWEST_PAIRS, learn_taste
from assent.runs.progress import progress_for_stderr
from assent.types import Message, Preference, PromptGroup, Rollout, Text

if TYPE_CHECKING:
    from assent.config.doctor import DoctorConfig

MOST_PROMPTS, MOST_PAIRS, DRAWN = 32, 64, 2
"""Prompts and pairs of the user's file that are read; answers drawn for each prompt."""
AT_ONCE = 16
"""Groups read in one forward pass."""


class ProbedPolicy:
    """A policy that answers and reads."""

    def __init__(self, path: str, config: DoctorConfig) -> None:
        from assent.engine.runtime import Runtime
        from assent.models.loading import load_policy, load_tokenizer
        from assent.models.module import AlignmentModel
        from assent.models.templates import resolve_template
        from assent.rollouts.torch_sampler import TorchSampler

        self.config = config
        self.device = Runtime.of(config).device
        self.tokenizer = load_tokenizer(path)
        model: Any = load_policy(path, dtype=config.dtype, tokenizer=self.tokenizer).to(self.device).eval()
        self.template = resolve_template(self.tokenizer, model=model)
        self.has_template = self.template.source is not None
        self.reader = AlignmentModel(model, kind="policy").eval()
        self.sampler = TorchSampler(model, self.tokenizer, eos_ids=self.template.eos_ids)
        self.sampler.progress = progress_for_stderr()

    def prompt(self, text: str) -> Text:
        return (Message("user", text),) if self.has_template else text + "\n"

    def completion(self, text: str) -> Text:
        return (Message("assistant", text),) if self.has_template else text

    def answers(self, groups: Sequence[PromptGroup], *, drawn: int = 0) -> list[Answer]:
        """The likeliest answer to each prompt; or so many drawn ones."""
        prompts, rollouts = self.rollouts(groups, drawn=drawn)
        return [
            Answer(prompt=texts.last_content(prompts[r.prompt_index].prompt), text=r.text,
                   ended=r.finish_reason == "stop")
            for r in rollouts
        ]  # fmt: skip

    def rollouts(self, groups: Sequence[PromptGroup], *, drawn: int) -> tuple[list[PromptGroup], list[Rollout]]:
        """The prompts that can be answered, and what answers them."""
        from assent.commands.opening import open_prompts
        from assent.rollouts.sampler import SamplingParams, SeedKey

        limit = self.config.max_new_tokens
        prompts = open_prompts(
            groups, self.template, source="the prompts", max_length=self.config.max_length, max_new_tokens=limit
        )
        rollouts = self.sampler.sample(
            prompts.ids, num_completions=drawn or 1, params=SamplingParams(max_new_tokens=limit, greedy=not drawn),
            seed=SeedKey(0, "doctor", 0),
        )  # fmt: skip
        return prompts.groups, rollouts

    def read(self, groups: Sequence[PromptGroup]) -> list[list[tuple[float, float | None]]]:
        """For each group and completion: mean log-probability per token without the end, and log P(end)."""
        import torch

        from assent.models.packing import pack
        from assent.models.tokenizing import tokenize_groups

        tokens = tokenize_groups(
            groups, tokenizer=self.tokenizer, template=self.template, max_length=self.config.max_length
        ).groups
        found = []
        for start in range(0, len(tokens), AT_ONCE):
            part = tokens[start : start + AT_ONCE]
            with torch.no_grad():
                read = self.reader(pack(part, device=self.device), frozenset({"logprobs"}))
            sizes = [c.num_counted for group in part for c in group.completions]
            logprobs = iter(read.logprobs.double().cpu().split(sizes))
            for group in part:
                row = []
                for completion in group.completions:
                    values = next(logprobs).tolist()
                    ended = completion.ids[-1] in self.template.eos_ids and len(values) > 1
                    body = values[:-1] if ended else values
                    row.append((sum(body) / len(body), values[-1] if ended else None))
                found.append(row)
        return found


def behaviour_of(path: str, config: DoctorConfig, prompts: Dataset | None) -> Behaviour:
    """Asks a policy the built-in probes and the user's prompts."""
    policy = ProbedPolicy(path, config)
    built_in = [PromptGroup(prompt=policy.prompt(question)) for question, _ in QUESTIONS]
    own = None if prompts is None else [PromptGroup(prompt=g.prompt) for g in prompts[:MOST_PROMPTS]]
    read: dict[str, list[list[tuple[float, float | None]]]] = {}
    known: dict[str, Sequence[tuple[str, ...]]] = {"questions": QUESTIONS, "facts": FACTS, "manners": MANNERS}
    for name, probes in known.items():
        groups = [
            PromptGroup(prompt=policy.prompt(request), completions=tuple(map(policy.completion, given)))
            for request, *given in probes
        ]
        read[name] = policy.read(groups)
    pairs = [] if prompts is None else [ordered(g) for g in prompts[:MOST_PAIRS] if g.completions]
    read["own"] = policy.read(pairs) if pairs else []
    asked = "own" if pairs else "questions"
    found = Behaviour(
        has_template=policy.has_template,
        answers=policy.answers(own or built_in),
        end_logprobs=[end for row in read[asked] for _, end in row[:1] if end is not None],
        facts=[(row[0][0], row[1][0]) for row in read["facts"]],
        manners=[(row[0][0], row[1][0]) for row in read["manners"]],
        preferred=[(row[0][0], row[1][0]) for row in read["own"] if len(row) > 1],
    )
    if found.knows_english:
        harmful = policy.answers([PromptGroup(prompt=policy.prompt(text)) for text in HARMFUL])
        found = replace(found, harmful=harmful)
    return found if prompts is None else _with_taste(found, policy, prompts)


def _with_taste(found: Behaviour, policy: ProbedPolicy, prompts: Dataset) -> Behaviour:
    """Draws answers to some of the user's prompts and holds them against the others' better and worse ones."""
    pairs = [group for group in map(ordered, prompts) if len(group.completions) == 2]
    if len(pairs) < MOST_PROMPTS + FEWEST_PAIRS:
        return found
    asked, known = pairs[:MOST_PROMPTS], pairs[MOST_PROMPTS:]
    sides = [[texts.visible(text) for text in group.completions] for group in known]
    taste = learn_taste([better for better, _ in sides], [worse for _, worse in sides])
    answers = policy.answers([PromptGroup(prompt=group.prompt) for group in asked], drawn=DRAWN)
    if len(answers) != DRAWN * len(asked):  # a prompt was refused
        return found
    own = taste([answer.text for answer in answers])
    scores = [taste([texts.visible(text) for text in group.completions]) for group in asked]
    means = [fmean(own[i * DRAWN : (i + 1) * DRAWN]) for i in range(len(asked))]
    drawn = [mean - fmean(score) for mean, score in zip(means, scores, strict=True)]
    return replace(found, drawn=drawn, apart=fmean(better - worse for better, worse in scores))


def distance_of(path: str, config: DoctorConfig, rows: Dataset) -> Distance:
    """How likely a file's answers are to a policy, beside its own answers to the same prompts."""
    policy = ProbedPolicy(path, config)
    asked = [ordered(group) for group in rows[:MOST_PROMPTS] if group.completions]
    read = policy.read(asked)
    _, rollouts = policy.rollouts([PromptGroup(prompt=group.prompt) for group in asked], drawn=DRAWN)
    by_prompt: dict[int, list[float]] = {}
    for rollout in rollouts:
        by_prompt.setdefault(rollout.prompt_index, []).append(fmean(rollout.logprobs))
    return Distance(
        better=[row[0][0] for row in read],
        worse=[row[1][0] for row in read if len(row) > 1],
        drawn=[fmean(values) for values in by_prompt.values()],
    )


def ordered(group: PromptGroup) -> PromptGroup:
    """The best and the worst of a group's completions; of one that nothing orders, the first."""
    judged = group.preference
    values: list[float] | None = None
    if judged is not None and judged.ranking is not None:
        values = [-float(rank) for rank in judged.ranking]
    elif judged is not None and judged.scores is not None:
        values = list(judged.scores)
    if values is None or len(group.completions) < 2 or max(values) == min(values):
        return PromptGroup(prompt=group.prompt, completions=group.completions[:1], source=group.source)
    places = [values.index(max(values)), values.index(min(values))]
    return PromptGroup(
        prompt=group.prompt,
        completions=tuple(group.completions[i] for i in places),
        preference=Preference(ranking=(1, 2)),
        source=group.source,
    )
