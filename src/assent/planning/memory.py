"""The most memory that a stage will hold, by component and by moment: arithmetic over the model's shape.

Numbers are bytes above what the process holds once its packages are imported. On a CPU that is the resident set, on
CUDA the device's memory, where `reserved` is what the allocator takes for it.

Legend: W weights, G gradients, T tokens of a micro-batch, N of them counted by the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from assent.models.shape import Lengths, ModelShape, split_by_budget, tokens_per_pass
from assent.planning.activations import adapted, adapter_parameters, chunk_bytes, head_weights, per_token
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
MOST_HANDS, MOST_TRAINED = 4, 2**25
"""Passes at the same time on a CPU, and the most trained numbers with which there are several (engine/passes.py)."""
CACHE_TOKENS = 65536
"""Tokens of cache in flight (rollouts/torch_sampler.py: max_batch_tokens)."""
PROGRAM = {"cpu": 40e6, "cuda": 0.5e9}
"""What torch and the tokenizer take once they are used: libraries' buffers, threads; on CUDA the context."""
ALLOCATOR = {"cpu": 0.05, "cuda": 0.1}
"""The share of what is allocated and freed again that the allocator holds besides."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What one stage holds.

    moments    for each of MOMENTS that the stage has, bytes by component
    processes  the figures are those of one process, on one device
    """

    moments: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def peak_moment(self) -> str:
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def components(self) -> dict[str, float]:
        """At the highest moment; what is not held then is left out."""
        held = self.moments[self.peak_moment]
        return {name: held[name] for name in COMPONENTS if held.get(name)}

    @property
    def peak(self) -> float:
        """Bytes at the highest moment, the allocator's share included: `reserved` on CUDA."""
        return sum(self.moments[self.peak_moment].values())

    @property
    def allocated(self) -> float:
        """Bytes of tensors at the highest moment."""
        return self.peak - self.components.get("allocator", 0.0)

    reserved = peak

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


@dataclass(frozen=True, slots=True)
class _Stage:
    setup: Setup
    shape: ModelShape
    groups: Sequence[Lengths]
    device: str
    reward: ModelShape | None

    def memory(self) -> Memory:
        policy = _Learner(self.setup, self._trained_shape, self.device, scorer=self.setup.command == "reward")
        others = self._others()
        moments: dict[str, dict[str, float]] = {}
        weights = policy.weights
        moments["loading"] = {"weights": 2 * weights if self.device == "cpu" else weights}
        base = {"weights": weights, **others}
        steps = {True: policy.step(self.groups, first=True), False: policy.step(self.groups, first=False)}
        late = {"optimiser": policy.optimiser}
        if self.setup.has_critic:
            own = self._critic()
            held = own.weights if self.setup.trunk == "separate" else own.adapters
            base["critic"] = held
            late["critic"] = held + own.optimiser
            value = own.step(self.groups, first=False)
            if sum(value.values()) > sum(steps[False].values()):
                steps[False] = value
        if self.setup.is_online:
            moments["sampling"] = base | late | self._sampling()
        if self.setup.reads_reference or self.setup.is_online:
            moments["reading"] = base | self._reading()
        moments["first step"] = base | steps[True]
        moments["later steps"] = base | late | steps[False]
        return Memory({name: self._with_allocator(moments[name]) for name in MOMENTS if name in moments})

    @property
    def _trained_shape(self) -> ModelShape:
        return _as_scorer(self.shape) if self.setup.command == "reward" else self.shape

    def _others(self) -> dict[str, float]:
        """Models that are only read, in memory while the policy trains."""
        one, width = self.setup.trunk == "one", self.setup.weight_bytes
        found = {}
        if self.setup.keeps_reference and not one and not self.setup.offload_frozen:
            found["reference"] = self._sharded(self.shape.num_parameters * width)
        if self.reward is not None and self.setup.is_online and not self.setup.offload_frozen:
            found["reward_model"] = adapter_parameters(self.shape, self.setup) * 4.0 if one else (
                self.reward.num_parameters * width
            )  # fmt: skip
        return found

    def _critic(self) -> _Learner:
        start = self.reward if self.reward is not None and self.setup.trunk == "separate" else _as_scorer(self.shape)
        return _Learner(self.setup, start, self.device, scorer=True)

    def _sharded(self, number: float) -> float:
        return number / self.setup.processes if self.setup.sharded else number

    def _sampling(self) -> dict[str, float]:
        s, setup = self.shape.sizes, self.setup
        width = 2 if setup.dtype == "bfloat16" or setup.mixed_precision == "bf16" else 4
        rows = len(self.groups) * setup.num_completions
        prompts = sum(group.prompt_length for group in self.groups)
        tokens = min(CACHE_TOKENS, prompts + rows * setup.max_new_tokens)
        cache = tokens * 2.0 * s.num_layers * s.num_key_value_heads * s.head_dim * width
        return {"kv_cache": cache, "logits": 3 * chunk_bytes(self.shape, self.device)}

    def _reading(self) -> dict[str, float]:
        policy = _Learner(self.setup, self.shape, self.device, scorer=False)
        tokens = policy.bins(self.groups)[0] if self.groups else (0, 0)
        own = self.shape.num_parameters * self.setup.weight_bytes
        apart = self.setup.own_reference and not self.setup.is_online
        return {
            "activations": policy.hands * tokens[0] * per_token(self.shape, self.setup, self.device).forward,
            "logits": policy.hands * 3 * chunk_bytes(self.shape, self.device),
            **({"reference": own} if apart else {}),
        }

    def _with_allocator(self, held: Mapping[str, float]) -> dict[str, float]:
        moving = sum(held.get(name, 0.0) for name in ("gradients", "activations", "logits", "kv_cache"))
        return {**held, "program": PROGRAM[self.device], "allocator": moving * ALLOCATOR[self.device]}


@dataclass(frozen=True, slots=True)
class _Learner:
    """One model that is trained."""

    setup: Setup
    shape: ModelShape
    device: str
    scorer: bool

    @property
    def adapters(self) -> float:
        """Bytes: adapters are held in float32; an adapted scorer trains its head too."""
        head = self.shape.sizes.hidden_size if self.scorer else 0
        return 4.0 * (adapter_parameters(self.shape, self.setup) + head) if self.setup.lora_r else 0.0

    @property
    def trained(self) -> float:
        """Numbers that are trained."""
        return self.adapters / 4 if self.setup.lora_r else float(self.shape.num_parameters)

    @property
    def weights(self) -> float:
        return self._sharded(self._base) + self._sharded(self.adapters)

    @property
    def _base(self) -> float:
        if not self.setup.in_4bit:
            return float(self.shape.num_parameters * self.setup.weight_bytes)
        # NF4 with blocks of 64 and doubly quantised scales (arXiv:2305.14314, §3): 4.127 bits for a weight. The
        # embeddings, norms and head stay as they are.
        plain = replace(self.setup, lora_targets=None)
        linear = sum(prod(size) for size in adapted(self.shape, plain).values())
        return linear * 4.127 / 8 + (self.shape.num_parameters - linear) * self.setup.weight_bytes

    @property
    def gradients(self) -> float:
        width = 4 if self.setup.lora_r else self.setup.weight_bytes
        return self._sharded(self.trained * width)

    @property
    def optimiser(self) -> float:
        """The two moments, and the float32 copies of low-precision weights."""
        if self.setup.optim == "adamw_8bit":
            return self._sharded(self.trained * 2.0)
        return self._sharded(self.trained * (12.0 if self.setup.master_weights else 2 * self._moment_bytes))

    @property
    def _moment_bytes(self) -> int:
        return 4 if self.setup.lora_r or self.setup.master_weights else self.setup.weight_bytes

    def _sharded(self, number: float) -> float:
        return number / self.setup.processes if self.setup.sharded else number

    @property
    def hands(self) -> int:
        """Passes at the same time."""
        if self.device != "cpu" or self.setup.processes > 1 or self.trained > MOST_TRAINED:
            return 1
        return max(1, min(MOST_HANDS, self.setup.threads))

    def budget(self) -> int:
        s = self.shape.sizes
        return self.setup.micro_batch_tokens or tokens_per_pass(s.num_layers, s.hidden_size, self.device)

    def bins(self, groups: Sequence[Lengths]) -> list[tuple[int, int]]:
        """The micro-batches of an update, longest first: tokens, and tokens that are read at the end."""
        tokens, hands = self.budget(), max(self.setup.processes, self.hands)
        if hands > 1:
            whole = sum(group.prompt_length + sum(group.completion_lengths) for group in groups)
            tokens = max(1, min(tokens, -(-whole // hands)))
        found = []
        for indices in split_by_budget(groups, max_tokens=tokens, shared=True):
            own = [groups[i] for i in indices]
            completions = sum(sum(group.completion_lengths) for group in own)
            ends = sum(len(group.completion_lengths) for group in own)
            read = ends if self.setup.command == "reward" else completions + len(own)
            found.append((sum(group.prompt_length for group in own) + completions, read))
        return found

    def step(self, groups: Sequence[Lengths], *, first: bool) -> dict[str, float]:
        """Gradients, activations and logits at the highest point of an update."""
        bins, hands = self.bins(groups), self.hands
        together = bins[:hands] if len(bins) > 1 else bins[:1]
        activations = sum(self._activations(*one) for one in together)
        logits = len(together) * self._logits()
        several = len(bins) > 1
        if hands > 1 and several:  # each hand adds up its own, and they are summed into a third
            gradients = self.gradients * (hands if len(bins) > hands else 0)
            return _highest(
                {"activations": activations, "logits": logits, "gradients": gradients},
                {"gradients": self.gradients * max(2 * hands if len(bins) > hands else hands, hands + 1)},
            )
        before = self.gradients if several else 0.0
        return _highest(
            {"activations": activations, "logits": logits, "gradients": before}, {"gradients": self.gradients}
        )

    def _activations(self, tokens: int, read: int) -> float:
        token, s = per_token(self.shape, self.setup, self.device), self.shape.sizes
        if self.setup.gradient_checkpointing:
            kept = s.num_layers * tokens * s.hidden_size * 4.0 + tokens * (token.attention + token.mlp)
        else:
            kept = s.num_layers * tokens * token.attention + ((s.num_layers - 1) * tokens + read) * token.mlp
        return kept + tokens * token.backward

    def _logits(self) -> float:
        """Of the head's chunks, and of its weights' gradient while it is made."""
        if self.scorer:
            return 0.0
        whole = 0.0 if self.setup.lora_r else 2.0 * head_weights(self.shape) * 4
        return 4 * chunk_bytes(self.shape, self.device) + whole


def _highest(*moments: dict[str, float]) -> dict[str, float]:
    return max(moments, key=lambda held: sum(held.values()))


def _as_scorer(shape: ModelShape) -> ModelShape:
    weights = {name: size for name, size in shape.weights.items() if name != "lm_head.weight"}
    return replace(shape, weights={**weights, "score.weight": (1, shape.sizes.hidden_size)})


def rows_of_a_step(groups: Sequence[Lengths], batch_size: int) -> list[Lengths]:
    """The rows of the update that needs most: the `batch_size` longest. Each update is cut into micro-batches of the
    same budget, so it needs little more than the others."""
    return sorted(groups, key=lambda g: -(g.prompt_length + sum(g.completion_lengths)))[:batch_size]
