"""The most memory that a stage will hold, by component and by moment: arithmetic over the model's shape.

Figures are bytes above what the process holds once its packages are imported, of one process. On a CPU that is the
resident set, on CUDA the device's memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from assent.models.shape import Lengths, ModelShape, split_by_budget, tokens_per_pass
from assent.planning.activations import (
    Layers,
    Pass,
    adapted,
    adapter_parameters,
    backward,
    chunk_bytes,
    head_weights,
    kept,
    logits,
    mapped,
)
from assent.planning.setup import Setup

COMPONENTS = (
    "weights",
    "gradients",
    "optimiser",
    "activations",
    "logits",
    "kv_cache",
    "reference",
    "critic",
    "reward_model",
    "program",
    "allocator",
)
MOMENTS = ("loading", "reading", "sampling", "first step", "later steps")
MOST_HANDS, MOST_TRAINED, FEWEST_ROWS = 4, 2**25, 16
"""Passes at the same time on a CPU, the most trained numbers with which there are several (engine/passes.py), and the
fewest rows of one decoder beside another (rollouts/torch_sampler.py)."""
MOST_BESIDE = 2**22
"""Parameters of the largest policy and critic that train at the same time (engine/side_by_side.py)."""
CACHE_TOKENS = 65536
"""Tokens of cache in flight (rollouts/torch_sampler.py: max_batch_tokens)."""
PREFILL_TOKENS = 1024
"""Prompt tokens that a CPU reads together (rollouts/decoding.py)."""
PROGRAM = {"cpu": 35e6, "cuda": 0.5e9}
"""What torch, the tokenizer and the probes of the model take once they are used; on CUDA the context."""
ALLOCATOR = {"cpu": 0.65, "cuda": 0.2}
"""What the allocator holds besides, as a share of what is allocated and freed again. The C library keeps what is freed
(models/host_memory.py), and between tensors that stay for the backward pass there are holes that the next layer's do
not fill: 0.57 to 0.69 after a few steps of an 8 M model. On CUDA a share between published ones (0.08 to 0.41)."""
LARGEST_ON_HEAP = 2**25
"""Larger blocks are mapped and returned one by one, without holes (models/host_memory.py: LARGEST)."""
NF4_BITS = 4.127
"""Of a weight in blocks of 64 with scales that are quantised again (arXiv:2305.14314, §3)."""


@dataclass(frozen=True, slots=True)
class Memory:
    """`moments`: for each of MOMENTS that the stage has, bytes by component."""

    moments: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def peak_moment(self) -> str:
        return max(self.moments, key=self.at)

    @property
    def components(self) -> dict[str, float]:
        """At the highest moment, in the order of COMPONENTS; what is not held then is left out."""
        held = self.moments[self.peak_moment]
        return {name: held[name] for name in COMPONENTS if held.get(name)}

    @property
    def reserved(self) -> float:
        """Bytes at the highest moment, with what the allocator holds besides the tensors."""
        return self.at(self.peak_moment)

    @property
    def allocated(self) -> float:
        """Bytes of tensors and of the program at the highest moment."""
        return self.reserved - self.components.get("allocator", 0.0)

    peak = reserved

    def at(self, moment: str) -> float:
        return sum(self.moments[moment].values())


def predict(
    setup: Setup, shape: ModelShape, groups: Sequence[Lengths], *, device: str = "cpu", reward: ModelShape | None = None
) -> Memory:
    """The memory of a stage whose update reads `groups`: of an online stage the prompts of a round, with completions of
    the lengths to expect (`max_new_tokens` at most).

    reward   the reward model's shape, where a model scores; None: none
    """
    return _Stage(setup, shape, groups, device, reward).memory()


def learned(setup: Setup, shape: ModelShape, device: str, *, reward: ModelShape | None = None) -> list[Learned]:
    """The models that a stage trains: its own one, and a critic beside it (reward: as in `predict`)."""
    own = Learned(setup, shape, device, scorer=setup.command == "reward")
    if not setup.has_critic:
        return [own]
    start = reward if reward is not None and setup.trunk == "separate" else shape
    return [own, Learned(setup, start, device, scorer=True)]


@dataclass(frozen=True, slots=True)
class _Stage:
    setup: Setup
    shape: ModelShape
    groups: Sequence[Lengths]
    device: str
    reward: ModelShape | None

    def memory(self) -> Memory:
        policy, *beside = learned(self.setup, self.shape, self.device, reward=self.reward)
        base = {"weights": policy.weights, **self._others(policy)}
        late = {"optimiser": policy.optimiser}
        first = later = policy.step(self._update)
        for critic in beside:
            base["critic"] = critic.adapters if self.setup.trunk == "one" else critic.weights
            late["critic"] = base["critic"] + critic.optimiser
            later = max(later, critic.step(self._update), key=_total)
            if self._side_by_side(policy, critic):
                half = replace(self.setup, threads=self.setup.threads // 2)
                both = [replace(one, setup=half).step(self._update) for one in (policy, critic)]
                first = later = {name: sum(held.get(name, 0.0) for held in both) for name in both[0] | both[1]}
        moments = {"loading": {"weights": policy.weights}}
        # AdamW's moments are there from the start (engine/optimiser.py); bitsandbytes makes its own in the first step.
        early = {} if self.setup.optim == "adamw_8bit" else late
        if self.setup.reads_reference:
            moments["reading"] = base | early | self._reading(policy)
        if self.setup.is_online:
            moments["sampling"] = base | late | self._sampling()
        moments["first step"] = base | early | first
        moments["later steps"] = base | late | later
        return Memory({name: self._with_allocator(moments[name]) for name in MOMENTS if name in moments})

    def _side_by_side(self, policy: Learned, critic: Learned) -> bool:
        """Whether policy and critic train at the same time (engine/side_by_side.py)."""
        small = max(policy.number, critic.number) <= MOST_BESIDE and self.setup.trunk == "separate"
        return small and self.device == "cpu" and self.setup.processes == 1 and self.setup.threads > 1

    @property
    def _update(self) -> Sequence[Lengths]:
        """The rows of one update: of an online stage a part of the round."""
        return self.groups[: -(-len(self.groups) // self.setup.mini_batches)]

    def _others(self, policy: Learned) -> dict[str, float]:
        """Models that are only read, in memory while the policy trains."""
        one, width = self.setup.trunk == "one", self.setup.weight_bytes
        found = {}
        if self.setup.keeps_reference and not one and not self.setup.offload_frozen:
            found["reference"] = policy.shared(self.shape.num_parameters * width)
        if self.reward is not None and self.setup.is_online and not self.setup.offload_frozen:
            own = adapter_parameters(self.shape, self.setup) * 4.0
            found["reward_model"] = own if one else float(self.reward.num_parameters * width)
        return found

    def _sampling(self) -> dict[str, float]:
        """Prompts once and room for each completion's tokens, the keys and values of one layer twice when rows are
        dropped, and the logits of one chunk."""
        setup, s = self.setup, self.shape.sizes
        layers = Layers(setup, self.shape, self.device)
        rows = len(self.groups) * setup.num_completions
        prompts = sum(group.prompt_length for group in self.groups)
        tokens = min(CACHE_TOKENS, prompts + rows * setup.max_new_tokens)
        of_a_layer = tokens * 2.0 * s.num_key_value_heads * s.head_dim * layers.width
        chunk = min(chunk_bytes(self.shape, self.device), 4.0 * s.vocab_size * rows)
        longest = min(prompts, PREFILL_TOKENS)
        decoders = max(1, min(MOST_HANDS, setup.threads, rows // FEWEST_ROWS)) if self.device == "cpu" else 1
        return {
            "kv_cache": (s.num_layers + 1) * of_a_layer,
            "logits": decoders * 4 * chunk,
            "activations": decoders * layers.forward(Pass(longest, longest, longest, 0)),
        }

    def _reading(self, policy: Learned) -> dict[str, float]:
        reader = replace(policy, scorer=False)
        together = reader.passes(self.groups)[: reader.hands]
        apart = self.setup.own_reference and not self.setup.is_online
        return {
            "activations": sum(reader.layers.forward(one) for one in together),
            "logits": sum(logits(reader.layers, one) for one in together),
            **({"reference": float(self.shape.num_parameters * self.setup.weight_bytes)} if apart else {}),
        }

    def _with_allocator(self, held: Mapping[str, float]) -> dict[str, float]:
        moving = sum(held.get(name, 0.0) for name in ("activations", "logits"))
        if self.device == "cpu":
            moving -= held.get("mapped", 0.0)
        own = {name: value for name, value in held.items() if name != "mapped"}
        return {**own, "program": PROGRAM[self.device], "allocator": moving * ALLOCATOR[self.device]}


@dataclass(frozen=True, slots=True)
class Learned:
    """One model that is trained, and its updates."""

    setup: Setup
    shape: ModelShape
    device: str
    scorer: bool

    @property
    def layers(self) -> Layers:
        return Layers(self.setup, self.shape, self.device)

    @property
    def adapters(self) -> float:
        """Bytes of the adapters, which are held in float32; a scorer's or a value head is trained beside them."""
        head = self.shape.sizes.hidden_size if self.scorer else self._value_head
        return 4.0 * (adapter_parameters(self.shape, self.setup) + head) if self.setup.lora_r else 0.0

    @property
    def _value_head(self) -> int:
        """Numbers of a policy's head for the critic on a shared trunk (models/one_trunk.py: value_head_of)."""
        return self.shape.sizes.hidden_size + 1 if self.setup.trunk == "shared" and not self.scorer else 0

    @property
    def _own(self) -> Mapping[str, tuple[int, ...]]:
        """The base's weights: a scorer has a score head instead of the vocabulary's."""
        weights = {name: size for name, size in self.shape.weights.items() if name != "lm_head.weight"}
        return weights | {"score.weight": (1, self.shape.sizes.hidden_size)} if self.scorer else self.shape.weights

    @property
    def number(self) -> int:
        """Weights that are there without adapters."""
        return sum(map(prod, self._own.values())) + (0 if self.setup.lora_r else self._value_head)

    @property
    def _base(self) -> float:
        """Their bytes."""
        number = self.number
        if not self.setup.in_4bit:
            return float(number * self.setup.weight_bytes)
        # Embeddings, norms and the head stay as they are.
        linear = sum(map(prod, adapted(self.shape, replace(self.setup, lora_targets=None)).values()))
        return linear * NF4_BITS / 8 + (number - linear) * self.setup.weight_bytes

    @property
    def trained(self) -> float:
        """Numbers that are trained."""
        return self.adapters / 4 if self.setup.lora_r else float(self.number)

    @property
    def weights(self) -> float:
        return self.shared(self._base + self.adapters)

    @property
    def saved(self) -> float:
        """Bytes on disk: with adapters these alone, and the name of their base."""
        return self.adapters if self.setup.lora_r else self.weights

    @property
    def gradients(self) -> float:
        return self.shared(self.trained * (4 if self.setup.lora_r else self.setup.weight_bytes))

    @property
    def optimiser(self) -> float:
        """The two moments, and with `master_weights` the float32 copies."""
        if self.setup.optim == "adamw_8bit":
            return self.shared(self.trained * 2.0)
        if self.setup.master_weights:
            return self.shared(self.trained * 12.0)
        return self.shared(self.trained * (8.0 if self.setup.lora_r else 2.0 * self.setup.weight_bytes))

    def shared(self, number: float) -> float:
        """This process's part."""
        return number / self.setup.processes if self.setup.sharded else number

    @property
    def hands(self) -> int:
        """Passes at the same time."""
        if self.device != "cpu" or self.setup.processes > 1 or self.trained > MOST_TRAINED:
            return 1
        return max(1, min(MOST_HANDS, self.setup.threads))

    def passes(self, groups: Sequence[Lengths]) -> list[Pass]:
        """The micro-batches, longest first."""
        s = self.shape.sizes
        tokens = self.setup.micro_batch_tokens or tokens_per_pass(s.num_layers, s.hidden_size, self.device)
        if (workers := max(self.setup.processes, self.hands)) > 1:
            whole = sum(group.prompt_length + sum(group.completion_lengths) for group in groups)
            tokens = max(1, min(tokens, -(-whole // workers)))
        bins = split_by_budget(groups, max_tokens=tokens, shared=True)
        scores = self.scorer and self.setup.command == "reward"
        return [Pass.of([groups[i] for i in indices], scores=scores) for indices in bins]

    def step(self, groups: Sequence[Lengths]) -> dict[str, float]:
        """Gradients, activations and logits at the highest point of an update: while a pass that has kept everything
        begins its backward pass, or when the gradients are complete. `mapped`: the activations in large blocks."""
        passes = sorted(self.passes(groups), key=lambda one: -kept(self.layers, one))
        hands = self.hands if len(passes) > 1 else 1
        together = passes[:hands]
        head = [self._head(one) for one in together]
        held = {
            "activations": sum(
                kept(self.layers, one) + max(0.0, backward(self.layers, one, of_the_head=own) - own)
                for one, own in zip(together, head, strict=True)
            ),
            "logits": sum(head),
        }
        apart = {"mapped": sum(mapped(self.layers, one, larger_than=LARGEST_ON_HEAP) for one in together)}
        if hands == 1:
            before = self.gradients if len(passes) > 1 else 0.0
            return max({**held, "gradients": before}, {"gradients": self.gradients}, key=_total) | apart
        # Each hand adds up its own gradients, and they are summed into a third.
        before = self.gradients * hands if len(passes) > hands else 0.0
        complete = self.gradients * (2 * hands if len(passes) > hands else hands + 1)
        return max({**held, "gradients": before}, {"gradients": complete}, key=_total) | apart

    def _head(self, one: Pass) -> float:
        """Of the head's chunks and of its weights' gradient, twice while a chunk's is added."""
        if self.scorer:
            return 0.0
        whole = 0.0 if self.setup.lora_r else 2.0 * head_weights(self.shape) * self.setup.weight_bytes
        return logits(self.layers, one) + whole


def _total(held: Mapping[str, float]) -> float:
    return sum(held.values()) - held.get("mapped", 0.0)


def rows_of_a_step(groups: Sequence[Lengths], batch_size: int) -> list[Lengths]:
    """The rows of the update that needs most: the `batch_size` longest. Each update is cut into micro-batches of the
    same budget, so it needs little more than the others."""
    return sorted(groups, key=lambda g: -(g.prompt_length + sum(g.completion_lengths)))[:batch_size]
