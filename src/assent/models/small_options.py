"""The options of a `config.json` made small: widths, depth, and every length that the architecture declares.

Heads keep their size, so that rotary positions, partial or in sections, stay whole. There are fewer heads, with the
ratio of query to key heads, fewer experts, a small vocabulary, and narrow MLPs. Nothing becomes larger than it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Options = dict[str, Any]

LENGTHS = re.compile(
    r"(sliding|attention|attn|local)_?(window|chunk)(?!\w*pattern)|^window_size$|^local_attention$"
    r"|^indexer?_\w*(topk|block_size|budget|compress_ratio)|^floor_scale$|^log_scaling_n_floor$|^rel_extent$|^original_max_position_embeddings$"
)
"""Names of options that bound which keys a query sees, or say from which position on numbers change."""
_REGIMES = ("dynamic", "longrope")
"""Rotary positions whose original length stays: rows beyond it are refused (`module.py: longest_fixed_length`)."""
_VOCABULARY = re.compile(r"^((unpadded|decoder)_)?vocab_size(_per_layer_input)?$")
_MLP = re.compile(r"intermediate_size|ffn|feed_forward|^(dim_ff|d_?ff|n_inner|d_inner)$")
_RANK = re.compile(r"_rank$|lowrank$|^router_hidden_size$|^hidden_size_per_layer_input$")
_HEADS = re.compile(r"^(num_attention_heads(_per_layer)?|n_heads?|((en|de)coder_|swa_num_)?attention_heads)$")
_KEY_HEADS = re.compile(r"^((swa_)?num_key_value_heads|num_kv_heads|kv_n_heads|num_query_groups)$")
_EXPERTS = re.compile(r"^(num_experts|n_routed_experts|num_local_experts|moe_num_experts|zero_expert_num)$")
_FEWEST_HEADS: dict[Any, int] = {"codegen": 4}
"""CodeGen keeps its queries, keys and values in four parts."""
_ROUTED = re.compile(r"^(num_experts_per_tok(en)?|moe_k|moe_top_?k|top_k_experts)$")
_GROUPS = re.compile(r"^(n_group|num_expert_group)$")
_SCAN = re.compile(r"^(mamba_)?chunk_size$")
_WIDTH = re.compile(r"(size|dim|width|hidden|d_model|n_embd)$")
_NOT_A_WIDTH = re.compile(rf"vocab|kernel|head_dim|window|chunk|_rank$|{_MLP.pattern}")
_DEPTH = re.compile(r"^(num_hidden_layers|n_layers?|num_layers|num_blocks|(num_)?(en|de)coder_layers)$")
_NUMBERS = re.compile(r"(layers|_ids|_idxs|_indices)$")


def small_options(options: Options, names: Mapping[str, str], *, rows: int, narrow: bool) -> Options:
    """rows     every declared length becomes less than this, unless the context bounds rows already
    names    a class's own names of options, by the usual ones
    narrow   whether widths are made small too, or only what no other option depends on
    """
    small = options | _lengths(options, names, rows=rows)
    for name, value in options.items():
        for pattern, most in ((_VOCABULARY, 256), (_MLP, 64), (_SCAN, 16), (_ROUTED, 2), (_GROUPS, 2)):
            if pattern.search(name):
                small[name] = _at_most(value, most)
        if _EXPERTS.search(name):
            small[name] = _at_most(value, 8 if any(_GROUPS.search(n) and options[n] for n in options) else 4)
    if options.get("n_inner", 0) is None:  # four times the width
        small["n_inner"] = 64
    small |= {"topk_group": 1} if options.get("topk_group") else {}
    if isinstance(pad := options.get("pad_token_id"), int):
        small["pad_token_id"] = min(pad, 0)
    return small | (_widths(options, names) if narrow else {})


def with_layers(options: Options, names: Mapping[str, str], chosen: Sequence[int], *, layers: int) -> Options:
    """The options with only the chosen of all `layers` layers, by their numbers, in order."""
    place = {number: place for place, number in enumerate(chosen)}
    found = options | {names.get("num_hidden_layers", "num_hidden_layers"): len(chosen)}
    for name, value in options.items():
        if _DEPTH.search(name) and value == layers:
            found[name] = len(chosen)
        elif name in ("first_k_dense_replace", "max_window_layers", "num_dense_layers") and value:
            found[name] = sum(number < value for number in chosen)
        elif name == "num_kv_shared_layers" and value:
            found[name] = sum(number >= layers - value for number in chosen)
        elif name == "per_layer_config" and value:
            found[name] = {str(place[int(n)]): own for n, own in value.items() if int(n) in place}
        elif isinstance(value, list | tuple) and len(value) == layers and not _is_count_up(value):
            found[name] = [value[number] for number in chosen]
        elif isinstance(value, list) and _NUMBERS.search(name) and all(type(n) is int for n in value):
            found[name] = [place[n] for n in value if n in place]
    return found


def _is_count_up(values: Sequence[Any]) -> bool:
    """Whether these are the numbers of all layers."""
    return list(values) == list(range(len(values)))


def _lengths(options: Options, names: Mapping[str, str], *, rows: int) -> Options:
    position = names.get("max_position_embeddings", "max_position_embeddings")
    context, fixed = options.get(position), has_regime(options.get("rope_parameters"))
    found: Options = {}
    for name, value in options.items():
        if LENGTHS.search(name) and type(value) is int and not (context and value >= context):
            if not (fixed and name.startswith("original")):
                found[name] = _at_most(value, 2 if "block" in name or "ratio" in name else max(2, rows // 4 * 2))
        elif name == "rope_parameters" and isinstance(value, dict):
            found[name] = _rope(value, rows=rows)
    return found | ({} if fixed or context is None else {position: _at_most(context, 256)})


def _rope(parameters: Options, *, rows: int) -> Options:
    if "rope_type" not in parameters:  # one for each type of layer
        return {n: _rope(v, rows=rows) if isinstance(v, dict) else v for n, v in parameters.items()}
    original = parameters.get("original_max_position_embeddings")
    if has_regime(parameters) or not original:
        return parameters
    return parameters | {"original_max_position_embeddings": _at_most(original, max(2, rows // 4 * 2))}


def has_regime(parameters: Any) -> bool:
    """Whether rotary frequencies depend on the longest row of a batch."""
    if not isinstance(parameters, dict):
        return False
    return parameters.get("rope_type") in _REGIMES or any(has_regime(part) for part in parameters.values())


def _widths(options: Options, names: Mapping[str, str]) -> Options:
    def own(name: str) -> Any:
        return options.get(names.get(name, name))

    hidden, heads = own("hidden_size"), own("num_attention_heads")
    found: Options = {name: _at_most(value, 32) for name, value in options.items() if _RANK.search(name)}
    if type(hidden) is not int:
        return found
    if type(heads) is not int:
        narrow = min(hidden, 256)
        return found | _like(options, hidden, narrow) | _state_spaces(options, hidden, narrow)
    key_heads = next((v for n, v in options.items() if _KEY_HEADS.search(n) and type(v) is int), heads)
    size = options.get("head_dim") or hidden // heads
    ratio = heads // key_heads if heads % key_heads == 0 else 1
    most = 2 if size >= 128 else 4
    fewer_keys = min(key_heads, _FEWEST_HEADS.get(options.get("model_type"), 2))
    fewer = fewer_keys * (ratio if ratio <= most else most - ratio % 2)
    narrow = fewer * size if hidden == heads * size else min(hidden, 64)
    for name, value in options.items():
        if _HEADS.search(name):
            found[name] = _at_most(value, fewer)
        elif _KEY_HEADS.search(name):
            found[name] = _at_most(value, fewer_keys)
    return _like(options, hidden, narrow) | found | _state_spaces(options, hidden, narrow)


def _like(options: Options, hidden: int, narrow: int) -> Options:
    """The hidden size, and widths that are the same, twice or half of it."""
    alike = {hidden: narrow, 2 * hidden: 2 * narrow, hidden // 2: narrow // 2}
    return {
        name: alike[value]
        for name, value in options.items()
        if type(value) is int and value in alike and _WIDTH.search(name) and not _NOT_A_WIDTH.search(name)
    }


def _state_spaces(options: Options, hidden: Any, narrow: Any) -> Options:
    """Heads of state spaces and of linear attention. Their number follows the width where it did."""
    fewer = (("linear_num_heads", 2), ("index_n_heads", 16))  # an indexer with few heads has ties
    found: Options = {name: _at_most(options[name], most) for name, most in fewer if options.get(name)}
    for heads, size, expand in (
        ("mamba_n_heads", "mamba_d_head", "mamba_expand"),
        ("num_heads", "head_dim", "expand"),
        ("mamba_num_heads", "mamba_head_dim", "expand"),
    ):
        number, width, factor = (options.get(name) or 0 for name in (heads, size, expand))
        if number and width and number * width == factor * hidden:
            found[heads] = max(1, factor * narrow // width)
    keys, values = options.get("linear_num_key_heads"), options.get("linear_num_value_heads")
    if type(keys) is int and type(values) is int:
        found |= {"linear_num_key_heads": min(keys, 2), "linear_num_value_heads": min(keys, 2) * (values // keys)}
    return found


def _at_most(value: Any, most: int) -> Any:
    if isinstance(value, list | tuple):
        return [_at_most(part, most) for part in value]
    return min(value, most) if type(value) is int else value
