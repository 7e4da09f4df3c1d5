"""RLHF's algorithms, torch-free. Each is a triple of advantage, policy objective and value objective.

`objectives/` implements the parts under the same names (ADVANTAGES, POLICY_OBJECTIVES, VALUE_OBJECTIVES), and a test
compares the two. An option that no part of the chosen triple reads is refused. A third party's triple is an `Algorithm`
named `module:NAME`. Its parts may be functions, named `module:function` (docs/extending.md).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from assent.config.functions import import_function, import_named
from assent.config.loading import unknown_name
from assent.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a triple.

    options         fields of the configuration that its function takes, under the same names
    around          fields that the stage reads for it
    needs_mates     it compares a prompt's completions, so there must be two or more
    credits_steps   for advantages: a reward counts for the tokens up to its place, not for the whole completion
    """

    summary: str
    options: tuple[str, ...] = ()
    around: tuple[str, ...] = ()
    needs_mates: bool = False
    credits_steps: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        return self.options + self.around


ADVANTAGES: Mapping[str, Part] = {
    "gae": Part(
        summary="generalised advantage estimation, whitened over the round",
        options=("gamma", "lam", "whiten_advantages"),
        around=("scale_scores", "bootstrap_truncated", "potential"),
        credits_steps=True,
    ),
    "td": Part(
        summary="the residual of one step, r + gamma V(s') - V(s)",
        options=("gamma",),
        around=("scale_scores", "bootstrap_truncated", "potential"),
        credits_steps=True,
    ),
    "group": Part(
        summary="reward minus the mean of the prompt's completions, over a standard deviation",
        options=("scale_rewards",),
        needs_mates=True,
        credits_steps=True,
    ),
    "leave_one_out": Part(
        summary="reward minus the mean of the prompt's other completions",
        around=("scale_scores",),
        needs_mates=True,
    ),
    "whitened_return": Part(
        summary="discounted rewards to come, whitened over the round",
        options=("gamma",),
        around=("scale_scores",),
        credits_steps=True,
    ),
}

POLICY_OBJECTIVES: Mapping[str, Part] = {
    "clip": Part(
        summary="clipped surrogate",
        options=("cliprange", "cliprange_high", "dual_clip"),
        around=("num_ppo_epochs", "num_mini_batches", "target_kl"),
    ),
    "policy_gradient": Part(summary="advantage times log-probability, one update per round"),
}

_CRITIC = ("critic", "critic_learning_rate", "critic_warmup_steps")
VALUE_OBJECTIVES: Mapping[str, Part] = {
    "clipped": Part(
        summary="squared error, clipped around the rollout's values", options=("cliprange_value",), around=_CRITIC
    ),
    "squared_error": Part(summary="squared error", around=_CRITIC),
}


Function = TypeVar("Function", bound=Callable[..., Any])


def implementation(registered: Mapping[str, Function], name: str) -> Function | Callable[..., Any]:
    """The function of the part with this name, or of `module:function`. ConfigError if it cannot be imported."""
    return import_function(name, what="algorithm") if ":" in name else registered[name]


def part_declaration(registered: Mapping[str, Part], name: str) -> Part:
    """The part with this name. A third party's function declares it in its attribute `part`; otherwise the function's
    keyword-only parameters are its options. ConfigError for any other name."""
    if ":" not in name:
        if name not in registered:
            raise unknown_name("part of an algorithm", name, registered)
        return registered[name]
    function = import_function(name, what="algorithm")
    declared = getattr(function, "part", None)
    if declared is not None and not isinstance(declared, Part):
        raise ConfigError(f"the attribute `part` of {name} is not a Part", got=type(declared).__name__,
                          expected="an assent.config.algorithms.Part (docs/extending.md)")  # fmt: skip
    taken = inspect.signature(function).parameters.values()
    options = tuple(p.name for p in taken if p.kind is p.KEYWORD_ONLY)
    if declared is None:
        return Part(summary=(inspect.getdoc(function) or "a third party's").partition("\n")[0], options=options)
    return replace(declared, options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """A registered triple.

    advantage, policy, value   names of parts, or a third party's `module:function`; value None: no critic
    options   fields that the algorithm reads besides those of its parts (`loss_type`)
    optimum   where the objective is largest, for completions of any length; r is their score, B the KL coefficient
    """

    name: str
    summary: str
    advantage: str
    policy: str
    value: str | None = None
    options: tuple[str, ...] = ()
    paper: str = "not declared"
    optimum: str = "not stated"

    @property
    def parts(self) -> tuple[Part, ...]:
        """Advantage, policy objective and, with a critic, value objective."""
        parts = (part_declaration(ADVANTAGES, self.advantage), part_declaration(POLICY_OBJECTIVES, self.policy))
        return (*parts, part_declaration(VALUE_OBJECTIVES, self.value)) if self.value else parts

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((*self.options, *(name for part in self.parts for name in part.reads)))

    @property
    def needs_mates(self) -> bool:
        return self.parts[0].needs_mates

    @property
    def credits_steps(self) -> bool:
        return self.parts[0].credits_steps

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that hold a third party's algorithm and its parts."""
        names = (self.name, self.advantage, self.policy, self.value or "")
        return tuple(dict.fromkeys(name.partition(":")[0] for name in names if ":" in name))


_TILTED = "π_ref·exp(r/B)/Z with the KL in the reward"
_DECLARED = (
    Algorithm(
        name="ppo",
        summary="several clipped updates per round, with a critic",
        advantage="gae",
        policy="clip",
        value="clipped",
        paper="Schulman et al. 2017, arXiv:1707.06347; 2016, arXiv:1506.02438; Ziegler et al. 2019, arXiv:1909.08593",
        optimum=_TILTED,
    ),
    Algorithm(
        name="a2c",
        summary="one update per round with the advantage r + gamma V(s') - V(s), with a critic",
        advantage="td",
        policy="policy_gradient",
        value="squared_error",
        paper="Mnih et al. 2016, arXiv:1602.01783 (synchronous)",
        optimum=f"{_TILTED}, as far as the critic is right",
    ),
    Algorithm(
        name="grpo",
        summary="no critic: rewards within each prompt's group of completions, normalised",
        advantage="group",
        policy="clip",
        options=("loss_type",),
        paper="Shao et al. 2024, arXiv:2402.03300; Dr. GRPO: Liu et al. 2025, arXiv:2503.20783; "
        "DAPO: Yu et al. 2025, arXiv:2503.14476",
        optimum="completions of one token, large groups, k2 or k3+: π_ref·exp(r/(Bσ))/Z, σ the standard deviation of r "
        "under the policy (scale_rewards none: π_ref·exp(r/B)/Z; k3: π_ref/(1 - (r - r̄)/(Bσ)))",
    ),
    Algorithm(
        name="rloo",
        summary="no critic: the mean reward of the prompt's other completions is the baseline",
        advantage="leave_one_out",
        policy="clip",
        paper="Ahmadian et al. 2024, arXiv:2402.14740; Kool et al. 2019",
        optimum=_TILTED,
    ),
    Algorithm(
        name="reinforce++",
        summary="no critic, no groups: returns whitened over the whole round",
        advantage="whitened_return",
        policy="clip",
        paper="Hu 2025, arXiv:2501.03262",
        optimum=_TILTED,
    ),
)

ALGORITHMS: dict[str, Algorithm] = {algorithm.name: algorithm for algorithm in _DECLARED}
"""Registered triples, by name."""

GOVERNED = frozenset(
    name
    for parts in (ADVANTAGES, POLICY_OBJECTIVES, VALUE_OBJECTIVES)
    for part in parts.values()
    for name in part.reads
) | frozenset(name for algorithm in _DECLARED for name in algorithm.options)
"""Options that only some algorithms read."""


def algorithm_declaration(name: str) -> Algorithm:
    """The registered triple, or a third party's. ConfigError for an unknown name, with the nearest known one."""
    if ":" in name:
        found = import_named(name, what="algorithm")
        if not isinstance(found, Algorithm):
            raise ConfigError("algorithm does not name an Algorithm", got=f"{name}: {type(found).__name__}",
                              expected="an assent.config.algorithms.Algorithm (docs/extending.md)")  # fmt: skip
        return replace(found, name=name)
    if name not in ALGORITHMS:
        raise unknown_name("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]
