"""The checks of an online command before it loads or writes anything."""

from __future__ import annotations

from assent.config.functions import source_hash
from assent.config.online import OnlineOptions
from assent.config.rewards import ImplicitSource, ModelSource
from assent.engine.runtime import Runtime
from assent.errors import ConfigError
from assent.models.heads import is_classifier
from assent.models.loading import check_context, load_config, load_tokenizer
from assent.models.one_trunk import check_base_is_plain, check_stands_on_base
from assent.rewards.loading import check_contexts, check_reward, reward_hash
from assent.rewards.reward_model import check_reward_model, same_tokenizer
from assent.rollouts.opening import check_sampler
from assent.stages.references import check_reference, check_same_tokens
from assent.stages.stage_data import StageData


def check_online(config: OnlineOptions, data: StageData) -> dict[str, str]:
    """SHA-256 of what the run depends on besides data and model. UsageError if the configuration cannot run."""
    check_reference(config, data)
    if critic_start := config.critic:
        check_same_tokens(critic_start, config, data, what="the critic")
        _check_critic(critic_start, config)
    check_sampler(config)
    check_reward(config.reward, ensemble=config.reward_ensemble)
    check_contexts(config.reward, data.tokenizer, config.max_length)
    _check_memory(config)
    _check_rounds(config, len(data.train.tokens))
    inputs = {"reward": reward_hash(config.reward)}
    if modules := config.triple.modules:
        inputs["algorithm"] = source_hash(modules)
    if potential := config.potential:
        _check_potential(potential, data, config.max_length)
        inputs["potential"] = reward_hash(potential)
    return inputs


def _check_rounds(config: OnlineOptions, num_prompts: int) -> None:
    """ConfigError if the last round of a pass over the prompts is too small for its updates, which the learning rate's
    schedule counts."""
    _, num_mini_batches = config.passes
    reaches_last = config.total_steps * config.batch_size >= num_prompts
    smallest = (num_prompts - 1) % config.batch_size + 1 if reaches_last else config.batch_size
    if smallest < num_mini_batches:
        raise ConfigError(
            "the last round of a pass over the prompts has fewer prompts than num_mini_batches",
            got=f"{num_prompts} prompts in rounds of {config.batch_size}: the last has {smallest}",
            expected=f"at least {num_mini_batches} prompts in every round",
            fix="lower --num-mini-batches, or choose a --batch-size that leaves more prompts",
        )


def _check_memory(config: OnlineOptions) -> None:
    """Checks that models and device allow `--trunk one` and `--offload-frozen`."""
    sources = [leaf for source in config.reward for leaf in source.leaves()]
    frozen = {f"the reward {s.label}": s.reward for s in sources if isinstance(s, ModelSource | ImplicitSource)}
    if potential := config.potential:
        frozen["the potential"] = potential
    if config.trunk == "one":
        check_base_is_plain(config.model, revision=config.revision)
        if implicit := [source.reward for source in sources if isinstance(source, ImplicitSource)]:
            raise ConfigError(
                "with trunk one no model has weights of its own, but an implicit reward is two such models",
                got=implicit[0],
                expected="rewards without models, or reward models that are adapters on the policy's base",
                fix="leave --trunk out",
            )
        critic = config.critic
        for what, path in {**frozen, **({} if critic in (None, config.model) else {"the critic": critic})}.items():
            check_stands_on_base(path, config.model, what=what, revision=config.revision)
    if config.offload_frozen:
        if (device := Runtime(config.device).device).type != "cuda":
            raise ConfigError("offload_frozen needs CUDA", got=f"device {device}", expected="cuda", fix="leave it out")
        if config.lora_r and config.reference is None and not frozen:
            raise ConfigError(
                "offload_frozen has no effect: the reference is the adapted policy, and no reward is a model",
                fix="leave it out",
            )


def _check_critic(path: str, config: OnlineOptions) -> None:
    """ConfigError if the critic's start is a reward model with several heads or adapters."""
    start = load_config(path, revision=config.revision)
    if is_classifier(start) and start.num_labels != 1:
        raise ConfigError(f"the critic {path} has several heads", got=start.num_labels, expected="1")


def _check_potential(path: str, data: StageData, max_length: int) -> None:
    """ConfigError if the potential has several heads or cannot read the policy's tokens."""
    heads = check_reward_model(path)
    check_context(load_config(path), max_length, whose=f"the potential {path}")
    if heads != 1:
        raise ConfigError(f"the potential {path} has several heads", got=heads, expected="1")
    if not same_tokenizer(load_tokenizer(path), data.tokenizer):
        raise ConfigError(
            f"the potential {path} has another tokenizer than the policy, whose tokens it would read",
            expected="the policy's tokenizer",
            fix="train a reward model that starts from the policy's model",
        )
