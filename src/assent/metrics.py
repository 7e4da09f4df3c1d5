"""The vocabulary of metrics: every name a run may write, its unit, the direction that is better, and what it means.

Names and meanings are TRL's where TRL has one. A name may hold placeholders (`rewards/<part>`). `eval_NAME` is NAME on
held-out data; `critic/NAME` is NAME of the critic's learner, where policy and critic are trained side by side.
`NAME_low` and `NAME_high` are the ends of NAME's 95% interval.
An undeclared name is an error, so that no figure is written that nobody can look up.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from assent.errors import UsageError

Direction = Literal["higher", "lower", "none"]


@dataclass(frozen=True, slots=True)
class Metric:
    """`name` may hold placeholders in angle brackets, each standing for one part without a slash."""

    name: str
    unit: str
    direction: Direction
    """Which way is better; none: neither, or it depends."""
    definition: str


# name | unit | better | definition
_TABLE = """
loss | nats | lower | total loss of the step: each term's sum, divided by its count in the whole step
loss/<term> | nats | lower | one term of the loss, divided by its count in the whole step
loss/policy_avg | 1 | lower | clipped policy loss, mean over completion tokens
loss/value_avg | reward² | lower | clipped value loss, mean over completion tokens
loss/aux | 1 | lower | load-balancing loss of a mixture of experts, its coefficient included
aux_loss | 1 | lower | load-balancing loss of a mixture of experts: E Σ f·P over the step's tokens
grad_norm | 1 | none | norm of the gradient over all parameters, before clipping
learning_rate | 1 | none | learning rate of the step
epoch | epochs | none | passes over the data so far
num_tokens | tokens | none | tokens of prompts and completions read for training so far; a shared prompt counts once
entropy | nats per token | none | mean entropy of the model at completion tokens
mean_token_accuracy | fraction | higher | share of completion tokens that the model finds most likely
perplexity | 1 | lower | exp of the mean negative log-probability per completion token

logps/chosen | nats | none | mean over comparisons of log π(chosen | prompt), summed over tokens
logps/rejected | nats | none | the same for the rejected completion
logits/chosen | 1 | none | mean logit at the chosen completion's tokens
logits/rejected | 1 | none | mean logit at the rejected completion's tokens
rewards/chosen | 1 | none | implicit reward β log(π/π_ref) of the chosen completion, mean
rewards/rejected | 1 | none | the same for the rejected completion
rewards/margins | 1 | higher | implicit reward of the chosen minus that of the rejected completion, mean
rewards/accuracies | fraction | higher | comparisons with a positive margin; a tie counts half (noise at equal policies)
rewards/<part>/abstained | completions | none | completions for which this part abstained; its mean is over the others
rewards/<part> | 1 | none | one part of a combined reward, mean over completions
rewards/<part>/<statistic> | 1 | none | a statistic of one part of a combined reward
nll_loss | nats per token | lower | negative log-likelihood of the chosen completion per token, mean over comparisons
kl_baseline | nats per completion | none | KTO's baseline: mean log-ratio of the mismatched completions, at least 0
reference/logps_chosen | nats | none | mean log π_ref(chosen | prompt), summed over tokens
reference/logps_rejected | nats | none | the same for the rejected completion

accuracy | fraction | higher | share of comparisons whose chosen completion scores higher; a tie counts half
margin | reward | higher | score of the chosen minus that of the rejected completion, mean
loss_at_equal_scores | nats | none | the loss if all scores were equal, logged where it depends on how many are ranked
min_reward | reward | none | smallest score
mean_reward | reward | none | mean score
max_reward | reward | none | largest score
reward_std | reward | none | standard deviation of the scores
label_accuracy | fraction | higher | completions or steps whose score has their label's sign; a zero counts half
label_error | reward² | lower | squared difference of score and label, mean over completions or steps
ensemble_std | reward | none | standard deviation of an ensemble's members' scores, mean over completions
texts_shortened | fraction | lower | share of completions cut to the context of a reward model with another tokenizer
noise_ceiling | fraction | none | highest accuracy that the labels' own noise allows

kl | nats per completion | none | KL(policy || reference), estimated on the policy's own samples (k1)
kl_k3 | nats per completion | none | the same with the estimator k3, which is never negative
objective/kl | nats per completion | none | Σ log π − log π_ref over the sampled tokens (k1), mean over completions
objective/kl_se | nats per completion | none | standard error of objective/kl over prompts
objective/kl_<estimator>_se | nats per completion | none | standard error of objective/kl_<estimator> over prompts
objective/kl_<estimator> | nats per completion | none | the same with another estimator (k2, k3)
objective/kl_per_token | nats per token | none | KL to the reference as other trainers log it: mean over sampled tokens
objective/kl_coef | 1 | none | coefficient of the KL penalty in this round
loss/kl_avg | nats | none | KL penalty in the loss, its coefficient included
loss/entropy_avg | nats | none | entropy bonus, negated, its coefficient included
objective/entropy | nats per completion | none | −Σ log π of the sampled tokens, mean over completions
objective/non_score_reward | reward | none | −kl_coef · KL, if the penalty is part of the reward; mean over completions
objective/rlhf_reward | reward | higher | (scaled) score minus a KL penalty in the reward; mean over completions
objective/abstained | completions | none | completions without a score, as every reward abstained; none if not logged
objective/scores | reward | higher | the reward's score, mean over completions
objective/scores_std | reward | none | standard deviation of the scores over completions
objective/scores_margin | reward | none | score of a prompt's best completion minus that of its worst, mean over prompts
policy/updates | updates | none | updates of the policy in the round
frac_reward_zero_std | fraction | lower | share of prompts whose completions all score the same, and so teach nothing
policy/approxkl_avg | nats per token | lower | ½ mean (log-ratio)² between the policy and the policy that sampled
policy/approxkl | nats per token | lower | ½ mean (log-ratio)² between the policy and the policy that sampled
policy/clipfrac_avg | fraction | none | share of tokens at which the ratio's clip takes effect
policy/entropy_avg | nats per token | none | mean entropy of the policy at the sampled tokens
policy/approxkl_<estimator> | nats per token | lower | the same with another estimator (k1, k3)
val/clipfrac_avg | fraction | none | share of tokens at which the value's clip takes effect
val/ratio | 1 | none | mean ratio π / π_old over tokens
val/ratio_var | 1 | none | variance of the ratio
val/num_eos_tokens | completions | none | completions of the round that ended by themselves
val/explained_variance | fraction | higher | 1 − Var(returns − values) / Var(returns)
val/error | reward² | lower | squared error of the values before clipping, mean over tokens
rollout/completion_length | tokens | none | mean length of the sampled completions
rollout/completion_length_<statistic> | tokens | none | a statistic of the lengths of the sampled completions
rollout/logprob_mismatch | nats | lower | largest |log π trainer − log π sampler| of a token, in the first four prompts
rollout/importance_mean | 1 | none | truncated importance weight π trainer / π sampler, mean over tokens
rollout/eos_rate | fraction | none | share of sampled completions that ended by themselves
rollout/left_out | completions | none | sampled, not in the loss: no score, none to compare with, or cut; none if absent
rollout/not_compared | prompts | lower | prompts of the round without a comparison: completions tie or are all alike
rollout/blank | completions | lower | completions of the round without a visible character
rollout/unique | fraction | none | share of distinct completions among those sampled
rollout/tokens_per_second | tokens per second | higher | sampled tokens, divided by the time that sampling took
time/<phase> | fraction | none | share of the round's time: generate, score (rewards, reference, values), check, train
episode | completions | none | completions sampled so far
eps | completions per second | higher | completions sampled and trained on per second

gate/<check> | 1 | lower | deviation found by a check before the first update

perf/tokens_per_second | tokens per second | higher | tokens of the step, divided by its time, all processes together
perf/step_seconds | seconds | lower | time of the optimiser step, forward and backward passes included
perf/micro_batches | micro-batches | none | forward and backward passes of the step, per process
perf/micro_batch_tokens | tokens | none | token budget of one pass
perf/mfu | fraction | higher | model FLOPs per second, divided by the device's rate for a large matrix product
perf/reference_seconds | seconds | lower | time to read the reference before the first step; absent if it was cached
perf/padding_fraction | fraction | lower | share of positions in the step's forward passes that hold no token

cost/labels | labels | lower | preference labels and demonstrations used so far
cost/completions_sampled | completions | lower | completions sampled so far
cost/reward_calls | completions | lower | completions scored by the reward so far
cost/flops | FLOPs | lower | model FLOPs so far by the roofline formula, recomputation excluded
cost/seconds | seconds | lower | wall-clock time so far, over all resumptions
cost/peak_memory_bytes | bytes | lower | largest memory of the run so far: on the device, or the process's on a CPU
cost/planned_memory_bytes | bytes | none | what the plan expected of cost/peak_memory_bytes
cost/planned_seconds_low | seconds | none | least that the plan expected of cost/seconds at the end
cost/planned_seconds_high | seconds | none | most that the plan expected of cost/seconds at the end
cost/models_resident | models | lower | models held in memory at once

gold/<part> | gold reward | higher | the sandbox's gold reward or one of its attributes, mean over completions
win_rate/<part> | fraction | higher | share of completions better than the rival's on the same prompt; a tie counts half
"""

_METRICS = tuple(
    Metric(name, unit, direction, definition)  # type: ignore[arg-type]
    for name, unit, direction, definition in (
        # only the first three bars separate: a definition may hold one (log π(chosen | prompt))
        (part.strip() for part in line.split(" | ", 3))
        for line in _TABLE.splitlines()
        if line
    )
)
PREFIXES = {"eval_": "on held-out data: ", "critic/": "for the critic: "}
ENDS = {"_low": "lower", "_high": "upper"}


def declared() -> tuple[Metric, ...]:
    """Every declared metric, patterns included, in the order of the table."""
    return _METRICS


@lru_cache(maxsize=4096)
def lookup(name: str) -> Metric:
    """The declaration of `name`, with `name` filled in; exact names and the ends of their intervals win over patterns,
    and earlier ones over later.

    Raises UsageError where nothing declares it, naming the nearest declared one.
    """
    for metric in _METRICS:
        if metric.name == name:
            return metric
    for end, meaning in ENDS.items():
        for metric in _METRICS:
            if metric.name + end == name:
                definition = f"{meaning} end of the 95% interval, clustered by prompt, of: {metric.definition}"
                return replace(metric, name=name, definition=definition)
    for metric in _METRICS:
        if "<" in metric.name and _pattern(metric.name).fullmatch(name):
            return replace(metric, name=name)
    for prefix, meaning in PREFIXES.items():
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith(tuple(PREFIXES)):
            metric = lookup(name.removeprefix(prefix))
            return replace(metric, name=name, definition=meaning + metric.definition)
    nearest = difflib.get_close_matches(name, [metric.name for metric in _METRICS], n=1)
    raise UsageError(
        f"metric {name!r} is not declared",
        expected="a name or pattern of assent.metrics",
        fix=f"did you mean {nearest[0]!r}?" if nearest else "declare it in assent/metrics.py, or use rewards/<part>",
    )


@lru_cache(maxsize=256)
def _pattern(name: str) -> re.Pattern[str]:
    """`rewards/<part>` as a regular expression; a placeholder stands for one part without a slash."""
    return re.compile(
        "".join(r"[^/]+" if piece.startswith("<") else re.escape(piece) for piece in re.split(r"(<\w+>)", name))
    )


# Other trainers' names. trainer | their name | ours; `1 - NAME` where theirs is what is left to 1. A name that is not
# here and that `lookup` knows means the same there and here: TRL's are ours.
_FOREIGN = """
trl | reward | objective/scores
trl | reward_std | objective/scores_std
trl | completion_length | rollout/completion_length
trl | completions/mean_length | rollout/completion_length
trl | completions/min_length | rollout/completion_length_min
trl | completions/max_length | rollout/completion_length_max
trl | completions/clipped_ratio | 1 - rollout/eos_rate
trl | clip_ratio | policy/clipfrac_avg
trl | clip_ratio/region_mean | policy/clipfrac_avg
trl | sampling/sampling_logp_difference/max | rollout/logprob_mismatch
trl | sampling/importance_sampling_ratio/mean | rollout/importance_mean
trl | kl | objective/kl_per_token
trl | lr | learning_rate
trl | ppo/mean_scores | objective/scores
trl | ppo/std_scores | objective/scores_std
trl | env/reward_mean | objective/scores
trl | env/reward_std | objective/scores_std
trl | ppo/mean_non_score_reward | objective/non_score_reward
trl | ppo/policy/entropy | policy/entropy_avg
trl | ppo/policy/approxkl | policy/approxkl_avg
trl | ppo/policy/clipfrac | policy/clipfrac_avg
trl | ppo/val/var_explained | val/explained_variance
trl | ppo/val/clipfrac | val/clipfrac_avg
trl | ppo/learning_rate | learning_rate
trl | tokens/responses_len_mean | rollout/completion_length

llama-factory | accuracy | rewards/accuracies
llama-factory | reward | objective/scores
llama-factory | lr | learning_rate

openrlhf | policy_loss | loss/policy_avg
openrlhf | critic_loss | loss/value_avg
openrlhf | actor_lr | learning_rate
openrlhf | lr | learning_rate
openrlhf | critic_lr | critic/learning_rate
openrlhf | ppo_clip_ratio | policy/clipfrac_avg
openrlhf | clip_ratio | policy/clipfrac_avg
openrlhf | ppo_kl | policy/approxkl_k1
openrlhf | kl | objective/kl_per_token
openrlhf | reward | objective/scores
openrlhf | entropy_loss | policy/entropy_avg
openrlhf | response_length | rollout/completion_length
openrlhf | truncated | 1 - rollout/eos_rate
openrlhf | loss_mean | loss
openrlhf | acc | rewards/accuracies
openrlhf | acc_mean | rewards/accuracies
openrlhf | chosen_reward | rewards/chosen
openrlhf | reject_reward | rewards/rejected

verl | critic/score/mean | objective/scores
verl | critic/rewards/mean | objective/rlhf_reward
verl | actor/entropy | policy/entropy_avg
verl | actor/entropy_loss | policy/entropy_avg
verl | actor/ppo_kl | policy/approxkl_k1
verl | actor/pg_clipfrac | policy/clipfrac_avg
verl | actor/pg_loss | loss/policy_avg
verl | actor/kl_loss | objective/kl_per_token
verl | actor/reward_kl_penalty | objective/kl_per_token
verl | actor/kl_coef | objective/kl_coef
verl | actor/grad_norm | grad_norm
verl | actor/lr | learning_rate
verl | critic/lr | critic/learning_rate
verl | critic/vf_explained_var | val/explained_variance
verl | critic/vf_loss | loss/value_avg
verl | critic/vf_clipfrac | val/clipfrac_avg
verl | response_length/mean | rollout/completion_length
verl | response_length/max | rollout/completion_length_max
verl | response_length/min | rollout/completion_length_min
verl | response_length/clip_ratio | 1 - rollout/eos_rate

nemo-rl | reward | objective/scores
nemo-rl | probs_ratio | val/ratio
nemo-rl | kl_penalty | objective/kl_per_token
nemo-rl | approx_entropy | policy/entropy_avg
nemo-rl | mean_gen_tokens_per_sample | rollout/completion_length
nemo-rl | lr | learning_rate
nemo-rl | preference_loss | loss/preference
nemo-rl | sft_loss | nll_loss
nemo-rl | accuracy | rewards/accuracies
nemo-rl | rewards_chosen_mean | rewards/chosen
nemo-rl | rewards_rejected_mean | rewards/rejected
"""

FOREIGN: dict[str, dict[str, str]] = {}
"""By trainer: their name, and ours."""
for _line in filter(None, _FOREIGN.splitlines()):
    _trainer, _theirs, _ours = (part.strip() for part in _line.split(" | "))
    FOREIGN.setdefault(_trainer, {})[_theirs] = _ours


def is_declared(name: str) -> bool:
    """Whether `lookup` knows the name."""
    try:
        lookup(name)
    except UsageError:
        return False
    return True
