"""The sizes and weights of a model, read from its `config.json`, and the FLOPs of its passes. Torch-free.

FLOPs follow the roofline formula: F = 2·N·T + 4·L·d·A + 2·V·h·H for a forward pass, and three times that for training
(only twice 2·N·T and 2·V·h·H for weights that are not trained).

Legend: N matrix weights of the trunk, T tokens, L layers, d attention width, A attended pairs of positions,
V·h weights of the head, H positions that the head reads. These are the model's FLOPs: recomputed activations do not
count. The last layer's MLP counts at every token, although `last_layer.py` leaves out tokens that nothing reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Protocol

from assent.errors import ModelError
from assent.models.architectures import FAMILIES, LOOKUPS, Options, Sizes
from assent.models.folders import read_json

DEFAULT_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 16384}
CPU_UNITS, FEWEST_TOKENS = 2**22, 384
"""On a CPU, the most tokens × layers × width of one pass. Each unit keeps some 60 bytes until the backward pass,
0.25 GB in all. A deep model loses little with few tokens, because its products are wide (benchmarks/passes.py)."""
HEADS = ("lm_head.weight", "score.weight")
_EMBEDDING = "torch.nn.modules.sparse.Embedding"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model by its sizes, without its numbers.

    windows   how many tokens each layer attends to; None: all
    weights   the shape of each parameter by its name in transformers' model; tied ones stand once
    """

    model_type: str
    sizes: Sizes
    tie_word_embeddings: bool
    windows: tuple[int | None, ...]
    weights: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, source: str | Path | Mapping[str, Any], *, num_labels: int | None = None) -> ModelShape:
        """Reads a model's folder, or its `config.json` as a mapping.

        `num_labels` makes it a reward model on the same trunk. Raises ModelError for an unknown architecture, and for
        an option that is missing.
        """
        config = source if isinstance(source, Mapping) else read_json(Path(source), "config.json")
        if not config:
            raise ModelError("the model folder has no config.json", got=source, fix="give a folder of transformers")
        kind = config.get("model_type")
        if kind not in FAMILIES:
            raise ModelError(
                "the size of this kind of model cannot be read from its config.json",
                got=f"model_type {kind}",
                expected=f"one of: {', '.join(sorted(FAMILIES))}",
            )
        family, options = FAMILIES[kind], Options(config)
        sizes = family.sizes(options)
        labels = _labels(config) if num_labels is None else num_labels
        weights = family.weights(options, sizes, num_labels=labels)
        return cls(
            kind, sizes, options.get("tie_word_embeddings", family.tied), family.windows(options, sizes), weights
        )

    @property
    def num_parameters(self) -> int:
        return sum(map(prod, self.weights.values()))

    def cost(self, *, shared: bool = True) -> Cost:
        """The cost if all weights are trained. It equals `Cost.of` the built model."""
        matrices = {name: shape for name, shape in self.weights.items() if len(shape) > 1}
        tables = [shape for name, shape in matrices.items() if name.endswith(LOOKUPS)]
        heads = [shape for name, shape in matrices.items() if name in HEADS] or tables[:1]
        trunk = [shape for name, shape in matrices.items() if not name.endswith(LOOKUPS) and name not in HEADS]
        routed, s = self.sizes.num_experts_per_token, self.sizes
        weights = sum(_met(shape, routed) for shape in trunk)
        return Cost(weights, prod(heads[0]), s.num_layers * s.num_heads * s.head_dim, shared)


class Lengths(Protocol):
    """The lengths of a prompt and its completions, in tokens. A `TokenGroup` has them."""

    @property
    def prompt_length(self) -> int: ...
    @property
    def completion_lengths(self) -> Sequence[int]: ...
    @property
    def num_counted(self) -> int:
        """Tokens of the completions that a loss counts."""


@dataclass(frozen=True, slots=True)
class GivenLengths:
    """Lengths without tokens."""

    prompt_length: int
    completion_lengths: tuple[int, ...]
    num_counted: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs of a model's passes.

    attention_width   L · d; 0 if the configuration does not say, and attention is then left out
    shared            a prompt is read once for its K completions, not once for each
    trained_share     the part of the weights that are trained; small for an adapter
    """

    trunk_weights: float
    head_weights: int
    attention_width: int
    shared: bool
    trained_share: float = 1.0

    @classmethod
    def of(cls, module: Any, *, shared: bool) -> Cost:
        """The cost of a built module: an AlignmentModel, an ensemble with all its members, any module with matrices."""
        if (members := getattr(module, "members", None)) is not None:
            one, number = cls.of(members[0], shared=shared), len(members)
            widths = one.trunk_weights * number, one.head_weights * number, one.attention_width * number
            return cls(*widths, shared, one.trained_share)
        hf = getattr(module, "hf", module)
        config: Any = getattr(hf, "config", None)
        head = _head(hf)
        # A whole head that is trained beside an adapter is a copy. The original is not read.
        unread = {id(p) for name, p in hf.named_parameters() if ".original_module." in name}
        vocabulary = _vocabulary_head(hf)
        if vocabulary is not None and vocabulary is not head:
            unread |= {id(p) for p in vocabulary.parameters()}
        heads_own = [] if head is None else [p for p in head.parameters() if p.ndim == 2 and id(p) not in unread]
        skipped = {id(p) for m in hf.modules() if _is_table(m) for p in m.parameters()} | unread
        skipped |= {id(p) for p in heads_own}
        trunks_own = [p for p in hf.parameters() if p.ndim >= 2 and id(p) not in skipped]
        routed = getattr(config, "num_experts_per_tok", None) or 0
        head_weights = sum(p.numel() for p in heads_own)
        trunk = sum(_active(p, routed) for p in trunks_own)
        trained = sum(_active(p, routed) for p in [*trunks_own, *heads_own] if p.requires_grad)
        attention = sum(map(_attention_width, layer_configs(config)))
        return cls(trunk, head_weights, attention, shared, trained / max(1.0, trunk + head_weights))

    def forward(self, groups: Sequence[Lengths]) -> float:
        """FLOPs of reading the groups once, with the head at every counted token."""
        return self._read(groups, sum(g.num_counted for g in groups))

    def update(self, groups: Sequence[Lengths]) -> float:
        """FLOPs of a forward and a backward pass: three forward passes, less the gradients of untrained weights."""
        products = replace(self, attention_width=0).forward(groups)
        return 3.0 * self.forward(groups) - (1.0 - self.trained_share) * products

    def score(self, groups: Sequence[Lengths]) -> float:
        """FLOPs of reading the groups once, with the head only at each completion's last token."""
        return self._read(groups, sum(len(g.completion_lengths) for g in groups))

    def sample(self, prompt: int, lengths: Sequence[int]) -> float:
        """FLOPs of sampling completions of these lengths for one prompt of `prompt` tokens, with a cache.

        The prompt is read once. Each completion's first token is chosen from the output at the prompt's last token, and
        its last token is never read. Rows that wait for batch mates, and prompts that are read again for lack of a
        cache, do not count as the model's FLOPs.
        """
        read = GivenLengths(prompt, tuple(max(length - 1, 0) for length in lengths))
        return replace(self, shared=True)._read([read], 1 + sum(lengths) - len(lengths))

    def _read(self, groups: Sequence[Lengths], head_positions: int) -> float:
        tokens = sum(
            g.prompt_length * (1 if self.shared else len(g.completion_lengths)) + sum(g.completion_lengths)
            for g in groups
        )
        pairs = sum(attended_pairs(g, shared=self.shared) for g in groups)
        trunk = 2.0 * self.trunk_weights * tokens + 4.0 * self.attention_width * pairs
        return trunk + 2.0 * self.head_weights * head_positions


def split_by_budget(groups: Sequence[Lengths], *, max_tokens: int, shared: bool) -> list[list[int]]:
    """Indices of `groups` in micro-batches of at most `max_tokens` tokens each. A larger group gets one of its own.

    The longest come first: each micro-batch holds groups of similar length, and memory runs out in the first one or
    never. If `shared`, a group costs the tokens of its packed row. Otherwise a micro-batch costs its number of
    completions times its longest `prompt + completion`, padding included. The result depends on the lengths alone.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    lengths = [group.completion_lengths for group in groups]
    rows = [len(own) for own in lengths]
    ends = [sum(own) if shared else max(own, default=0) for own in lengths]
    size = [group.prompt_length + end for group, end in zip(groups, ends, strict=True)]
    bins: list[list[int]] = []
    used = longest = 0
    for index in sorted(range(len(groups)), key=lambda i: (-size[i], i)):
        if bins and shared and used + size[index] <= max_tokens:
            used += size[index]
        elif bins and not shared and (used + rows[index]) * longest <= max_tokens:
            used += rows[index]
        else:
            bins.append([])
            used, longest = (size[index] if shared else rows[index]), size[index]
        bins[-1].append(index)
    return bins


def attended_pairs(group: Lengths, *, shared: bool) -> float:
    """Pairs (query, key) under the causal mask: P²/2 + Σ (P·C + C²/2). The prompt's P²/2 counts once if shared."""
    prompt, lengths = group.prompt_length, group.completion_lengths
    own = sum(prompt * length + length**2 / 2 for length in lengths)
    return own + prompt**2 / 2 * (1 if shared else len(lengths))


def tokens_per_pass(layers: int, width: int, device: str) -> int:
    """Tokens of one forward pass if the user does not choose. Sizes of 0 stand for a small model."""
    most = DEFAULT_TOKENS.get(device, DEFAULT_TOKENS["cpu"])
    return min(most, max(FEWEST_TOKENS, CPU_UNITS // max(layers * width, 1))) if device == "cpu" else most


def layer_configs(config: Any) -> Sequence[Any]:
    """For each layer of the language model the configuration that it reads: some differ from layer to layer."""
    text, (layers, _) = _text_config(config), depth_and_width(config)
    return text.per_layer_config if getattr(text, "is_heterogeneous", False) else (text,) * layers


def _attention_width(config: Any) -> int:
    """Of one layer."""
    head_dim = getattr(config, "head_dim", None)
    return getattr(config, "num_attention_heads", 0) * head_dim if head_dim else getattr(config, "hidden_size", 0)


def depth_and_width(config: Any) -> tuple[int, int]:
    """The layers and the hidden size in transformers' configuration; 0 if it does not have them, or is None."""
    text = _text_config(config)
    return getattr(text, "num_hidden_layers", 0), getattr(text, "hidden_size", 0)


def _text_config(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _labels(config: Mapping[str, Any]) -> int | None:
    """The number of labels of a sequence classifier; None for another model. Without `id2label` there are 2."""
    if not str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification"):
        return None
    return len(config.get("id2label") or (0, 1))


def _head(hf: Any) -> Any:
    """The module that is read at the completions' tokens. A scorer may keep output embeddings, which nothing reads."""
    head = getattr(hf, "score", None)
    return _vocabulary_head(hf) if head is None else head


def _vocabulary_head(hf: Any) -> Any:
    get = getattr(hf, "get_output_embeddings", None)
    return None if get is None else get()


def _is_table(module: Any) -> bool:
    """Whether this is torch's Embedding. It goes by the class's name, because torch is not loaded here."""
    return any(f"{kind.__module__}.{kind.__name__}" == _EMBEDDING for kind in type(module).__mro__)


def _active(parameter: Any, routed: int) -> float:
    """The number of a parameter's weights that one token meets. 4-bit weights count as the weights they encode."""
    if (packed := getattr(parameter, "quant_state", None)) is not None:
        return packed.shape.numel()
    return _met(parameter.shape, routed)


def _met(shape: Sequence[int], routed: int) -> float:
    """The number of weights that one token meets: all, or its share of stacked experts (3-D)."""
    number = prod(shape)
    return number * min(1.0, routed / shape[0]) if routed and len(shape) > 2 else number
