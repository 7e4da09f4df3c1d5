"""`data show`: rows as a model reads them. `read_stage_data` reads them, as for training, so the two cannot differ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from assent.config.commands import DataShowConfig
from assent.config.options import PromptOptions, TextOptions
from assent.config.stages import KtoConfig, PreferenceConfig, RewardConfig, SftConfig
from assent.data.named import load_named
from assent.errors import DataError, TemplateError
from assent.runs.files import from_json, to_json
from assent.types import PromptGroup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from assent.data.loading import RefusedRow
    from assent.models.batch import TokenCompletion
    from assent.stages.selecting import Select
    from assent.stages.stage_data import Part, StageData

ROWS = 3
"""Rows that are shown if none is named."""
UNCUT = 1 << 30
STAGE_OF = {
    "rankings": "dpo",
    "scores": "dpo",
    "comparisons": "dpo",
    "implicit_comparisons": "dpo",
    "sharegpt_comparisons": "dpo",
    "thumbs": "kto",
    "ratings": "reward",
    "stepwise": "reward",
    "prompts": "ppo",
}
"""Layout -> the command that it is for; sft for the others."""
LOSS = {
    "sft": "the loss is on the marked tokens",
    "dpo": "the loss compares the completions' sums of log-probabilities over the marked tokens",
    "kto": "the loss is on the sum of log-probabilities over the marked tokens",
    "reward": "the score is read at the marked token",
    "ppo": "only the prompt is read: the policy writes the completion",
}


def show_data(config: DataShowConfig) -> dict[str, Any]:
    """A JSON-able document: `rows` have `prompt`, `completions` and `notes`, or `refused` with the reason.

    Raises DataError if the row asked for is missing, ModelError for a model that cannot be read.
    """
    dataset = load_named(config, "file", layout=config.layout, lenient=True)
    stage = config.stage or STAGE_OF.get(dataset.layout, "sft")
    config.check_effect(stage)
    refused = None if config.row is None else dataset.refused_row(config.row)
    if refused is not None:
        groups = []
    else:
        groups = [dataset.row(config.row)] if config.row is not None else list(dataset[:ROWS])
    if config.train_on == "each":
        groups = [one for group in groups for one in _each_turn(group)]
    found = {
        "file": config.file,
        "model": config.model,
        "stage": stage,
        "notes": dataset.notes,
        "loss": LOSS[stage],
        "max_length": config.max_length,
        "rows_in_file": len(dataset),
        "refused_at_loading": len(dataset.refused),
        "rows": _rows(config, stage, groups) if refused is None else [_refusal(refused)],
    }
    return from_json(to_json(found))


def _refusal(row: RefusedRow) -> dict[str, Any]:
    """A row that was refused at loading, with the reason."""
    return {"source": row.source, "refused": f"{row.reason}: {row.detail}" if row.detail else row.reason}


def _each_turn(group: PromptGroup) -> list[PromptGroup]:
    """The rows of one assistant turn that training makes of a row; the row itself if it cannot be trained on."""
    from assent.stages.selecting import to_turns

    try:
        return to_turns([group])[0] or [group]
    except DataError:
        return [group]  # reading it again tells why


def _rows(config: DataShowConfig, stage: str, groups: Sequence[PromptGroup]) -> list[dict[str, Any]]:
    """All rows in one reading; if that fails, each by itself, so that one bad row does not hide the others."""
    try:
        return _read(config, stage, groups)
    except (DataError, TemplateError) as error:
        if len(groups) == 1:
            return [{"source": groups[0].source, "refused": str(error)}]
        return [row for group in groups for row in _rows(config, stage, [group])]


def _read(config: DataShowConfig, stage: str, groups: Sequence[PromptGroup]) -> list[dict[str, Any]]:
    data = _stage_data(config, stage, groups)
    whole = None
    if any(part.shortened for part in data.parts.values()):
        whole = _stage_data(config, stage, groups, max_length=UNCUT)
    last_turn = config.train_on == "last"
    return [_row(data, name, stage, whole.parts[name] if whole else None, last_turn=last_turn) for name in data.parts]


def _stage_data(config: DataShowConfig, stage: str, groups: Sequence[PromptGroup], **changed: int) -> StageData:
    """The rows as the stage's `train` reads them: the same options, selection and tokenization; a part for each row."""
    from assent.stages import kto, preference, reward
    from assent.stages.selecting import to_demonstrations, to_prompts
    from assent.stages.stage_data import read_stage_data

    names = PromptOptions.model_fields if stage == "ppo" else TextOptions.model_fields
    text = {name: getattr(config, name) for name in names} | changed
    given = {"model": config.model, "data": config.file, "output_dir": "", **text}
    options: PromptOptions
    select: Select
    more: dict[str, Any] = {}
    if stage == "sft":
        options, select, more = SftConfig.model_validate(given), to_demonstrations, {"train_on": config.train_on}
    elif stage == "dpo":
        options = pairs = PreferenceConfig.model_validate(given | _loss_of_rankings(groups))
        select = preference.select_for(pairs)
    elif stage == "kto":
        options = thumbs = KtoConfig.model_validate(given)
        select = kto.select_for(thumbs)
    elif stage == "reward":
        options = scored = RewardConfig.model_validate(given | _loss_of_labels(groups))
        select = reward.select_for(scored)
    else:
        options, select, more = (
            PromptOptions.model_validate(text),
            to_prompts,
            {"max_new_tokens": config.max_new_tokens},
        )
    sources: dict[str, str | Sequence[PromptGroup] | None] = {
        f"row {i}": [group] for i, group in enumerate(groups, start=1)
    }
    return read_stage_data(options, model=config.model, sources=sources, select=select, **more)


def _loss_of_rankings(groups: Sequence[PromptGroup]) -> dict[str, Any]:
    """More than two completions need a loss of rankings. Which one changes no token."""
    return {"loss_type": "plackett_luce"} if any(len(group.completions) > 2 for group in groups) else {}


def _loss_of_labels(groups: Sequence[PromptGroup]) -> dict[str, Any]:
    """A loss that can read these labels. Which one changes no token."""
    kinds = {"no preference" if group.preference is None else group.preference.kind for group in groups}
    if "step_labels" in kinds:
        return {"supervision": "process", "loss_type": "bce"}
    if "thumbs" in kinds:
        return {"loss_type": "bce"}
    if any(len(group.completions) == 1 for group in groups):
        return {"loss_type": "mse"}
    return _loss_of_rankings(groups)


def _row(data: StageData, name: str, stage: str, whole: Part | None, *, last_turn: bool) -> dict[str, Any]:
    from assent.models.cutting import last_turn_only

    part, tokenizer = data.parts[name], data.tokenizer
    [group], [tokens] = part.groups, part.tokens
    group = last_turn_only(group) if last_turn else group
    uncut = whole.tokens[0] if whole is not None else tokens
    return {
        "source": group.source,
        "prompt": {
            "roles": _roles(group.prompt),
            "tokens": _tokens(tokenizer, tokens.prompt_ids, [False] * len(tokens.prompt_ids)),
            "cut": _tokens(tokenizer, _lost(uncut.prompt_ids, tokens.prompt_ids)),
        },
        "completions": [
            {
                "name": _name(group, k),
                "turns": _turns(group, k, completion),
                "tokens": _tokens(tokenizer, completion.ids, _marks(completion, stage)),
                "ends_with_eos": completion.ids[-1] in data.template.eos_ids,
                "cut": _tokens(tokenizer, uncut.completions[k].ids[len(completion.ids) :]),
            }
            for k, completion in enumerate(tokens.completions)
        ],
        "eos": {str(i): tokenizer.convert_ids_to_tokens(i) for i in sorted(data.template.eos_ids)},
        "values": dict(tokens.value),
        "notes": [line.strip() for line in part.lines[1:] if not line.startswith("  rows: 1 of 1 used, 0 ")],
    }


def _roles(text: Any) -> list[str]:
    return [] if isinstance(text, str) else [message.role for message in text]


def _name(group: PromptGroup, k: int) -> str:
    judged = group.preference
    if judged is not None and judged.thumbs is not None:
        return f"completion, thumb {'up' if judged.thumbs[k] else 'down'}"
    if judged is not None and judged.ranking is not None and sorted(judged.ranking) == [1, 2]:
        return "chosen" if judged.ranking[k] == 1 else "rejected"
    number = f"completion {k + 1}" if len(group.completions) > 1 else "completion"
    if judged is not None and judged.ranking is not None:
        return f"{number}, rank {judged.ranking[k]}"
    return f"{number}, score {judged.scores[k]:g}" if judged is not None and judged.scores is not None else number


def _turns(group: PromptGroup, k: int, completion: TokenCompletion) -> list[dict[str, Any]]:
    """Runs of tokens that are one assistant turn, or what stands between two: roles, and the number of tokens."""
    roles = _roles(group.completions[k]) or ["completion"]
    assistant = [i for i, role in enumerate(roles) if role == "assistant"] or [0]
    out, last, turn = [], 0, 0
    for trained, run in groupby(completion.mask or (True,) * len(completion.ids)):
        at = assistant[min(turn, len(assistant) - 1)]
        out.append({"roles": [roles[at]] if trained else roles[last:at], "tokens": len(list(run))})
        if trained:
            last, turn = at + 1, turn + 1
    return out


def _marks(completion: TokenCompletion, stage: str) -> list[bool]:
    """Which tokens the loss counts. A reward model's score is read at the last token, or at the end of each step."""
    if stage == "reward":
        ends = completion.step_ends or (len(completion.ids) - 1,)
        return [i in ends for i in range(len(completion.ids))]
    return list(completion.mask or (True,) * len(completion.ids))


def _lost(whole: Sequence[int], kept: Sequence[int]) -> tuple[int, ...]:
    """The ids of `whole` between its longest start and its longest end that `kept` has, too."""
    start = next((i for i, (a, b) in enumerate(zip(whole, kept, strict=False)) if a != b), min(len(whole), len(kept)))
    return tuple(whole[start : len(whole) - (len(kept) - start)])


def _tokens(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], marks: Sequence[bool] | None = None
) -> list[dict[str, Any]]:
    from assent.commands.explain import token_text

    texts = [{"id": i, "text": token_text(tokenizer, i)} for i in ids]
    return texts if marks is None else [{**t, "loss": mark} for t, mark in zip(texts, marks, strict=True)]
