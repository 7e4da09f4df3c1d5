"""What each fault changes in a healthy setting: options, rows, code or log. Each takes the setting and a strength."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

from assent.sandbox.faults import patches, tasks
from assent.sandbox.faults.settings import REWARDS, Rows, Setting

Injection = Callable[[Setting, float], None]
GOLD = {"reward": f"{REWARDS}:gold", "name": "gold", "weight": 1e-6}
"""Measured beside the reward; it weighs nothing."""


def rate_times(factor: float) -> Injection:
    def inject(setting: Setting, strength: float) -> None:
        setting.options["learning_rate"] = float(f"{setting.options['learning_rate'] * factor**strength:.4g}")
        if factor > 1:
            setting.options["max_grad_norm"] = 100.0
        if setting.stage == "sft":  # a model that knows nothing has nothing to lose
            setting.options["model"] = setting.model()

    return inject


def rate_zero(setting: Setting, strength: float) -> None:
    setting.patches.append(patches.no_rate)
    setting.shown["learning_rate"] = 0.0


def frozen(setting: Setting, strength: float) -> None:
    setting.patches.append(patches.frozen)


def masked_pairs(setting: Setting, strength: float) -> None:
    plain_loss(setting)
    setting.patches.append(patches.masked_pairs)


def masked_answers(setting: Setting, strength: float) -> None:
    setting.patches.append(patches.masked_answers)


def plain_loss(setting: Setting) -> None:
    """DPO's own loss: the fault is one of the reference, or looks otherwise under other losses."""
    setting.options |= {"loss_type": "sigmoid", "beta": setting.options.get("beta", 0.1)}
    setting.options.pop("hyperparameters", None)


def no_reference(setting: Setting, strength: float) -> None:
    plain_loss(setting)
    setting.patches.append(patches.no_reference)


def reference_is_policy(setting: Setting, strength: float) -> None:
    plain_loss(setting)
    setting.patches.append(patches.reference_is_policy)


def wrong_reference(setting: Setting, strength: float) -> None:
    """The base model below the fine-tuned one, and nobody knows."""
    plain_loss(setting)
    setting.options["reference"] = setting.model("raw")
    setting.shown["reference"] = None


def opposite_loss(setting: Setting, strength: float) -> None:
    plain_loss(setting)
    setting.patches.append(patches.opposite_loss)


def rollouts_refer_to_policy(setting: Setting, strength: float) -> None:
    setting.patches.append(patches.rollouts_refer_to_policy)


def opposite_advantages(setting: Setting, strength: float) -> None:
    setting.patches.append(patches.opposite_advantages)


def shuffled_returns(setting: Setting, strength: float) -> None:
    setting.patches.append(patches.shuffled_returns)


def critic_stays(setting: Setting, strength: float) -> None:
    setting.options["critic_learning_rate"] = 1e-9


def collapsing(setting: Setting, strength: float) -> None:
    """No penalty, no bonus, and updates that follow few samples far."""
    setting.options |= {"kl_coef": 0.0, "total_steps": 28}
    setting.options["learning_rate"] = float(f"{setting.options['learning_rate'] * 10**strength:.4g}")


def noisy_sampler(setting: Setting, strength: float) -> None:
    setting.patches.append(patches.noisy_logprobs(0.5 * strength))


def stale_sampler(setting: Setting, strength: float) -> None:
    setting.options["learning_rate"] = float(f"{setting.options['learning_rate'] * 3:.4g}")
    setting.patches.append(patches.stale_sampler(6))


def foreign_samples(setting: Setting, strength: float) -> None:
    setting.options["learning_rate"] = float(f"{setting.options['learning_rate'] * 3:.4g}")
    setting.options["kl_coef"] = 0.0
    setting.patches.append(patches.foreign_samples)


def many_updates(setting: Setting, strength: float) -> None:
    setting.options |= {"num_ppo_epochs": max(1, round(16**strength)), "num_mini_batches": 2, "cliprange": 0.2}
    setting.options["learning_rate"] = float(f"{setting.options['learning_rate'] * 6**strength:.4g}")


def whitened_scores(setting: Setting, strength: float) -> None:
    setting.patches.append(patches.whitened_scores)


def beta(value: float) -> Injection:
    def inject(setting: Setting, strength: float) -> None:
        plain_loss(setting)
        setting.options["beta"] = value

    return inject


def kl_weight(value: float) -> Injection:
    def inject(setting: Setting, strength: float) -> None:
        setting.options["kl_coef"] = value

    return inject


def kl_off(setting: Setting, strength: float) -> None:
    """No penalty, a few times the learning rate, and a reward that pays for going far."""
    setting.options |= {"kl_coef": 0.0, "total_steps": 32}
    setting.options["learning_rate"] = float(f"{setting.options['learning_rate'] * 3:.4g}")
    _reward(setting, "likes_trap")


def trap_reward(setting: Setting, strength: float) -> None:
    """A reward that a word wins, and no penalty."""
    setting.options |= {"kl_coef": 0.0, "total_steps": 32}
    setting.options["learning_rate"] = float(f"{setting.options['learning_rate'] * 4:.4g}")
    _reward(setting, "likes_trap", 1.0 if strength == 1 else strength)


def length_reward(setting: Setting, strength: float) -> None:
    setting.options["kl_coef"] = 0.01
    setting.options["learning_rate"] = float(f"{setting.options['learning_rate'] * 2:.4g}")
    _reward(setting, "likes_length", 1.0 if strength == 1 else strength)


def _reward(setting: Setting, function: str, share: float = 1.0) -> None:
    """This reward instead of the honest one; of a share below 1, the sum of both."""
    sources = [{"reward": f"{REWARDS}:{function}", "weight": share, "name": "proxy"}]
    if share < 1:
        sources.append({"reward": f"{REWARDS}:proxy", "weight": 1 - share, "name": "honest"})
    setting.options["reward"] = [*sources, GOLD]


def conflicting_rewards(setting: Setting, strength: float) -> None:
    setting.options["reward"] = [
        {"reward": f"{REWARDS}:chatter", "weight": 2.0, "name": "style"},
        {"reward": f"{REWARDS}:content", "weight": 0.3, "name": "content"},
    ]
    setting.options["kl_coef"] = 0.01
    setting.options["learning_rate"] = float(f"{setting.options['learning_rate'] * 2:.4g}")


def constant_reward(setting: Setting, strength: float) -> None:
    setting.options["reward"] = f"{REWARDS}:nothing"


def reward_times(factor: float) -> Injection:
    def inject(setting: Setting, strength: float) -> None:
        function = "likes_trap" if factor > 1 else "proxy"  # what the penalty would have held
        setting.options["reward"] = [{"reward": f"{REWARDS}:{function}", "weight": factor, "name": "proxy"}, GOLD]
        if factor > 1:
            setting.options["learning_rate"] = float(f"{setting.options['learning_rate'] * 3:.4g}")
            setting.options["total_steps"] = 28

    return inject


def short_reward(setting: Setting, strength: float) -> None:
    setting.options |= {"reward": f"{REWARDS}:shortest", "kl_coef": 0.0, "total_steps": 40}
    setting.options["learning_rate"] = float(f"{setting.options['learning_rate'] * 8:.4g}")


def short_limit(setting: Setting, strength: float) -> None:
    setting.options["max_new_tokens"] = 2


def endless_start(setting: Setting, strength: float) -> None:
    setting.options["model"] = setting.model("endless")


def swapped(setting: Setting, strength: float) -> None:
    """Chosen and rejected are exchanged in the training file."""
    setting.rows = [replace(row, completions=row.completions[::-1]) for row in setting.rows]


def label_noise(share: float) -> Injection:
    """This share of the labels is reversed, in training as in held-out rows. At 0.5 they are random."""

    def inject(setting: Setting, strength: float) -> None:
        if setting.stage == "dpo":
            plain_loss(setting)
        rng = random.Random(f"assent-faults/noise/{setting.seed}")
        # a label says something only if the model may learn it: enough rows, and one pass
        setting.rows = tasks.comparisons(setting.family, 2 * len(setting.rows), seed=setting.seed + 10)
        for rows in (setting.rows, setting.held_out):
            for place, row in enumerate(rows):
                if rng.random() < share * strength:
                    rows[place] = replace(row, completions=row.completions[::-1])

    return inject


def sorted_thumbs(setting: Setting, strength: float) -> None:
    """All thumbs up first, in the order of the file."""
    setting.rows = sorted(setting.rows, key=lambda row: not (row.preference and row.preference.thumbs == (True,)))
    setting.options["shuffle"] = False


def few_rows(setting: Setting, strength: float) -> None:
    """A few dozen rows, read many times, under a loss that does not mind."""
    if setting.stage == "dpo":
        plain_loss(setting)
    setting.rows = setting.rows[:32]
    setting.options |= {"batch_size": 8, "num_train_epochs": 18.0, "eval_steps": 6, "model": setting.model()}
    setting.options["learning_rate"] = float(f"{setting.options['learning_rate'] * 3:.4g}")


def scaled_scores(setting: Setting, strength: float) -> None:
    """The model that is measured gives scores several times as large as the one that is trained."""
    factor = 30**strength
    setting.patches.append(patches.scores_become(lambda scores: scores if scores.requires_grad else factor * scores))


def shifted_scores(setting: Setting, strength: float) -> None:
    setting.options["center_rewards_coefficient"] = 0.0
    setting.patches.append(patches.scores_become(lambda scores: scores + 50.0))


def wrong_centring(setting: Setting, strength: float) -> None:
    setting.options["center_rewards_coefficient"] = 0.1
    setting.patches.append(patches.wrong_centring)


def not_finite_log(setting: Setting, strength: float) -> None:
    """From a step on the gradient is not a number and the loss reads 0, as transformers' trainer writes it."""

    def broken(rows: Rows) -> Rows:
        first = 10 + setting.seed % 20
        change = {"loss": 0.0, "grad_norm": math.nan, "rewards/margins": math.nan}
        return [
            {**row, **{name: value for name, value in change.items() if name in row}} if row["step"] >= first else row
            for row in rows
        ]

    setting.logged.append(broken)


def two_writers(setting: Setting, strength: float) -> None:
    """Another run wrote its lines between this one's, a few at a time."""

    def mixed(rows: Rows) -> Rows:
        blocks = [rows[start : start + 4] for start in range(0, len(rows), 4)]
        other = [[{name: value * 1.1 if name == "loss" else value for name, value in row.items()} for row in block]
                 for block in blocks]  # fmt: skip
        return [row for pair in zip(blocks, other, strict=True) for block in pair for row in block]

    setting.logged.append(mixed)


def crashed(setting: Setting, strength: float) -> None:
    setting.known |= {"status": "running", "is_alive": False, "silent_seconds": 7200.0}
    setting.logged.append(lambda rows: rows[: max(10, len(rows) // 2)])
