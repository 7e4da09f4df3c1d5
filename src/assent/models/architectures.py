"""The names and shapes of a model's weights, by its architecture and its `config.json`. Torch-free.

FAMILIES has an entry for each known `model_type` of transformers. If a weight depends on an option that has no value,
neither in `config.json` nor by the architecture, that is an error: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from assent.errors import ModelError

Weights = dict[str, tuple[int, ...]]
LOOKUPS = ("embed_tokens.weight", "embed_in.weight", "wte.weight", "wpe.weight")
"""How the names of lookup tables end. A token reads one row of a table."""
_TWO = ("input_layernorm", "post_attention_layernorm")
_FOUR = (*_TWO, "pre_feedforward_layernorm", "post_feedforward_layernorm")


class Options:
    """The options of a `config.json`. Null is the same as absent."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def get(self, name: str, default: Any = None) -> Any:
        value = self.config.get(name)
        return default if value is None else value

    def need(self, *names: str) -> Any:
        """The option with one of these names. Raises ModelError if none has a value."""
        for name in names:
            if (value := self.config.get(name)) is not None:
                return value
        raise ModelError(
            f"config.json does not give {names[0]}, which the size of this model depends on",
            got=f"model_type {self.config.get('model_type')}",
            expected=" or ".join(names),
        )

    def off(self, *names: str) -> None:
        """Raises ModelError if one of these is on: its weights are not known here."""
        for name in names:
            if self.get(name):
                raise ModelError(
                    f"config.json sets {name}, whose weights are not known by name",
                    got=f"model_type {self.config.get('model_type')}",
                )


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes that every architecture has under some name.

    intermediate_size       MLP width of a layer without experts
    num_experts             routed experts of a layer; 0: none
    num_experts_per_token   experts that each token is routed to
    expert_size             MLP width of one expert
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    num_experts: int = 0
    num_experts_per_token: int = 0
    expert_size: int = 0


Layer = Callable[[Options, Sizes, int], Weights]


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture.

    layer          the weights of one layer, by its number
    trunk          names of the trunk, its embedding, its layers and its last norm
    norm           parameters of the last norm
    tied           whether head and embedding are tied if config.json does not say
    grouped        config.json must give `num_key_value_heads`; if False, its default is one for each head
    own_head_dim   config.json must give `head_dim`; if False, its default is hidden_size / num_attention_heads
    expert_size    config.json's name for an expert's MLP width; "": there are no experts
    slides         whether a layer attends to a window, if config.json gives one
    """

    layer: Layer
    trunk: tuple[str, str, str, str] = ("model", "embed_tokens", "layers", "norm")
    norm: tuple[str, ...] = ("weight",)
    tied: bool = False
    grouped: bool = True
    own_head_dim: bool = False
    expert_size: str = ""
    slides: Callable[[Options, int], bool] = lambda options, layer: False

    def sizes(self, options: Options) -> Sizes:
        need, get = options.need, options.get
        hidden, heads = need("hidden_size", "n_embd"), need("num_attention_heads", "n_head")
        inner = get("n_inner", 4 * hidden) if "n_embd" in options.config else need("intermediate_size")
        experts = {}
        if self.expert_size:
            experts = {
                "num_experts": need("num_experts", "num_local_experts"),
                "num_experts_per_token": need("num_experts_per_tok", "experts_per_token"),
                "expert_size": need(self.expert_size),
            }
        return Sizes(
            num_layers=need("num_hidden_layers", "n_layer"),
            hidden_size=hidden,
            num_heads=heads,
            num_key_value_heads=need("num_key_value_heads") if self.grouped else get("num_key_value_heads", heads),
            head_dim=need("head_dim") if self.own_head_dim else get("head_dim", hidden // heads),
            intermediate_size=inner,
            vocab_size=need("vocab_size"),
            **experts,
        )

    def weights(self, options: Options, sizes: Sizes, *, num_labels: int | None) -> Weights:
        """All parameters in the model's order, tied ones once. With `num_labels`, a classifier's head is the head."""
        trunk, embedding, layers, norm = self.trunk
        width, table = sizes.hidden_size, (sizes.vocab_size, sizes.hidden_size)
        weights: Weights = {f"{trunk}.{embedding}.weight": table}
        if embedding == "wte":
            weights[f"{trunk}.wpe.weight"] = (options.need("n_positions", "max_position_embeddings"), width)
        for number in range(sizes.num_layers):
            layer = self.layer(options, sizes, number)
            weights |= {f"{trunk}.{layers}.{number}.{name}": shape for name, shape in layer.items()}
        weights |= {f"{trunk}.{norm}.{name}": (width,) for name in self.norm}
        if num_labels is not None:
            return weights | {"score.weight": (num_labels, width)}
        return weights if options.get("tie_word_embeddings", self.tied) else weights | {"lm_head.weight": table}

    def windows(self, options: Options, sizes: Sizes) -> tuple[int | None, ...]:
        """How many tokens each layer attends to; None: all."""
        sliding = [self.slides(options, number) for number in range(sizes.num_layers)]
        if any(sliding) and "sliding_window" not in options.config:
            options.need("sliding_window")
        window = options.get("sliding_window") or None
        return tuple(window if slides else None for slides in sliding)


def _linear(name: str, rows: int, columns: int, *, bias: bool = False) -> Weights:
    return {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if bias else {})


def _dense(options: Options, s: Sizes, layer: int, *, bias: str = "", name: str = "mlp", width: int = 0) -> Weights:
    """A gated MLP. `bias` names the option that gives it biases."""
    inner, has_bias = width or s.intermediate_size, bool(bias and options.get(bias, False))
    weights = _linear(f"{name}.gate_proj", inner, s.hidden_size, bias=has_bias)
    weights |= _linear(f"{name}.up_proj", inner, s.hidden_size, bias=has_bias)
    return weights | _linear(f"{name}.down_proj", s.hidden_size, inner, bias=has_bias)


def _fused(options: Options, s: Sizes, layer: int) -> Weights:
    """A gated MLP whose gate and inner projection are one matrix."""
    return {
        "mlp.gate_up_proj.weight": (2 * s.intermediate_size, s.hidden_size),
        "mlp.down_proj.weight": (s.hidden_size, s.intermediate_size),
    }


def _plain(
    options: Options,
    s: Sizes,
    layer: int,
    *,
    bias: tuple[str, bool],
    names: tuple[str, str] = ("up_proj", "down_proj"),
) -> Weights:
    """An MLP without a gate. `bias`: the option that gives it biases, and its default."""
    has_bias = bool(options.get(*bias))
    weights = _linear(f"mlp.{names[0]}", s.intermediate_size, s.hidden_size, bias=has_bias)
    return weights | _linear(f"mlp.{names[1]}", s.hidden_size, s.intermediate_size, bias=has_bias)


def _experts(s: Sizes) -> Weights:
    return {
        "mlp.experts.gate_up_proj": (s.num_experts, 2 * s.expert_size, s.hidden_size),
        "mlp.experts.down_proj": (s.num_experts, s.hidden_size, s.expert_size),
    }


def _mixtral(options: Options, s: Sizes, layer: int) -> Weights:
    return {"mlp.gate.weight": (s.num_experts, s.hidden_size)} | _experts(s)


def _qwen_experts(options: Options, s: Sizes, layer: int, *, shared: bool) -> Weights:
    step = options.get("decoder_sparse_step", 1)
    if layer in options.get("mlp_only_layers", ()) or (layer + 1) % step:
        return _dense(options, s, layer)
    gate = {"mlp.gate.weight": (s.num_experts, s.hidden_size)}
    if not shared:
        return _experts(s) | gate
    width = options.need("shared_expert_intermediate_size")
    expert = _dense(options, s, layer, name="mlp.shared_expert", width=width)
    return gate | _experts(s) | expert | {"mlp.shared_expert_gate.weight": (1, s.hidden_size)}


def _gpt_oss(options: Options, s: Sizes, layer: int) -> Weights:
    experts = {
        "gate_up_proj": (s.num_experts, s.hidden_size, 2 * s.expert_size),
        "gate_up_proj_bias": (s.num_experts, 2 * s.expert_size),
        "down_proj": (s.num_experts, s.expert_size, s.hidden_size),
        "down_proj_bias": (s.num_experts, s.hidden_size),
    }
    router = _linear("mlp.router", s.num_experts, s.hidden_size, bias=True)
    return router | {f"mlp.experts.{name}": shape for name, shape in experts.items()}


def _decoder(
    options: Options,
    s: Sizes,
    layer: int,
    *,
    qkv_bias: tuple[str, bool] = ("", False),
    out_bias: bool | tuple[str, bool] = True,
    sinks: bool = False,
    qk_norm: str = "",
    mlp: Layer = _dense,
    norms: tuple[str, ...] = _TWO,
    norm: tuple[str, ...] = ("weight",),
    off: tuple[str, ...] = (),
) -> Weights:
    """A layer of the Llama kind.

    qkv_bias   the option that gives queries, keys and values biases, and its default
    out_bias   the same option gives the output projection a bias, or one of its own does
    qk_norm    norms of queries and keys: for each "head", for the "whole", or "" for none
    norm       parameters of the norms over the hidden width
    off        options that must not be on
    """
    options.off(*off)
    query, key = s.num_heads * s.head_dim, s.num_key_value_heads * s.head_dim
    bias = bool(options.get(*qkv_bias))
    weights: Weights = {"self_attn.sinks": (s.num_heads,)} if sinks else {}
    for name, width in (("q_proj", query), ("k_proj", key), ("v_proj", key)):
        weights |= _linear(f"self_attn.{name}", width, s.hidden_size, bias=bias)
    has_out = bool(options.get(*out_bias)) if isinstance(out_bias, tuple) else bias and out_bias
    weights |= _linear("self_attn.o_proj", s.hidden_size, query, bias=has_out)
    if qk_norm:
        widths = (s.head_dim, s.head_dim) if qk_norm == "head" else (query, key)
        weights |= {f"self_attn.{name}_norm.weight": (width,) for name, width in zip("qk", widths, strict=True)}
    of_norms: Weights = {f"{name}.{part}": (s.hidden_size,) for name in norms for part in norm}
    return weights | mlp(options, s, layer) | of_norms


def _phi3(options: Options, s: Sizes, layer: int) -> Weights:
    query, key = s.num_heads * s.head_dim, s.num_key_value_heads * s.head_dim
    return {
        "self_attn.o_proj.weight": (s.hidden_size, query),
        "self_attn.qkv_proj.weight": (query + 2 * key, s.hidden_size),
        **_fused(options, s, layer),
        **{f"{norm}.weight": (s.hidden_size,) for norm in _TWO},
    }


def _gpt2(options: Options, s: Sizes, layer: int) -> Weights:
    """GPT-2's matrices are transposed: a bias has the columns' width."""
    weights: Weights = {}
    width, inner = s.hidden_size, s.intermediate_size
    matrices = {
        "ln_1": (width,),
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "ln_2": (width,),
        "mlp.c_fc": (width, inner),
        "mlp.c_proj": (inner, width),
    }
    for name, shape in matrices.items():
        weights |= {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}
    return weights


def _gpt_neox(options: Options, s: Sizes, layer: int) -> Weights:
    width, inner, bias = s.hidden_size, s.intermediate_size, bool(options.get("attention_bias", True))
    norms = {f"{norm}.{name}": (width,) for norm in _TWO for name in ("weight", "bias")}
    attention = _linear("attention.query_key_value", 3 * width, width, bias=bias)
    attention |= _linear("attention.dense", width, width, bias=bias)
    mlp = _linear("mlp.dense_h_to_4h", inner, width, bias=True) | _linear("mlp.dense_4h_to_h", width, inner, bias=True)
    return norms | attention | mlp


def _always(options: Options, layer: int) -> bool:
    return True


def _asked(options: Options, layer: int) -> bool:
    """The layers that config.json lists, if it asks for windows."""
    return bool(options.get("use_sliding_window")) and options.need("layer_types")[layer] == "sliding_attention"


def _all_but_every(options: Options, layer: int, *, full: int) -> bool:
    """All layers but every `full`-th, unless config.json lists them."""
    if (kinds := options.get("layer_types")) is not None:
        return kinds[layer] == "sliding_attention"
    return bool((layer + 1) % options.get("sliding_window_pattern", full))


_BIAS: Any = {"qkv_bias": ("attention_bias", False)}
_BIASED = partial(_dense, bias="mlp_bias")
_LLAMA = partial(_decoder, **_BIAS, mlp=_BIASED)
_LAYER_NORM: Any = {"norm": ("weight", "bias")}
_STABLELM_OFF = ("qk_layernorm", "use_parallel_residual")
_STARCODER_MLP = partial(_plain, bias=("use_bias", True), names=("c_fc", "c_proj"))
_GLM: Any = {"qkv_bias": ("attention_bias", True), "out_bias": False, "mlp": _fused}
_GLM_NORMS = (*_TWO, "post_self_attn_layernorm", "post_mlp_layernorm")
_WHOLE_NORM: Any = {"qk_norm": "whole", "norms": ("post_attention_layernorm", "post_feedforward_layernorm")}
FAMILIES: dict[str, Family] = {
    "llama": Family(_LLAMA, grouped=False),
    "granite": Family(_LLAMA, grouped=False),
    "smollm3": Family(_LLAMA, tied=True, slides=_asked),
    "mistral": Family(_decoder, slides=_always),
    "qwen2": Family(partial(_decoder, qkv_bias=("", True), out_bias=False), slides=_asked),
    "qwen3": Family(partial(_decoder, **_BIAS, qk_norm="head"), own_head_dim=True, slides=_asked),
    "gemma": Family(partial(_decoder, **_BIAS), tied=True, own_head_dim=True),
    "gemma2": Family(
        partial(_decoder, **_BIAS, norms=_FOUR), tied=True, own_head_dim=True, slides=partial(_all_but_every, full=2)
    ),
    "gemma3_text": Family(
        partial(_decoder, **_BIAS, qk_norm="head", norms=_FOUR),
        tied=True,
        own_head_dim=True,
        slides=partial(_all_but_every, full=6),
    ),
    "phi3": Family(_phi3, grouped=False, slides=_always),
    "olmo": Family(partial(_decoder, **_BIAS, norms=()), norm=(), grouped=False),
    "olmo2": Family(partial(_decoder, **_BIAS, **_WHOLE_NORM), grouped=False),
    "olmo3": Family(partial(_decoder, **_BIAS, **_WHOLE_NORM), grouped=False, slides=partial(_all_but_every, full=4)),
    "mixtral": Family(partial(_decoder, mlp=_mixtral), expert_size="intermediate_size", slides=_always),
    "qwen2_moe": Family(
        partial(_decoder, qkv_bias=("qkv_bias", True), out_bias=False, mlp=partial(_qwen_experts, shared=True)),
        expert_size="moe_intermediate_size",
        slides=_asked,
    ),
    "qwen3_moe": Family(
        partial(_decoder, **_BIAS, qk_norm="head", mlp=partial(_qwen_experts, shared=False)),
        own_head_dim=True,
        expert_size="moe_intermediate_size",
        slides=lambda options, layer: bool(options.get("use_sliding_window")),
    ),
    "gpt_oss": Family(
        partial(_decoder, qkv_bias=("attention_bias", True), sinks=True, mlp=_gpt_oss),
        own_head_dim=True,
        expert_size="intermediate_size",
        slides=partial(_all_but_every, full=2),
    ),
    "gpt2": Family(_gpt2, ("transformer", "wte", "h", "ln_f"), ("weight", "bias"), tied=True, grouped=False),
    "gpt_neox": Family(
        _gpt_neox, ("gpt_neox", "embed_in", "layers", "final_layer_norm"), ("weight", "bias"), grouped=False
    ),
    "arcee": Family(partial(_decoder, **_BIAS, mlp=partial(_plain, bias=("mlp_bias", False))), grouped=False),
    "cohere": Family(
        partial(_decoder, **_BIAS, norms=("input_layernorm",), off=("use_qk_norm",)), tied=True, grouped=False
    ),
    "cohere2": Family(
        partial(_decoder, **_BIAS, norms=("input_layernorm",)),
        tied=True,
        grouped=False,
        slides=partial(_all_but_every, full=4),
    ),
    "ernie4_5": Family(
        partial(_decoder, qkv_bias=("use_bias", False), mlp=partial(_dense, bias="use_bias")),
        tied=True,
        own_head_dim=True,
    ),
    "glm": Family(partial(_decoder, **_GLM), own_head_dim=True),
    "glm4": Family(partial(_decoder, **_GLM, norms=_GLM_NORMS), own_head_dim=True),
    "helium": Family(partial(_decoder, **_BIAS, out_bias=False, mlp=_BIASED), own_head_dim=True),
    "nemotron": Family(
        partial(_decoder, **_BIAS, **_LAYER_NORM, mlp=partial(_plain, bias=("mlp_bias", False))),
        norm=("weight", "bias"),
        grouped=False,
    ),
    "olmoe": Family(
        partial(_decoder, **_BIAS, qk_norm="whole", mlp=_mixtral), grouped=False, expert_size="intermediate_size"
    ),
    "seed_oss": Family(
        partial(_decoder, qkv_bias=("attention_bias", True), out_bias=("attention_out_bias", False), mlp=_BIASED),
        own_head_dim=True,
    ),
    "stablelm": Family(
        partial(_decoder, qkv_bias=("use_qkv_bias", False), out_bias=False, **_LAYER_NORM, off=_STABLELM_OFF),
        norm=("weight", "bias"),
    ),
    "starcoder2": Family(
        partial(_decoder, qkv_bias=("use_bias", True), **_LAYER_NORM, mlp=_STARCODER_MLP),
        norm=("weight", "bias"),
        tied=True,
        slides=_always,
    ),
}
