"""Chooses a model's tier at load, by comparing with plain `model(...)` calls, one completion at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from assent.errors import ModelError
from assent.models.batch import GroupBatch, TokenCompletion, TokenGroup
from assent.models.head import Logits, log_probabilities
from assent.models.heads import has_own_head
from assent.models.last_layer import install
from assent.models.packing import pack
from assent.models.segments import Segments
from assent.models.trunk import Only, Read, Tier, read, trunk_of

Kind = Literal["policy", "scorer"]

TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-4, torch.bfloat16: 0.25, torch.float16: 0.05}
"""The largest difference in nats (or in score units, relative to the largest score) that rounding explains."""


LONGEST_COMPARED = 512
"""Rows beyond a declared length are compared up to this length: a forward pass of longer ones takes seconds."""
MARGIN = 20
"""Tokens that the compared rows have beyond a declared length, at most."""
LENGTHS = re.compile(r"(sliding|attention|local)_?(window|chunk)|^window_size|index_topk|attention_chunk")
"""Names of a configuration's options that bound which keys a query sees."""


@dataclass(frozen=True, slots=True)
class Probe:
    tier: Tier
    reason: str
    has_chunked_head: bool
    is_short: bool
    """Whether the last layer's MLP can be computed only for the tokens that are read."""


Compared = tuple[GroupBatch, Tensor]
"""A small random batch, and the plain model's numbers on it."""


def plain_numbers(model: PreTrainedModel, *, kind: Kind = "policy", beyond: int = 0) -> Compared:
    """To be taken before anything of the model is changed. beyond: every prompt is so many tokens longer."""
    batch, rows = _random_batch(model, beyond=beyond)
    with _inference(model):
        return batch, torch.cat([_plain(model, *row, kind=kind) for row in rows])


def declared_length(config: Any) -> int | None:
    """The longest window, chunk or top-k of attention that the architecture declares; None if it declares none."""
    text = config.get_text_config()
    named = {name: value for name, value in text.to_dict().items() if LENGTHS.search(name)}
    if not getattr(text, "use_sliding_window", True):
        named.pop("sliding_window", None)
    return max((value for value in named.values() if type(value) is int and value > 0), default=None)


def probe_tier(
    model: PreTrainedModel, *, kind: Kind = "policy", tier: Tier | None = None, plain: Compared | None = None
) -> Probe:
    """The best tier that gives the plain model's numbers on a small random batch. With `tier`, only that one is tried.

    plain   the model's numbers before it was changed; None: as it is now
    Raises ModelError if no tier, or not the given one, gives these numbers.
    """
    batch, expected = plain or plain_numbers(model, kind=kind)
    refused: list[str] = []
    with _inference(model):
        has_chunked_head = kind == "scorer" or _head_agrees(model, batch, expected)
        for candidate in ("segments", "mask", "padded") if tier is None else (tier,):
            reason = _refusal(model, batch, expected, kind=kind, tier=candidate, chunked=has_chunked_head)
            if reason is None and candidate == "mask":
                reason = _refusal_beyond(model, kind=kind, chunked=has_chunked_head)
            if reason is None:
                is_short = candidate == "segments" and _is_short(
                    model, batch, expected, kind=kind, chunked=has_chunked_head
                )
                return Probe(candidate, "; ".join([*refused, _ACCEPTED[candidate]]), has_chunked_head, is_short)
            refused.append(f"{candidate}: {reason}")
    raise ModelError(
        f"{type(model).__name__} cannot be read in packed batches",
        got="; ".join(refused),
        expected="the same numbers as plain model(...) calls, one completion at a time",
        fix="report the architecture; no option works around this",
    )


_ACCEPTED = {
    "segments": "segments: attention once per layer, numbers equal to the plain model's",
    "mask": "mask: numbers equal to the plain model's",
    "padded": "padded: each completion with its prompt in its own row",
}


def _refusal_beyond(model: PreTrainedModel, *, kind: Kind, chunked: bool) -> str | None:
    """Why our mask may not replace the model's own on rows longer than its windows; None: it may.

    A mask of ours holds no window, chunk or top-k; on shorter rows that cannot be seen.
    """
    longest = declared_length(model.config)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is None or (context is not None and longest + MARGIN > context):
        return None  # no row is longer than what is declared
    if longest > LONGEST_COMPARED:
        return f"a window, chunk or top-k of {longest} tokens is declared, too long to compare"
    compared = plain_numbers(model, kind=kind, beyond=longest)
    return _refusal(model, *compared, kind=kind, tier="mask", chunked=chunked)


def _is_short(model: PreTrainedModel, batch: GroupBatch, expected: Tensor, *, kind: Kind, chunked: bool) -> bool:
    """Whether the last layer can be shortened (`last_layer.py`) without changing the numbers."""
    ways: tuple[Only, ...] = ("completions",) if kind == "policy" else ("completions", "ends")
    return install(model, trunk_of(model)) is not None and all(
        _refusal(model, batch, expected, kind=kind, tier="segments", chunked=chunked, only=only) is None
        for only in ways
    )


def _refusal(
    model: PreTrainedModel,
    batch: GroupBatch,
    expected: Tensor,
    *,
    kind: Kind,
    tier: Tier,
    chunked: bool,
    only: Only | None = None,
) -> str | None:
    """Why `tier` cannot be used; None if it can. Any error means that it cannot."""
    try:
        result = read(model, batch, tier=tier, logits=kind == "policy" and not chunked, only=only)
        if result.segments is not None and (reason := miscounted(model, result.segments)):
            return reason
        got = _numbers(model, result, batch, kind=kind, chunked=chunked)
    except Exception as error:  # models raise all kinds of errors on input that they were not made for
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    return _difference(got, expected)


def miscounted(model: PreTrainedModel, segments: Segments) -> str | None:
    """Why attention was not called exactly once per layer with the declared windows; None if it was."""
    config = model.config.get_text_config()
    layers = int(config.num_hidden_layers)
    if segments.calls != layers:
        return f"our attention was called {segments.calls} times by {layers} layers"
    types = list(getattr(config, "layer_types", None) or [])
    if unknown := sorted(set(types) - {"full_attention", "sliding_attention"}):
        return f"layers of type {unknown}"
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    declared = types.count("sliding_attention") if types else layers * (window is not None)
    handed = sum(w is not None for w in segments.windows)
    if declared != handed:
        return f"{declared} layers have a sliding window, but {handed} passed one to attention"
    return None


def _numbers(model: PreTrainedModel, result: Read, batch: GroupBatch, *, kind: Kind, chunked: bool) -> Tensor:
    if kind == "scorer":
        return score_head(model)(result.states.index_select(0, result.last_at))
    states = result.states.index_select(0, result.read_at)
    if chunked:
        head = model.get_output_embeddings()
        return log_probabilities(head, states, batch.targets, logits=Logits.of(model.config))[0]
    return states.float().log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]


def _head_agrees(model: PreTrainedModel, batch: GroupBatch, expected: Tensor) -> bool:
    """Whether the output embeddings, with the declared scale and cap, turn hidden states into the model's logits."""
    try:
        result = read(model, batch, tier="padded")
        return _difference(_numbers(model, result, batch, kind="policy", chunked=True), expected) is None
    except Exception:  # no output embeddings, or another kind of trunk: the model's own logits are used
        return False


def _difference(got: Tensor, expected: Tensor) -> str | None:
    tolerance = TOLERANCE[expected.dtype if expected.dtype in TOLERANCE else torch.float32]
    tolerance *= max(1.0, float(expected.abs().max()) / 10)
    worst = float((got.double() - expected.double()).abs().max())
    return None if worst <= tolerance else f"differs from the plain model by {worst:.2g} (at most {tolerance:.2g})"


def _plain(model: PreTrainedModel, prompt: tuple[int, ...], completion: tuple[int, ...], *, kind: Kind) -> Tensor:
    ids = torch.tensor([prompt + completion], device=model.device)
    if kind == "scorer" and has_own_head(model.config):
        return score_head(model)(_states_of(model, ids)[:, -1])
    logits = model(input_ids=ids, use_cache=False).logits
    if kind == "scorer":
        return logits
    logp = logits[0, len(prompt) - 1 : -1].to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return logp.gather(1, ids[0, len(prompt) :, None])[:, 0].to(logits.dtype)


def _states_of(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """(1, T) ids -> (1, T, d) the trunk's last hidden states, as they come up in a call of the whole model."""
    seen: list[Tensor] = []
    hook = trunk_of(model).register_forward_hook(lambda *call: seen.append(call[-1].last_hidden_state))
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        hook.remove()
    return seen[-1]


def _random_batch(
    model: PreTrainedModel, *, beyond: int = 0
) -> tuple[GroupBatch, list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Two prompts with three and one completions, without the pad id, because plain classifiers search for it.

    beyond   every prompt is so many tokens longer
    """
    config = model.config.get_text_config()
    allowed = np.setdiff1d(np.arange(min(config.vocab_size, 1000)), [getattr(config, "pad_token_id", None) or 0])
    generator = np.random.default_rng(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(generator.choice(allowed, length).tolist())

    lengths = ((11, (5, 7, 3)), (6, (9,)))
    groups = [TokenGroup(ids(p + beyond), tuple(TokenCompletion(ids(n)) for n in ns)) for p, ns in lengths]
    rows = [(g.prompt_ids, c.ids) for g in groups for c in g.completions]
    return pack(groups, device=model.device), rows


def score_head(model: PreTrainedModel) -> torch.nn.Module:
    """The linear head of a sequence classifier."""
    for name in ("score", "classifier"):
        if isinstance(head := getattr(model, name, None), torch.nn.Module):
            return head
    raise ModelError(f"{type(model).__name__} has no score head", expected="a sequence classification model")


@contextmanager
def _inference(model: PreTrainedModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
