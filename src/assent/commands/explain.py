"""`explain`: what a preference probability is made of. Torch is imported only if a model is named."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from assent.config.explain import ExplainConfig
from assent.data.loading import groups_of_rows
from assent.data.named import load_named
from assent.data.readers import messages_in
from assent.diagnosis import explain as diagnosis
from assent.diagnosis.explain_text import lines_of_pair, lines_of_rows, lines_of_tokens
from assent.errors import ModelError
from assent.runs.files import from_json, to_json
from assent.types import PromptGroup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from assent.models.batch import TokenCompletion
    from assent.stages.stage_data import StageData


def explain(config: ExplainConfig) -> tuple[dict[str, Any], list[str]]:
    """The explanation, as a JSON-able document and as lines of text.

    Raises DataError and ModelError for numbers, rows, texts and folders that cannot be used.
    """
    if isinstance(config.logps, str):
        rows, others, sha256 = diagnosis.read_logps(config.logps)
        found = diagnosis.document_of_rows(rows, config.beta)
        found = {"input": "logps", "file": config.logps, "sha256": sha256, "columns_not_used": others, **found}
        lines = lines_of_rows(found)
    elif config.model is not None:
        found, lines = _of_models(config)
    else:
        found = _of_numbers(config)
        lines = lines_of_pair(found)
    return from_json(to_json(found)), lines


def _of_numbers(config: ExplainConfig) -> dict[str, Any]:
    if config.scores is not None:
        return diagnosis.document(diagnosis.of_scores(*config.scores), input="scores")
    if config.ratios is not None:
        assert config.unit is not None
        chosen, rejected = config.ratios
        explained = diagnosis.of_ratios(chosen, rejected, config.beta, unit=config.unit)
        return diagnosis.document(explained, input="ratios", unit=config.unit)
    assert isinstance(config.logps, list)
    return _of_logps(config.logps, config.beta, input="logps")


def _of_logps(logps: list[float], beta: float, **more: Any) -> dict[str, Any]:
    named = dict(zip(diagnosis.COLUMNS, logps, strict=True))
    return diagnosis.document(diagnosis.of_logps(logps, beta), **more, logps=named)


def _of_models(config: ExplainConfig) -> tuple[dict[str, Any], list[str]]:
    from assent.models.loading import check_adapter, check_context, load_config, load_tokenizer
    from assent.rewards.reward_model import same_ids
    from assent.stages.selecting import to_comparisons
    from assent.stages.stage_data import read_stage_data

    assert config.model is not None
    assert config.reference is not None
    for path in (config.model, config.reference):
        check_context(load_config(path, revision=config.revision), config.max_length)
        check_adapter(path, revision=config.revision)
    text = read_stage_data(
        config, model=config.model, sources={"comparison": [_comparison(config)]}, select=to_comparisons
    )
    if not same_ids(load_tokenizer(config.reference, revision=config.revision), text.tokenizer):
        raise ModelError(
            "the reference has another tokenizer than the policy",
            got=config.reference,
            expected="a reference with the policy's tokenizer, because the two are compared token by token",
        )
    part = text.parts["comparison"]
    policy, reference = (_read(path, config, text) for path in (config.model, config.reference))
    tokens = {
        side: _tokens(text.tokenizer, part.tokens[0].completions[i], policy[i], reference[i], config.beta)
        for i, side in enumerate(("chosen", "rejected"))
    }
    logps = [sum(logprobs) for logprobs in (*policy, *reference)]
    found = _of_logps(logps, config.beta, input="model", model=config.model, reference=config.reference)
    found = {**found, "source": part.groups[0].source, "notes": part.lines[1:], "tokens": tokens}
    heads = [f"comparison: {found['source']}", *found["notes"], ""]
    return found, [*heads, *lines_of_pair(found), *lines_of_tokens(found)]


def _comparison(config: ExplainConfig) -> PromptGroup:
    if config.data is None:
        texts = {name: getattr(config, name) for name in ("prompt", "chosen", "rejected")}
        return groups_of_rows([{name: messages_in(text) for name, text in texts.items()}])[0]
    dataset = load_named(config)
    assert config.row is not None
    return dataset.row(config.row)


def _read(path: str, config: ExplainConfig, text: StageData) -> list[list[float]]:
    """Log-probabilities of the counted tokens, for the chosen and for the rejected completion."""
    import torch

    from assent.engine.runtime import Runtime
    from assent.models.loading import load_policy
    from assent.models.module import AlignmentModel
    from assent.models.packing import pack

    device = Runtime.of(config).device
    model = load_policy(path, dtype=config.dtype, revision=config.revision, tokenizer=text.tokenizer)
    group = text.parts["comparison"].tokens[0]
    with torch.no_grad():
        read = AlignmentModel(model.to(device), kind="policy")(pack([group], device=device), frozenset({"logprobs"}))
    chosen, rejected = read.logprobs.double().cpu().split([c.num_counted for c in group.completions])
    return [chosen.tolist(), rejected.tolist()]


def _tokens(
    tokenizer: PreTrainedTokenizerBase,
    completion: TokenCompletion,
    policy: list[float],
    reference: list[float],
    beta: float,
) -> list[dict[str, Any]]:
    """The counted tokens, with their positions in the completion (from 1)."""
    mask = completion.mask or (True,) * len(completion.ids)
    counted = [(place, i) for place, (i, counts) in enumerate(zip(completion.ids, mask, strict=True), 1) if counts]
    return [
        {
            "position": place,
            "id": token_id,
            "token": token_text(tokenizer, token_id),
            "logprob": logprob,
            "reference_logprob": reference_logprob,
            "log_ratio": logprob - reference_logprob,
            "reward": beta * (logprob - reference_logprob),
        }
        for (place, token_id), logprob, reference_logprob in zip(counted, policy, reference, strict=True)
    ]


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """The token as text. Bytes of a letter that is spread over tokens are ⟨C3⟩; what else is no text by itself is
    written as the vocabulary spells it."""
    piece = str(tokenizer.convert_ids_to_tokens(token_id))
    text = str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
    if not text or "\ufffd" in text:
        return _of_bytes(piece) or piece
    return " " + text if piece.startswith("▁") and not text.startswith(" ") else text


def _of_bytes(piece: str) -> str | None:
    """A piece of the vocabulary that stands for bytes, as text with ⟨C3⟩ for a byte that is none; None for others."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    if (fallback := re.fullmatch(r"<0x([0-9A-F]{2})>", piece)) is not None:
        return f"⟨{fallback[1]}⟩"
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    if not all(letter in byte_of for letter in piece):
        return None
    text = bytes(byte_of[letter] for letter in piece).decode(errors="surrogateescape")
    return "".join(f"⟨{ord(c) - 0xDC00:02X}⟩" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)
