"""Chooses a model's tier at load, by comparing with plain `model(...)` calls, one completion at a time.

Small copies of the architecture (`small_copy.py`) say which tiers give the plain model's numbers and gradients, and the
answer is kept (`kept_answers.py`). One short row confirms it on the model's own weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from assent.errors import ModelError
from assent.models.batch import GroupBatch, TokenCompletion, TokenGroup
from assent.models.head import Logits, log_probabilities
from assent.models.heads import has_own_head
from assent.models.kept_answers import Answer, ask_copies
from assent.models.last_layer import install
from assent.models.packing import pack
from assent.models.preparing import prepare
from assent.models.segments import Segments
from assent.models.small_options import LENGTHS
from assent.models.trunk import Only, Read, Tier, read, trunk_of

Kind = Literal["policy", "scorer"]

TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-4, torch.bfloat16: 0.25, torch.float16: 0.05}
"""The largest difference in nats (or in score units, relative to the largest score) that rounding explains."""


LONGEST_COMPARED = 512
"""Without a small copy, rows beyond a declared length are compared up to this length: longer ones take seconds."""
GRADIENT_TOLERANCE = 1e-3
"""The largest difference of a tensor's gradient, relative to its largest entry, that rounding in float32 explains."""
MARGIN = 20
"""Tokens that the compared rows then have beyond a declared length, at most."""
TIERS: tuple[Tier, ...] = ("segments", "mask", "padded")

Row = tuple[tuple[int, ...], tuple[int, ...]]
Lengths = tuple[tuple[int, tuple[int, ...]], ...]
_LONG: Lengths = ((11, (5, 7, 3)), (6, (9,)))  # the longest row: small_copy.ROWS
_SHORT: Lengths = ((4, (3, 3)),)


@dataclass(frozen=True, slots=True)
class Probe:
    tier: Tier
    reason: str
    has_chunked_head: bool
    is_short: bool
    """Whether the last layer's MLP can be computed only for the tokens that are read."""


class Compared(NamedTuple):
    """A small random batch, and the plain model's numbers on it; gradients of a sum of them, or None."""

    batch: GroupBatch
    numbers: Tensor
    gradients: list[Tensor | None] | None = None


class Asked(NamedTuple):
    """What is known of a model before it is changed.

    answer   of small copies; None: there is none, and the tier is chosen on the model's own weights
    plain    the model's numbers: on a short row if there is an answer
    """

    answer: Answer | None
    plain: Compared


def ask(model: PreTrainedModel, *, kind: Kind = "policy") -> Asked:
    """To be called before anything of the model is changed. Raises ModelError if it reads later tokens."""
    answer = ask_copies(model, f"tiers of a {kind}", partial(_ask_copy, kind=kind), ways=TIERS)
    check_causal(model, answer, kind=kind)
    return Asked(answer, plain_numbers(model, kind=kind, short=answer is not None))


def _ask_copy(copy: PreTrainedModel, *, kind: Kind) -> Answer:
    """Compares the tiers with the untouched copy, on rows longer than every length that it declares."""
    compared = plain_numbers(copy, kind=kind, gradients=copy.dtype.itemsize >= 4)
    causal = is_causal(copy, kind=kind)
    prepare(copy)
    with _inference(copy):
        chunked = kind == "scorer" or _head_agrees(copy, compared)
        refused: dict[str, str | None] = {
            tier: _refusal(copy, compared, kind=kind, tier=tier, chunked=chunked) for tier in TIERS
        }
        if refused["padded"] is not None:
            raise ValueError(refused["padded"])
        is_short = refused["segments"] is None and _is_short(copy, compared, kind=kind, chunked=chunked)
    return Answer(refused, {"has_chunked_head": chunked, "is_short": is_short, "is_causal": causal})


def plain_numbers(
    model: PreTrainedModel, *, kind: Kind = "policy", beyond: int = 0, short: bool = False, gradients: bool = False
) -> Compared:
    """beyond      every prompt is so many tokens longer
    short       one prompt of a few tokens with two completions, read in one call where that can be
    """
    batch, rows = _random_batch(model, lengths=_SHORT if short else _LONG, beyond=beyond)
    calls = [rows] if short and kind == "policy" else [[row] for row in rows]
    with _inference(model), torch.set_grad_enabled(gradients):
        numbers = torch.cat([_plain(model, call, kind=kind) for call in calls])
        return Compared(batch, numbers.detach(), _gradients(model, numbers) if gradients else None)


def check_causal(model: PreTrainedModel, answer: Answer | None, *, kind: Kind = "policy") -> None:
    """Raises ModelError if the model reads later tokens, by small copies' answer or else by its own weights."""
    if not (is_causal(model, kind=kind) if answer is None else answer.facts["is_causal"]):
        raise ModelError(
            "this model's numbers at a token depend on later tokens, which are not known while a completion is sampled",
            got=f"{type(model).__name__}, model_type {model.config.model_type}",
            expected="a causal language model",
            fix='"is_decoder": true in its config.json, if its class has this option and it was trained as a decoder',
        )


def is_causal(model: PreTrainedModel, *, kind: Kind = "policy") -> bool:
    """Whether the numbers at a prompt's tokens are the same before two completions."""
    _, rows = _random_batch(model, lengths=_SHORT)
    read = []
    with _inference(model):
        for prompt, completion in rows:
            ids = torch.tensor([prompt + completion], device=model.device)
            if kind == "scorer":
                numbers = _states_of(model, ids)
            else:
                logits = model(input_ids=ids, use_cache=False).logits
                numbers = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1).to(logits.dtype)
            read.append(numbers[:, : len(prompt)])
    return _difference(*read) is None


def declared_length(config: Any) -> int | None:
    """The longest window, chunk or top-k of attention that the architecture declares; None if it declares none."""
    text = config.get_text_config()
    named = {name: value for name, value in text.to_dict().items() if LENGTHS.search(name)}
    if not getattr(text, "use_sliding_window", True):
        named.pop("sliding_window", None)
    return max((value for value in named.values() if type(value) is int and value > 0), default=None)


def probe_tier(model: PreTrainedModel, asked: Asked, *, kind: Kind = "policy", tier: Tier | None = None) -> Probe:
    """The best tier that small copies allow and that gives the plain model's numbers. With `tier`, only that one.

    Raises ModelError if no tier, or not the given one, gives these numbers.
    """
    refused: list[str] = []
    choose = _choose if asked.answer is None else _confirm
    with _inference(model):
        probe = choose(model, asked, kind=kind, tiers=TIERS if tier is None else (tier,), refused=refused)
    if probe is None:
        raise ModelError(
            f"{type(model).__name__} cannot be read in packed batches",
            got="; ".join(refused),
            expected="the same numbers as plain model(...) calls, one completion at a time",
            fix="report the architecture; no option works around this",
        )
    return probe


def _confirm(
    model: PreTrainedModel, asked: Asked, *, kind: Kind, tiers: Sequence[Tier], refused: list[str]
) -> Probe | None:
    """The best of the tiers that small copies allow, if the model's own weights give the plain numbers too."""
    answer, plain = asked
    assert answer is not None
    chunked, can_be_short = answer.facts["has_chunked_head"], answer.facts["is_short"]
    heads = (True, False) if chunked and kind == "policy" else (chunked,)
    only: Only = "completions" if kind == "policy" else "ends"
    for has_chunked_head, tier in product(heads, tiers):
        reason = answer.refused[tier]
        lasts = (True, False) if tier == "segments" and can_be_short and _has_last_layer(model) else (False,)
        for is_short in lasts if reason is None else ():
            options: dict[str, Any] = {"chunked": has_chunked_head, "only": only if is_short else None}
            if (reason := _refusal(model, plain, kind=kind, tier=tier, **options)) is None:
                return Probe(tier, "; ".join([*refused, _ACCEPTED[tier]]), has_chunked_head, is_short)
        if (told := f"{tier}: {reason}") not in refused:
            refused.append(told)
    return None


def _choose(
    model: PreTrainedModel, asked: Asked, *, kind: Kind, tiers: Sequence[Tier], refused: list[str]
) -> Probe | None:
    """The best of the tiers, by the model's own weights alone: there is no small copy."""
    chunked = kind == "scorer" or _head_agrees(model, asked.plain)
    for tier in tiers:
        reason = _refusal(model, asked.plain, kind=kind, tier=tier, chunked=chunked)
        if reason is None and tier == "mask":
            reason = _refusal_beyond(model, kind=kind, chunked=chunked)
        if reason is None:
            is_short = tier == "segments" and _is_short(model, asked.plain, kind=kind, chunked=chunked)
            return Probe(tier, "; ".join([*refused, _ACCEPTED[tier]]), chunked, is_short)
        refused.append(f"{tier}: {reason}")
    return None


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
    return _refusal(model, compared, kind=kind, tier="mask", chunked=chunked)


def _is_short(model: PreTrainedModel, compared: Compared, *, kind: Kind, chunked: bool) -> bool:
    """Whether the last layer can be shortened (`last_layer.py`) without changing the numbers."""
    ways: tuple[Only, ...] = ("completions",) if kind == "policy" else ("completions", "ends")
    return _has_last_layer(model) and all(
        _refusal(model, compared, kind=kind, tier="segments", chunked=chunked, only=only) is None for only in ways
    )


def _has_last_layer(model: PreTrainedModel) -> bool:
    return install(model, trunk_of(model)) is not None


def _refusal(
    model: PreTrainedModel, compared: Compared, *, kind: Kind, tier: Tier, chunked: bool, only: Only | None = None
) -> str | None:
    """Why `tier` cannot be used; None if it can. Any error means that it cannot."""
    batch, expected, gradients = compared
    try:
        with torch.set_grad_enabled(gradients is not None):
            result = read(model, batch, tier=tier, logits=kind == "policy" and not chunked, only=only)
            if result.segments is not None and (reason := miscounted(model, result.segments)):
                return reason
            got = _numbers(model, result, batch, kind=kind, chunked=chunked)
            reason = _difference(got.detach(), expected)
            return _other_gradients(model, got, gradients) if reason is None and gradients is not None else reason
    except Exception as error:  # models raise all kinds of errors on input that they were not made for
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"


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


def _gradients(model: PreTrainedModel, numbers: Tensor) -> list[Tensor | None]:
    """Of a sum to which each number contributes with a weight of its own."""
    weights = torch.linspace(1.0, 2.0, numbers.numel(), dtype=numbers.dtype, device=numbers.device)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return list(torch.autograd.grad((numbers.flatten() * weights).sum(), trained, allow_unused=True))


def _other_gradients(model: PreTrainedModel, numbers: Tensor, expected: list[Tensor | None]) -> str | None:
    """How the gradients differ from the plain model's; None if they do not."""
    largest = max(float(gradient.abs().max()) for gradient in expected if gradient is not None)
    for got, right in zip(_gradients(model, numbers), expected, strict=True):
        if got is None or right is None:
            size, worst = 0.0, max((float(g.abs().max()) for g in (got, right) if g is not None), default=0.0)
        else:
            size, worst = float(right.abs().max()), float((got - right).abs().max())
        if not worst <= GRADIENT_TOLERANCE * size + 1e-2 * GRADIENT_TOLERANCE * largest:
            return f"gradients differ from the plain model's by {worst:.2g} (the largest is {size:.2g})"
    return None


def _head_agrees(model: PreTrainedModel, compared: Compared) -> bool:
    """Whether the output embeddings, with the declared scale and cap, turn hidden states into the model's logits."""
    try:
        batch = compared.batch
        result = read(model, batch, tier="padded")
        return _difference(_numbers(model, result, batch, kind="policy", chunked=True), compared.numbers) is None
    except Exception:  # no output embeddings, or another kind of trunk: the model's own logits are used
        return False


def _difference(got: Tensor, expected: Tensor) -> str | None:
    tolerance = TOLERANCE[expected.dtype if expected.dtype in TOLERANCE else torch.float32]
    tolerance *= max(1.0, float(expected.abs().max()) / 10)
    worst = float((got.double() - expected.double()).abs().max())
    return None if worst <= tolerance else f"differs from the plain model by {worst:.2g} (at most {tolerance:.2g})"


def _plain(model: PreTrainedModel, rows: Sequence[Row], *, kind: Kind) -> Tensor:
    """The numbers of rows with prompts of one length and completions of one length."""
    ids = torch.tensor([prompt + completion for prompt, completion in rows], device=model.device)
    if kind == "scorer" and has_own_head(model.config):
        return score_head(model)(_states_of(model, ids)[:, -1])
    logits = model(input_ids=ids, use_cache=False).logits
    if kind == "scorer":
        return logits
    first = len(rows[0][0])
    logp = logits[:, first - 1 : -1].to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return logp.gather(2, ids[:, first:, None]).flatten().to(logits.dtype)


def _states_of(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """(B, T) ids -> (B, T, d) the trunk's last hidden states, as they come up in a call of the whole model."""
    seen: list[Tensor] = []
    hook = trunk_of(model).register_forward_hook(lambda *call: seen.append(call[-1].last_hidden_state))
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        hook.remove()
    # A decoder of a model with an encoder calls a part of its trunk.
    return seen[-1] if seen else trunk_of(model)(input_ids=ids, use_cache=False).last_hidden_state


def _random_batch(model: PreTrainedModel, *, lengths: Lengths, beyond: int = 0) -> tuple[GroupBatch, list[Row]]:
    """Prompts with completions of the given lengths, without the pad id, because plain classifiers search for it.

    beyond   every prompt is so many tokens longer
    """
    config = model.config.get_text_config()
    allowed = np.setdiff1d(np.arange(min(config.vocab_size, 1000)), [getattr(config, "pad_token_id", None) or 0])
    generator = np.random.default_rng(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(generator.choice(allowed, length).tolist())

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
