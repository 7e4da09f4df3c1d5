"""Measures for `assent doctor REWARD_MODEL --probe`: what its scores depend on, besides the quality of the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from assent.commands.doctor_probe import ordered
from assent.data import texts
from assent.data.loading import Dataset
from assent.data.named import load_named
from assent.data.splitting import prompt_key
from assent.diagnosis.data_rules.length_tells import length_baseline
from assent.diagnosis.probes import MANNERS
from assent.diagnosis.rows import Rows
from assent.diagnosis.rule import NotChecked
from assent.diagnosis.scored import FEWEST, Scored
from assent.engine.runtime import Runtime
from assent.errors import DataError
from assent.models.heads import has_own_head
from assent.models.loading import load_config, load_scorers
from assent.models.tokenizing import tokenize_groups
from assent.rewards.loading import shown_by
from assent.rewards.reward_model import RewardModel
from assent.runs.progress import progress_for_stderr
from assent.statistics.small import Interval
from assent.types import Message, PromptGroup, Rollout, Text

if TYPE_CHECKING:
    from assent.config.doctor import DoctorConfig

MOST_PAIRS = 400
"""Prompts of the user's file that are read, one pair of each."""
PADDED = 8
"""Rows of the padded batch."""
Row = tuple[Text, str]
"""A prompt and the text of an answer."""


def scores_of(path: str, config: DoctorConfig) -> Scored:
    """Asks a reward model the user's pairs, or the built-in ones. Raises DataError for a file without pairs."""
    device = Runtime.of(config).device
    reward = RewardModel(path, device=device, dtype=config.dtype, max_length=config.max_length)
    shown_by(reward, progress_for_stderr())
    data = None if config.data is None else load_named(config)
    rows = _built_in(reward) if data is None else _pairs(data, str(config.data))
    prompts = [prompt for prompt, _, _ in rows]
    better, worse = [good for _, good, _ in rows], [bad for _, _, bad in rows]
    others = prompts[1:] + prompts[:1]
    ask = _Asked(reward)
    scores = ask(prompts, better)
    padded = _padded(path, config, reward, [*zip(prompts, better, strict=True)][:PADDED], scores)
    return Scored(
        given=config.data is not None,
        better=scores,
        worse=ask(prompts, worse),
        better_characters=[len(text) for text in better],
        worse_characters=[len(text) for text in worse],
        empty=ask(prompts, [""] * len(rows)),
        doubled=ask(prompts, [f"{text} {text}" for text in better]),
        open_ended=ask(prompts, better, ended=False),
        retouched=ask(prompts, [retouched(text) for text in better]),
        other_better=ask(others, better),
        other_worse=ask(others, worse),
        lengths_alone=None if data is None else _lengths_alone(data),
        **padded,
    )


def _lengths_alone(data: Dataset) -> Interval | None:
    try:
        return length_baseline(Rows(data))[0]
    except NotChecked:
        return None


def retouched(text: str) -> str:
    """The text with every blank doubled, and with its last mark taken away, or one added."""
    changed = re.sub(r"(?<=\S) (?=\S)", "  ", text.rstrip())
    return changed[:-1] if changed.endswith((".", "!")) else f"{changed}."


class _Asked:
    """Scores of answers; of an ensemble, the mean of its members."""

    def __init__(self, reward: RewardModel) -> None:
        self.reward = reward

    def __call__(self, prompts: Sequence[Text], answers: Sequence[str], *, ended: bool = True) -> list[float]:
        rollouts = None if ended else [_cut(text) for text in answers]
        return self.reward.score_members(prompts, answers, rollouts=rollouts).double().mean(dim=1).tolist()


def _cut(text: str) -> Rollout:
    """An answer that the limit ended: the reward model reads its text, without an end token."""
    return Rollout(prompt_ids=(), ids=(), logprobs=(), finish_reason="length", text=text, prompt_index=0,
                   completion_index=0, policy_version="")  # fmt: skip


def _pairs(rows: Dataset, path: str) -> list[tuple[Text, str, str]]:
    """Prompt, better and worse answer: one pair for each prompt."""
    found: dict[str, tuple[Text, str, str]] = {}
    for group in map(ordered, rows):
        if len(group.completions) == 2:
            good, bad = map(texts.last_content, group.completions)
            found.setdefault(prompt_key(group.prompt), (group.prompt, good, bad))
    if not found:
        raise DataError(
            f"{path} has no pair of answers with an order", expected="prompt, chosen, rejected; or rankings"
        )
    return list(found.values())[:MOST_PAIRS]


def _built_in(reward: RewardModel) -> list[tuple[Text, str, str]]:
    chat = reward.template.source is not None
    return [((Message("user", asked),) if chat else f"{asked}\n", good, bad) for asked, good, bad in MANNERS]


def _padded(
    path: str, config: DoctorConfig, reward: RewardModel, rows: Sequence[Row], ours: Sequence[float]
) -> dict[str, Any]:
    """How far plain transformers is from our scores in a batch padded on the right, and on the left; or why it cannot
    read one, or was not asked. Fields of Scored."""
    if has_own_head(load_config(path)):
        return {"unpadded": "transformers has no class that scores with this folder"}
    if len(rows) < FEWEST:
        return {"unpadded": f"too few prompts: {len(rows)} of {FEWEST}"}
    pad = load_config(path).pad_token_id
    if pad is None:
        return {"unreadable": "config.json has no pad_token_id"}
    groups = [PromptGroup(prompt=prompt, completions=(answer,)) for prompt, answer in rows]
    read = tokenize_groups(groups, tokenizer=reward.tokenizer, template=reward.template, max_length=config.max_length)
    ids = [[*group.prompt_ids, *group.completions[0].ids] for group in read.groups]
    if len(ids) < len(rows):
        return {"unpadded": f"a row of the first {len(rows)} cannot be read: {', '.join(read.report.refused)}"}
    device = Runtime.of(config).device
    members: list[Any] = [model.eval().to(device) for model in load_scorers(path, dtype=config.dtype)]
    changes = []
    for side in ("right", "left"):
        scores = torch.cat([_plain(model, ids, pad, side) for model in members], dim=1).mean(dim=1).tolist()
        changes.append([abs(score - own) for score, own in zip(scores, ours, strict=False)])
    return {"right_padded": changes[0], "left_padded": changes[1]}


@torch.no_grad()
def _plain(model: Any, ids: Sequence[Sequence[int]], pad: int, side: str) -> torch.Tensor:
    """(S, heads) scores by the model's own forward, of one batch in which every row is padded; our bias is added."""
    width = max(map(len, ids)) + 3
    rows, masks = [], []
    for row in ids:
        fill = [pad] * (width - len(row))
        rows.append([*row, *fill] if side == "right" else [*fill, *row])
        masks.append([1] * len(row) + [0] * len(fill) if side == "right" else [0] * len(fill) + [1] * len(row))
    model.config.pad_token_id = pad
    read = model(
        input_ids=torch.tensor(rows, device=model.device), attention_mask=torch.tensor(masks, device=model.device)
    )
    bias = torch.as_tensor(getattr(model.config, "assent_score_bias", 0.0))
    return read.logits.double().cpu() + bias.double()
