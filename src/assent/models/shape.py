"""A model without its numbers: its sizes and weights from `config.json`, and the FLOPs that follow. Torch-free.

FLOPs are the roofline formula's: F = 2·N·T + 4·L·d·A + 2·V·h·H for a forward pass, three times that for training
(where weights stay as they are, twice 2·N·T and 2·V·h·H).

Legend: N matrix weights of the trunk, T tokens, L layers, d attention width, A attended pairs of positions,
V·h weights of the head, H positions the head reads. Recomputed activations count as hardware's FLOPs, not the model's;
the formula counts the last layer's MLP at every token, which `last_layer.py` leaves out where nothing reads it.
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
"""On a CPU, tokens × layers × width of one pass: some 60 bytes each until the backward pass, 0.25 GB in all.
In a deep model fewer tokens lose little, for its products are wide (benchmarks/passes.py)."""
HEADS = ("lm_head.weight", "score.weight")
_EMBEDDING = "torch.nn.modules.sparse.Embedding"


class Lengths(Protocol):
    """A prompt and its completions in numbers of tokens. A `TokenGroup` has them."""

    @property
    def prompt_length(self) -> int: ...
    @property
    def completion_lengths(self) -> Sequence[int]: ...
    @property
    def num_counted(self) -> int:
        """Tokens of the completions that a loss counts."""


@dataclass(frozen=True, slots=True)
class GivenLengths:
    """Lengths without the tokens."""

    prompt_length: int
    completion_lengths: tuple[int, ...]
    num_counted: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs of a model's passes.

    attention_width   L · d: 0 where the configuration does not say, and attention is then left out
    shared            a prompt is read once for its K completions; otherwise once for each
    trained_share     the part of the weights that get gradients of their own: small where an adapter is trained
    """

    trunk_weights: float
    head_weights: int
    attention_width: int
    shared: bool
    trained_share: float = 1.0

    @classmethod
    def of(cls, module: Any, *, shared: bool) -> Cost:
        """The cost of a built module: an AlignmentModel, an ensemble (its members together), anything with matrices."""
        if (members := getattr(module, "members", None)) is not None:
            one, number = cls.of(members[0], shared=shared), len(members)
            widths = one.trunk_weights * number, one.head_weights * number, one.attention_width * number
            return cls(*widths, shared, one.trained_share)
        hf = getattr(module, "hf", module)
        config: Any = getattr(hf, "config", None)
        head = _head(hf)
        # beside an adapter, a head that is trained whole is a copy: the original is not read
        unread = {id(p) for name, p in hf.named_parameters() if ".original_module." in name}
        heads_own = [] if head is None else [p for p in head.parameters() if p.ndim == 2 and id(p) not in unread]
        skipped = {id(p) for m in hf.modules() if _is_table(m) for p in m.parameters()} | unread
        skipped |= {id(p) for p in heads_own}
        trunks_own = [p for p in hf.parameters() if p.ndim >= 2 and id(p) not in skipped]
        routed = getattr(config, "num_experts_per_tok", None) or 0
        head_weights = sum(p.numel() for p in heads_own)
        trunk = sum(_active(p, routed) for p in trunks_own)
        trained = sum(_active(p, routed) for p in [*trunks_own, *heads_own] if p.requires_grad)
        layers, width = depth_and_width(config)
        text = _text_config(config)
        heads, head_dim = getattr(text, "num_attention_heads", 0), getattr(text, "head_dim", None)
        attention = layers * (heads * head_dim if head_dim else width)
        return cls(trunk, head_weights, attention, shared, trained / max(1.0, trunk + head_weights))

    def forward(self, groups: Sequence[Lengths]) -> float:
        """FLOPs of reading the groups once, the head at every counted token."""
        return self._read(groups, sum(g.num_counted for g in groups))

    def update(self, groups: Sequence[Lengths]) -> float:
        """FLOPs of a forward and a backward pass: thrice the forward, less the gradients of weights that stay."""
        products = replace(self, attention_width=0).forward(groups)
        return 3.0 * self.forward(groups) - (1.0 - self.trained_share) * products

    def score(self, groups: Sequence[Lengths]) -> float:
        """FLOPs of reading the groups once, the head at each completion's last token alone."""
        return self._read(groups, sum(len(g.completion_lengths) for g in groups))

    def sample(self, prompt: int, lengths: Sequence[int]) -> float:
        """FLOPs of sampling completions of these lengths to one prompt of so many tokens, with a cache.

        The prompt is read once for all. A completion's last token is chosen and not read; its first is chosen from
        what the prompt's last gave. Rows that wait for their batch mates, and reading again where a model has no
        cache, are not the model's FLOPs.
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


def attended_pairs(group: Lengths, *, shared: bool) -> float:
    """Pairs (query, key) under the causal mask: P²/2 + Σ (P·C + C²/2), the prompt's P²/2 once if shared."""
    prompt, lengths = group.prompt_length, group.completion_lengths
    own = sum(prompt * length + length**2 / 2 for length in lengths)
    return own + prompt**2 / 2 * (1 if shared else len(lengths))


def tokens_per_pass(layers: int, width: int, device: str) -> int:
    """Tokens of one forward pass where the user leaves the choice. Sizes of 0 stand for a small model."""
    most = DEFAULT_TOKENS.get(device, DEFAULT_TOKENS["cpu"])
    return min(most, max(FEWEST_TOKENS, CPU_UNITS // max(layers * width, 1))) if device == "cpu" else most


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model by its sizes.

    weights   the shape of each parameter by its name in transformers' model, tied ones once
    windows   how many tokens each layer attends to; None: all
    """

    model_type: str
    sizes: Sizes
    tie_word_embeddings: bool
    windows: tuple[int | None, ...]
    weights: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, source: str | Path | Mapping[str, Any], *, num_labels: int | None = None) -> ModelShape:
        """From a model's folder, or its `config.json` as a mapping.

        `num_labels`: of a reward model on this trunk; without it, what `config.json` says.
        Raises ModelError for an architecture that is not known here, and where an option is missing, naming it.
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
        """Of all weights, and of training them all. The same as `Cost.of` the model."""
        matrices = {name: shape for name, shape in self.weights.items() if len(shape) > 1}
        tables = [shape for name, shape in matrices.items() if name.endswith(LOOKUPS)]
        heads = [shape for name, shape in matrices.items() if name in HEADS] or tables[:1]
        trunk = [shape for name, shape in matrices.items() if not name.endswith(LOOKUPS) and name not in HEADS]
        routed, s = self.sizes.num_experts_per_token, self.sizes
        weights = sum(_met(shape, routed) for shape in trunk)
        return Cost(weights, prod(heads[0]), s.num_layers * s.num_heads * s.head_dim, shared)


def depth_and_width(config: Any) -> tuple[int, int]:
    """Layers and hidden size of transformers' configuration of a model; 0 where it does not say, or is None."""
    text = _text_config(config)
    return getattr(text, "num_hidden_layers", 0), getattr(text, "hidden_size", 0)


def _text_config(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _labels(config: Mapping[str, Any]) -> int | None:
    """Of a sequence classifier the number of its labels, 2 where config.json leaves them out as transformers does."""
    if not str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification"):
        return None
    return len(config.get("id2label") or (0, 1))


def _head(hf: Any) -> Any:
    get = getattr(hf, "get_output_embeddings", None)
    head = get() if get is not None else None
    return head if head is not None else getattr(hf, "score", None)


def _is_table(module: Any) -> bool:
    """Whether it is torch's Embedding, by name: torch is not loaded here."""
    return any(f"{kind.__module__}.{kind.__name__}" == _EMBEDDING for kind in type(module).__mro__)


def _active(parameter: Any, routed: int) -> float:
    """The weights of a parameter that a token meets; of 4-bit ones, those that they stand for."""
    if (packed := getattr(parameter, "quant_state", None)) is not None:
        return packed.shape.numel()
    return _met(parameter.shape, routed)


def _met(shape: Sequence[int], routed: int) -> float:
    """The weights that a token meets: of stacked experts (3-D), the share that it is routed to."""
    number = prod(shape)
    return number * min(1.0, routed / shape[0]) if routed and len(shape) > 2 else number
