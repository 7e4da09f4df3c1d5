"""What an online command refuses before anything is loaded or written."""

from __future__ import annotations

from assent.config.functions import source_hash
from assent.config.online import OnlineOptions
from assent.config.rewards import ImplicitSource, ModelSource
from assent.engine.runtime import Runtime
from assent.errors import ConfigError
from assent.models.loading import check_context, is_classifier, load_config, load_tokenizer
from assent.models.one_trunk import check_base_is_plain, check_stands_on_base
from assent.rewards.loading import check_contexts, check_reward, reward_hash
from assent.rewards.reward_model import check_reward_model, same_tokenizer
from assent.rollouts.opening import check_sampler
from assent.stages.references import check_reference, check_same_tokens
from assent.stages.stage_data import StageData


def check_online(config: OnlineOptions, data: StageData) -> dict[str, str]:
    """SHA-256 of what the run depends on beside data and model. UsageError where it cannot run as asked."""
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
    """ConfigError where the last round of a pass over the prompts is too small for its updates: the learning rate's
    schedule counts on them."""
    _, num_mini_batches = config.passes
    reaches_last = config.total_steps * config.batch_size >= num_prompts
    smallest = (num_prompts - 1) % config.batch_size + 1 if reaches_last else config.batch_size
    if smallest < num_mini_batches:
        raise ConfigError(
            "the last round of a pass over the prompts has fewer of them than num_mini_batches",
            got=f"{num_prompts} prompts in rounds of {config.batch_size}: the last has {smallest}",
            expected=f"at least {num_mini_batches}",
            fix="lower --num-mini-batches, or choose a --batch-size that leaves more",
        )


def _check_memory(config: OnlineOptions) -> None:
    """What `--trunk one` and `--offload-frozen` ask of models and device, before anything is loaded."""
    sources = [leaf for source in config.reward for leaf in source.leaves()]
    frozen = {f"the reward {s.label}": s.reward for s in sources if isinstance(s, ModelSource | ImplicitSource)}
    if potential := config.potential:
        frozen["the potential"] = potential
    if config.trunk == "one":
        check_base_is_plain(config.model, revision=config.revision)
        if implicit := [source.reward for source in sources if isinstance(source, ImplicitSource)]:
            raise ConfigError(
                "with trunk one no model has weights of its own, and an implicit reward is two such models",
                got=implicit[0],
                fix="leave --trunk out",
            )
        critic = config.critic
        for what, path in {**frozen, **({} if critic in (None, config.model) else {"the critic": critic})}.items():
            check_stands_on_base(path, config.model, what=what, revision=config.revision)
    if config.offload_frozen:
        if (device := Runtime(config.device).device).type != "cuda":
            raise ConfigError("offload_frozen needs CUDA", got=f"device {device}", fix="leave it out")
        if config.lora_r and config.reference is None and not frozen:
            raise ConfigError(
                "offload_frozen has no effect: the reference is the policy with its adapter off, the rewards no models",
                fix="leave it out",
            )


def _check_critic(path: str, config: OnlineOptions) -> None:
    """ConfigError for a reward model with several heads or adapters: a critic has one."""
    found = load_config(path, revision=config.revision)
    if is_classifier(found) and found.num_labels != 1:
        raise ConfigError(f"the critic {path} has several heads", got=found.num_labels, expected="1")


def _check_potential(path: str, data: StageData, max_length: int) -> None:
    """It is read at the policy's tokens, by one head."""
    heads = check_reward_model(path)
    check_context(load_config(path), max_length, whose=f"the potential {path}")
    if heads != 1:
        raise ConfigError(f"potential {path} has several heads", got=heads, expected="1")
    if not same_tokenizer(load_tokenizer(path), data.tokenizer):
        raise ConfigError(
            f"potential {path} has another tokenizer than the policy, whose tokens it would read",
            fix="train a reward model that starts from the policy's model",
        )
