"""One configuration class for each RLHF command: what all share, and the options of their algorithms' parts."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from assent.config.algorithms import ALGORITHMS, GOVERNED, Algorithm, Part, algorithm_declaration
from assent.config.data import DataOptions
from assent.config.ensembles import EnsembleOptions
from assent.config.options import NonNegative, Positive, SamplerOptions, StageOptions, Trunk, fixed
from assent.config.references import ReferenceModel
from assent.config.reward_places import RewardPlaceOptions
from assent.config.rewards import Rewards
from assent.config.router import RouterOptions

LossType = Literal["grpo", "dapo", "dr_grpo"]

CRITIC_OF_ITS_OWN = frozenset({"critic", "critic_learning_rate", "critic_warmup_steps"})
"""Options of a critic that has a trunk and an optimiser of its own."""


class OnlineOptions(StageOptions, DataOptions, EnsembleOptions, SamplerOptions, RouterOptions, RewardPlaceOptions):
    """What every online command has: prompts, a reward, sampling, and the pull to the reference."""

    command: ClassVar[str]
    """Name of the command. It is also the name of its algorithm, unless the class has an option `algorithm`."""

    model: str
    """Policy to train: a folder or a hub name."""
    data: str
    """Prompts: a file, a folder or a hub name. Completions in it are ignored."""
    reward: Rewards
    """What scores completions: a reward-model folder, module:function, a rule, an address, implicit:POLICY,REFERENCE;
    or several of them, with weights (docs/rewards.md)."""
    reference: ReferenceModel | None = None
    """Reference policy: a folder or a hub name. Default: the policy as it starts."""
    total_steps: Positive = 50
    """Rounds of sampling and training."""
    batch_size: Positive = 64
    """Prompts per round, over all processes."""
    num_completions: Positive = 1
    """Completions sampled for each prompt."""
    max_new_tokens: Positive = 64
    """Longest completion, in tokens."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature. Log-probabilities are those of the tempered policy."""
    kl_penalty: Literal["reward", "k2", "k3", "k3+"] = "reward"
    """Where the KL penalty applies. reward: it is subtracted from each token's reward (k1). The others add it to the
    loss, per token: k2 and k3+ with the gradient of KL(policy || reference), k3 (GRPO's) with that of KL(reference ||
    policy)."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.05
    """Factor of the KL penalty. With --kl-target, the value it starts at."""
    kl_target: Annotated[float, Field(gt=0)] | None = None
    """Adapt kl_coef to keep the KL near this many nats per completion (arXiv:1909.08593, eq. 3). Default: kl_coef stays
    as it is."""
    kl_horizon: Annotated[float, Field(gt=0)] | None = None
    """Completions over which the adaptive kl_coef changes. Needs --kl-target. Default: 1000."""
    entropy_coef: Annotated[float, Field(ge=0)] = 0.0
    """Factor of the entropy bonus, which is a mean over completion tokens (arXiv:1602.01783, section 4)."""
    missing_eos_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Subtracted from the score of a completion that did not end."""
    importance_sampling_cap: Annotated[float, Field(ge=1)] | None = None
    """For a sampler that computes differently from the trainer (another engine, bfloat16). The trainer reads the
    sampled tokens again, and ratios are taken to its own log-probabilities. Each token's loss is multiplied by
    min(pi_trainer / pi_sampler, this): truncated importance sampling (Ionides 2008). Default: the sampler's
    log-probabilities are the old policy's."""
    trunk: Trunk = "separate"
    """Which models share weights. separate: none. shared: the critic is a value head on the policy's trunk. one:
    policy, critic and reward model are adapters on one frozen base, and that base is the reference (Hydra,
    arXiv:2309.00754)."""
    offload_frozen: bool = False
    """Keep reward model and reference in main memory while they are not in use. Needs CUDA."""
    shuffle: bool = True
    """Read the prompts in a new order in each pass. With --no-shuffle they keep the file's order."""

    @fixed
    def algorithm(self) -> str:
        return self.command

    @fixed
    def loss_type(self) -> LossType:
        return "dapo"

    @fixed
    def target_kl(self) -> float | None:
        return None

    @fixed
    def scale_scores(self) -> bool:
        return False

    @fixed
    def mask_truncated_completions(self) -> bool:
        return False

    @fixed
    def critic(self) -> str | None:
        return None

    @fixed
    def critic_warmup_steps(self) -> int:
        return 0

    @fixed
    def bootstrap_truncated(self) -> bool:
        return False

    @fixed
    def potential(self) -> str | None:
        return None

    @property
    def triple(self) -> Algorithm:
        """The registered triple of advantage, policy objective and value objective."""
        return algorithm_declaration(self.algorithm)

    def applies(self, name: str) -> bool:
        """Whether the algorithm reads the option, with models in memory as `trunk` says."""
        if name == "vf_coef":
            return self.trunk == "shared"
        if self.trunk == "shared" and name in CRITIC_OF_ITS_OWN:
            return False
        return name not in GOVERNED or name in self.triple.reads

    def options_of(self, part: Part) -> dict[str, Any]:
        """The options that the part's function takes."""
        return {name: getattr(self, name) for name in part.options}

    @property
    def passes(self) -> tuple[int, int]:
        """Passes over a round's rollouts, and updates in each."""
        return 1, 1

    def num_updates(self, steps: int, *, learner: str = "model") -> int:
        passes, updates = self.passes
        return steps * passes * updates

    @model_serializer(mode="wrap")
    def _only_what_applies(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if self.applies(name)}

    @model_validator(mode="after")
    def _options_belong_to_the_algorithm(self) -> Self:
        algorithm = self.triple
        if missing := sorted(algorithm.reads - set(type(self).model_fields)):
            raise ValueError(
                f"algorithm {algorithm.name} needs options that this command does not have: {', '.join(missing)}"
                + (f". Use assent {algorithm.name}" if algorithm.name in ALGORITHMS else "")
            )
        if idle := sorted((self.model_fields_set & GOVERNED) - algorithm.reads):
            raise ValueError(f"{', '.join(idle)} has no effect with algorithm {algorithm.name}: leave it out")
        if algorithm.needs_mates and self.num_completions < 2:
            raise ValueError(
                f"algorithm {algorithm.name} compares a prompt's completions: give num_completions of at least 2, "
                f"not {self.num_completions}"
            )
        return self

    @model_validator(mode="after")
    def _steps_have_effect(self) -> Self:
        process = [source.reward for source in self.reward if source.is_process]
        if process and not self.triple.credits_steps:
            raise ValueError(
                f"supervision process of reward {process[0]} has no effect: algorithm {self.triple.name} gives "
                "a whole completion one advantage. Choose ppo, a2c, grpo or reinforce++, or leave it out"
            )
        if process and self.triple.advantage == "group" and self.kl_penalty == "reward" and self.kl_coef:
            raise ValueError("grpo normalises the rewards of steps, which must not hold the KL penalty: "
                             "choose kl_penalty k2, k3 or k3+")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _engines_differ(self) -> Self:
        same = self.sampler == "torch" and self.dtype == "float32" and self.mixed_precision == "no"
        if self.importance_sampling_cap is not None and same:
            raise ValueError(
                "importance_sampling_cap has no effect when the policy itself samples in float32, because sampler and "
                "trainer then give the same log-probabilities: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _models_fit_together(self) -> Self:
        """What `trunk` and `offload_frozen` need, and what has no effect with them."""
        if self.trunk == "shared":
            if self.triple.value is None:
                raise ValueError(
                    f"trunk shared has no effect with algorithm {self.triple.name}, which has no critic: leave it out"
                )
            if idle := sorted(self.model_fields_set & CRITIC_OF_ITS_OWN):
                raise ValueError(
                    f"{', '.join(idle)} has no effect with trunk shared, where the policy is the critic: leave it out"
                )
        elif "vf_coef" in self.model_fields_set:
            raise ValueError(
                "vf_coef has no effect without trunk shared, as the critic has its own optimiser: leave it out"
            )
        if self.trunk == "one":
            if not self.lora_r:
                raise ValueError("trunk one trains adapters on a frozen base: give lora_r")
            if self.reference is not None:
                raise ValueError("with trunk one the base is the reference: leave reference out")
            if self.load_in_4bit:
                raise ValueError("trunk one does not work with load_in_4bit: leave one of them out")
        if self.offload_frozen and not self.device.startswith(("auto", "cuda")):
            raise ValueError(f"offload_frozen has no effect on device {self.device}: leave it out")
        if self.offload_frozen and self.trunk == "one":
            raise ValueError(
                "offload_frozen has no effect with trunk one, as frozen models share its base: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _kl_can_adapt(self) -> Self:
        if self.kl_horizon is not None and self.kl_target is None:
            raise ValueError("kl_horizon has no effect without kl_target: give both, or neither for a fixed kl_coef")
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError(
                "kl_coef 0 cannot adapt, as it adapts by factors: give one above 0, or leave kl_target out"
            )
        if self.kl_coef == 0 and "kl_penalty" in self.model_fields_set:
            raise ValueError("kl_penalty has no effect with kl_coef 0: leave it out")
        completions, horizon = self.batch_size * self.num_completions, self.kl_horizon or 1000.0
        if self.kl_target is not None and completions >= 5 * horizon:
            raise ValueError(
                f"kl_horizon {horizon:g} is too short for rounds of {completions} completions: "
                f"give one above {completions / 5:g}"
            )
        return self


class ClipOptions(OnlineOptions):
    """Options of the clipped surrogate, and of the updates that it allows."""

    num_ppo_epochs: Positive = 1
    """Passes over each round's rollouts."""
    num_mini_batches: Positive = 1
    """Updates per pass, each on an equal part of the round's prompts."""
    cliprange: Annotated[float, Field(ge=0)] = 0.2
    """The probability ratio of new and old policy is clipped to 1 ± this. 0: no clipping."""
    cliprange_high: Annotated[float, Field(gt=0)] | None = None
    """Upper clip range (Clip-Higher, arXiv:2503.14476). Default: the value of --cliprange."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Dual clip (arXiv:1912.09729): the largest ratio that counts where the advantage is negative. Default: no
    limit."""
    target_kl: Annotated[float, Field(gt=0)] | None = None
    """End the policy's updates in a round once one of them finds the policy farther than this from the one that
    sampled, in nats per token (k3). The schedule of the learning rate counts the updates that were made."""

    @property
    def passes(self) -> tuple[int, int]:
        return (self.num_ppo_epochs, self.num_mini_batches) if self.applies("num_ppo_epochs") else (1, 1)

    @model_validator(mode="after")
    def _clip_has_effect(self) -> Self:
        if self.cliprange == 0 and (self.cliprange_high or self.dual_clip):
            raise ValueError("cliprange_high and dual_clip have no effect with cliprange 0: leave them out")
        if self.batch_size % self.num_mini_batches:
            raise ValueError(
                f"num_mini_batches ({self.num_mini_batches}) must divide batch_size ({self.batch_size}): "
                "all updates of a pass have the same number of prompts"
            )
        if self.target_kl is not None and self.passes == (1, 1):
            raise ValueError(
                "target_kl has no effect with one update per round: raise num_ppo_epochs or num_mini_batches"
            )
        return self


class ScoreScaleOptions(OnlineOptions):
    """Options of advantages that have the reward's scale."""

    scale_scores: bool = False
    """Divide scores by their standard deviation over all rounds so far. Their mean is not shifted."""

    @model_validator(mode="after")
    def _scale_has_effect(self) -> Self:
        alone = self.kl_penalty != "reward" or self.kl_coef == 0
        if self.scale_scores and self.triple.advantage == "whitened_return" and alone:
            raise ValueError("scale_scores has no effect where only scores are whitened: leave it out")
        return self


class CriticOptions(ScoreScaleOptions):
    """Options of algorithms with a critic."""

    critic: str | None = None
    """Model that the critic starts from. Default: the reward model, if it is the only reward, has one head and uses the
    policy's tokenizer; otherwise the policy with a new head."""
    critic_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of the critic. Default: the policy's."""
    critic_warmup_steps: NonNegative = 0
    """Number of first rounds in which only the critic learns."""
    vf_coef: Annotated[float, Field(gt=0)] = 0.1
    """Factor of the value loss. Only with --trunk shared."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount per token."""
    bootstrap_truncated: bool = False
    """Treat a completion that was cut at max_new_tokens as unfinished: the critic's value of its last state replaces
    its score. Otherwise the completion ends where it was cut and is scored as it stands."""
    potential: str | None = None
    """Reward model for potential-based shaping. It must have the policy's tokenizer, and is read at every token. Its
    rise, gamma Phi(s') - Phi(s), is added to the token's reward, which leaves the optimal policy as it is."""

    def num_updates(self, steps: int, *, learner: str = "model") -> int:
        """The policy learns in the rounds after the critic's warm-up."""
        return super().num_updates(steps - self.critic_warmup_steps * (learner == "model"), learner=learner)

    @model_validator(mode="after")
    def _critic_options_have_effect(self) -> Self:
        if self.critic_warmup_steps >= self.total_steps:
            raise ValueError(
                f"critic_warmup_steps ({self.critic_warmup_steps}) must be below total_steps ({self.total_steps}), or "
                "the policy never learns: lower it"
            )
        if self.bootstrap_truncated and self.missing_eos_penalty:
            raise ValueError(
                "missing_eos_penalty has no effect with bootstrap_truncated, which gives a cut completion no score: "
                "choose one"
            )
        return self


class PpoConfig(CriticOptions, ClipOptions):
    """PPO (arXiv:1707.06347) against a reward, with a KL penalty to the reference (arXiv:1909.08593)."""

    command: ClassVar[str] = "ppo"

    algorithm: str = "ppo"
    """ppo, or another registered algorithm that uses this command's options: reinforce++, rloo or a2c; or your own as
    module:NAME (docs/extending.md). An option that the algorithm does not read is refused."""
    batch_size: Positive = 32
    """Prompts per round, over all processes."""
    num_completions: Positive = 4
    """Completions sampled for each prompt. The prompt is read once for all of them."""
    num_ppo_epochs: Positive = 4
    """Passes over each round's rollouts."""
    cliprange_value: Annotated[float, Field(ge=0)] = 0.2
    """The value is clipped to within this of the rollout's value. 0: no clipping."""
    lam: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Lambda of generalised advantage estimation (GAE, arXiv:1506.02438)."""
    whiten_advantages: bool = True
    """Scale advantages to mean 0 and variance 1 over the whole round."""


class A2cConfig(CriticOptions):
    """Advantage actor-critic (arXiv:1602.01783), synchronous: one update per round, r + gamma V(s') - V(s)."""

    command: ClassVar[str] = "a2c"


class GrpoConfig(ClipOptions):
    """GRPO (arXiv:2402.03300): no critic; rewards are normalised within each prompt's group of completions."""

    command: ClassVar[str] = "grpo"

    batch_size: Positive = 16
    """Prompts per round, over all processes."""
    num_completions: Positive = 8
    """Completions sampled for each prompt. Together they are the group."""
    kl_penalty: Literal["reward", "k2", "k3", "k3+"] = "k3"
    """Where the KL penalty applies. reward: it is subtracted from each token's reward (k1). The others add it to the
    loss, per token: k2 and k3+ with the gradient of KL(policy || reference), k3 (GRPO's) with that of KL(reference ||
    policy)."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.04
    """Factor of the KL penalty. With --kl-target, the value it starts at."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Standard deviation that divides a reward's distance from the mean of its group. group: that of the group; batch:
    that of the whole round; none: no division (Dr. GRPO, arXiv:2503.20783)."""
    loss_type: LossType = "grpo"
    """How the loss is averaged. grpo: over each completion's tokens, then over completions. dapo: over all tokens of
    the update (arXiv:2503.14476). dr_grpo: the sum over tokens, divided by completions times max_new_tokens
    (arXiv:2503.20783)."""
    mask_truncated_completions: bool = False
    """Leave completions that were cut at max_new_tokens out of the loss and its averages (DAPO's overlong filtering,
    arXiv:2503.14476). Their rewards still count in the mean and deviation of their group, as in TRL."""


class RlooConfig(ScoreScaleOptions, ClipOptions):
    """REINFORCE leave-one-out (arXiv:2402.14740): no critic; the other completions' mean reward is the baseline."""

    command: ClassVar[str] = "rloo"

    batch_size: Positive = 16
    """Prompts per round, over all processes."""
    num_completions: Positive = 4
    """Completions sampled for each prompt."""
