"""Walks the architectures of transformers' mapping for causal models, for docs/architectures.md.

    python benchmarks/architectures.py [TYPE …]

Each gets a small configuration with its own kinds of layers, whose windows, chunks and top-k the rows exceed, and
random weights in float32 that all matter. One process at a time walks one architecture, under a limit of time and
memory. It compares with the untouched model, one completion at a time, and where float32 differs by more than 1e-5,
in float64 too:

    policy   log-probabilities of three completions of one prompt, and gradients, through AlignmentModel
    scorer   scores, values and gradients of a reward model or critic made from the policy's folder
    sample   log-probabilities of tokens that TorchSampler drew

What was found is kept in benchmarks/architectures.json; with TYPE, only these are walked anew. Prints that document.
`python docs/make_architectures.py` writes the page from it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import assent  # noqa: F401  # first: it says how OpenMP's threads wait

# isort: split
import torch
import transformers
from sandbox import platform_name
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from assent.errors import ModelError
from assent.models.batch import TokenCompletion, TokenGroup
from assent.models.heads import has_own_head
from assent.models.loading import load_policy, load_scorer
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from assent.models.saving import quiet
from assent.models.small_copy import draw_weights, small_config
from assent.models.trunk import trunk_of
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.torch_sampler import TorchSampler

FOUND = Path(__file__).with_suffix(".json")
TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
CPU_SECONDS, WALL_SECONDS, MEMORY = 20, 200, 10 * 2**30
"""What one architecture may take."""
DECLARED = 48
"""Every declared length becomes less than this: 24 where it was longer. The probe's own copies have 8."""
PROMPT, COMPLETIONS = 31, (9, 14, 30)
"""Tokens. The longest row has 61."""
TOLERANCE = 1e-5
ENCODERS = (
    *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
    *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)
_PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"is_decoder": True} for name in (*ENCODERS, "reformer")},
    "xlm": {"causal": True},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    "xlnet": {"attn_type": "uni"},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "cohere_compass_text": {"rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), _PLAIN_ROPE)},
    **{name: {"head_dim": 128} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "nemotron": {"num_key_value_heads": 8},
    **{name: {"layer_types": ["conv", "full_attention"] * 16} for name in ("lfm2", "lfm2_moe")},
    "qwen4_exp_text": {
        "indexer_n_heads": 16,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 256,
        "indexer_budget": 2048,
        "indexer_compress_ratio": 16,
    },
    "gemma3n_text": {
        "hidden_size": 256,
        "head_dim": 32,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "mllama": {"vision_config": {"num_hidden_layers": 2, "num_global_layers": 1, "intermediate_layers_indices": [0]}},
    "phi4_multimodal": {"audio_config": {"nemo_conv_channels": 64, "num_blocks": 1}},
    "zamba": {"num_hidden_layers": 6, "layers_block_type": ["mamba", "hybrid"] * 3},
}
"""Options without which a configuration's defaults give no causal model, or none that can be made small."""


class Tokens:
    """Stands in for a tokenizer: the walk reads ids alone."""

    def batch_decode(self, rows: Sequence[Sequence[int]], **_: Any) -> list[str]:
        return [" ".join(map(str, row)) for row in rows]


def config_of(model_type: str) -> Any:
    """The small configuration. Raises ValueError if there is none."""
    with quiet():
        config = AutoConfig.for_model(model_type, **OPTIONS.get(model_type, {}))
        small = small_config(config, rows=DECLARED)
        if small is None:
            raise ValueError("its default configuration could not be made small")
        if type(small) not in MODEL_FOR_CAUSAL_LM_MAPPING:  # the language model of a larger one
            config.text_config, small = small, config
    return small


def walk(model_type: str, *, at: Callable[[tuple[str, Any]], object] = lambda told: None) -> dict[str, Any]:
    """What was found of one architecture: figures by name, and under "failed" what a stage raised.

    at   is called when a stage begins, with its name and what was found so far
    """
    found: dict[str, Any] = {"failed": {}}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        at((name, found))
        try:
            yield
        except Exception as error:  # the classes raise all kinds of errors
            found["failed"][name] = " ".join(f"{type(error).__name__}: {error}".split())[:600]

    with tempfile.TemporaryDirectory() as folder:
        with stage("build"):
            found |= _build(model_type, Path(folder))
        if not found["failed"]:
            with stage("policy"):
                found |= _compared(lambda: load_policy(folder), "policy")
            with stage("scorer"):
                found |= _compared(lambda: load_scorer(folder), "scorer")
            with stage("sample"):
                found |= _sampled(load_policy(folder))
    return found


def _build(model_type: str, folder: Path) -> dict[str, Any]:
    config = config_of(model_type)
    with quiet():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        draw_weights(model)
        model.generation_config = transformers.GenerationConfig()
        model.save_pretrained(folder)
        config.save_pretrained(folder)
    return {"class": type(model).__name__, "weights": sum(weight.numel() for weight in model.parameters())}


def group_of(config: Any) -> TokenGroup:
    """A prompt and completions of random tokens, none of them special."""
    text = config.get_text_config()
    special = [getattr(text, f"{name}_token_id", None) for name in ("pad", "bos", "eos")]
    special = [i for ids in special for i in (ids if isinstance(ids, list) else [ids])]
    allowed = [i for i in range(3, min(text.vocab_size, 256)) if i not in special]
    generator = torch.Generator().manual_seed(1)

    def ids(number: int) -> tuple[int, ...]:
        return tuple(allowed[i] for i in torch.randint(len(allowed), (number,), generator=generator).tolist())

    return TokenGroup(ids(PROMPT), tuple(TokenCompletion(ids(number)) for number in COMPLETIONS))


def _compared(load: Callable[[], PreTrainedModel], kind: Any) -> dict[str, Any]:
    """Differences from the plain model in float32; in float64 too where these are more than rounding of one sum."""
    found = _differences(load(), kind)
    if max(found[f"{kind} difference"], found[f"{kind} gradient"]) > TOLERANCE:
        model = load().double()
        model.set_experts_implementation("eager")  # the faster ones have no float64
        try:
            exact = _differences(model, kind)
        except ModelError:  # parts of the class compute in float32 all the same
            return found
        found |= {f"{name} in float64": exact[name] for name in (f"{kind} difference", f"{kind} gradient")}
    return found


def _differences(model: PreTrainedModel, kind: Any) -> dict[str, Any]:
    group = group_of(model.config)
    plain = plain_logprobs if kind == "policy" else plain_scores
    expected = plain(model, group)
    expected_gradients = _gradients(model, expected)
    with quiet():
        module = AlignmentModel(model, kind=kind)
    wanted = ("logprobs",) if kind == "policy" else ("scores", "values")
    outputs = module(pack([group], device="cpu"), frozenset(wanted))
    got = torch.cat([getattr(outputs, name) for name in wanted])
    found = {
        f"{kind} tier": module.tier,
        f"{kind} reason": module.tier_reason,
        f"{kind} difference": float((got - expected).detach().abs().max()),
        f"{kind} gradient": _gradient_difference(_gradients(model, got), expected_gradients),
    }
    if kind == "scorer":
        found["head"] = "score_head" if has_own_head(model.config) else "own class"
    return found


def _rows(group: TokenGroup) -> list[Tensor]:
    return [torch.tensor([group.prompt_ids + completion.ids]) for completion in group.completions]


def plain_logprobs(model: PreTrainedModel, group: TokenGroup) -> Tensor:
    """(N,) of the completions' tokens, one completion at a time."""
    parts = []
    for ids in _rows(group):
        logits = model(input_ids=ids, use_cache=False).logits[0, len(group.prompt_ids) - 1 : -1]
        targets = ids[0, len(group.prompt_ids) :, None]
        parts.append(logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1).gather(1, targets))
    return torch.cat(parts)[:, 0]


def plain_scores(model: Any, group: TokenGroup) -> Tensor:
    """(S + N,) the completions' scores, then the values before each of their tokens, one completion at a time."""
    scores, values = [], []
    for ids in _rows(group):
        states = trunk_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        own = model.score(states[0])[:, 0]
        scores.append(own[-1] if has_own_head(model.config) else model(input_ids=ids, use_cache=False).logits[0, 0])
        values.append(own[len(group.prompt_ids) - 1 : -1])
    return torch.cat([torch.stack(scores), *values])


def _gradients(model: PreTrainedModel, numbers: Tensor) -> dict[str, Tensor]:
    """Of a sum to which each number contributes with a weight of its own."""
    weights = torch.linspace(-1.0, 2.0, len(numbers), dtype=numbers.dtype)
    model.zero_grad(set_to_none=True)
    (numbers * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _gradient_difference(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest difference, relative to its tensor's largest entry, or to 1% of all tensors' largest if that is more:
    a gradient that is zero but for rounding has no size of its own."""
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    worst = 0.0
    for name in got.keys() | expected.keys():
        a, b = got.get(name), expected.get(name)
        sizes = [float(g.abs().max()) for g in (a, b) if g is not None]
        difference = max(sizes) if a is None or b is None else float((a - b).abs().max())
        worst = max(worst, difference / max(sizes[-1], 1e-2 * largest))
    return worst


@torch.no_grad()
def _sampled(model: PreTrainedModel) -> dict[str, Any]:
    """The largest difference between the log-probabilities that the sampler recorded and a plain read's."""
    group = group_of(model.config)
    prompts = [group.prompt_ids, group.prompt_ids[:17]]
    with quiet():
        sampler = TorchSampler(model, Tokens(), eos_ids=())
        sampler.load({}, "1")
        params, seed = SamplingParams(max_new_tokens=8), SeedKey(0, "walk", 0)
        drawn = sampler.sample(prompts, num_completions=2, params=params, seed=seed)
    worst = 0.0
    for one in drawn:
        own = TokenGroup(prompts[one.prompt_index], (TokenCompletion(tuple(one.ids)),))
        worst = max(worst, float((plain_logprobs(model, own) - torch.tensor(one.logprobs)).abs().max()))
    return {"decoder": sampler.tier, "decoder reason": sampler.tier_reason, "sample difference": worst}


def _child(model_type: str, end: Any, folder: str) -> None:
    os.environ["ASSENT_CACHE"] = folder
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + CPU_SECONDS, used + CPU_SECONDS + 5))
    try:
        end.send(walk(model_type, at=end.send))
    except MemoryError:
        end.send({"failed": {"memory": f"more than {MEMORY // 2**30} GiB"}})


def apart(model_type: str, *, cache: str) -> dict[str, Any]:
    """`walk` in a process of its own, which is ended where it takes too long."""
    context = multiprocessing.get_context("fork")
    mine, end = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(model_type, end, cache))
    started, stage, found, is_whole = time.perf_counter(), "start", {"failed": {}}, False
    process.start()
    end.close()
    try:
        while mine.poll(max(0.0, WALL_SECONDS - (time.perf_counter() - started))):
            said = mine.recv()
            is_whole = isinstance(said, dict)
            stage, found = (stage, said) if is_whole else said
    except EOFError:
        pass
    process.join(1)
    if process.is_alive():
        process.kill()
    process.join()
    if not is_whole:
        over = process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
        found["failed"][stage] = f"more than {CPU_SECONDS} CPU seconds" if over else f"ended by {process.exitcode}"
    return found


def _document(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": platform_name(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "transformers", "assent")},
        "tokens": PROMPT + max(COMPLETIONS),
        "architectures": {name: found[name] for name in TYPES},
    }


def written(document: Mapping[str, Any]) -> str:
    """The document as text, an architecture a line."""
    rows = [f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in document["architectures"].items()]
    whole = json.dumps({**document, "architectures": None}, indent=1)
    return whole.replace('"architectures": null', '"architectures": {\n' + ",\n".join(rows) + "\n }") + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE", help="model types; none: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(FOUND.read_text(encoding="utf-8"))["architectures"] if args.types else {}
    with tempfile.TemporaryDirectory() as cache:
        for name in args.types or TYPES:
            found[name] = apart(name, cache=cache)
            print(f"{name}: {', '.join(found[name]['failed']) or 'walked'}", file=sys.stderr, flush=True)
    document = _document(found)
    FOUND.write_text(written(document), encoding="utf-8")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
