"""The sampler's log-probabilities are not the trainer's for the same tokens and weights: the first ratio is not 1."""

from __future__ import annotations

from assent.diagnosis.case import Case, example
from assent.diagnosis.finding import Evidence, Finding, to
from assent.diagnosis.rule import SAMPLED, NotChecked, Rule
from assent.statistics.small import median

MISMATCH, DISTANCE = "rollout/logprob_mismatch", "policy/approxkl_avg"
ALLOWED = {"float32": 0.02, "bfloat16": 1.5}
"""Largest difference of one token's log-probability, in nats."""
ON_POLICY = {"float32": 1e-4, "bfloat16": 5e-3}
"""Largest ½(log-ratio)² where each round makes one update, so that the ratio must be 1."""


def check(case: Case) -> Finding | None:
    half = case.option("mixed_precision") == "bf16" or case.option("dtype", "bfloat16") == "bfloat16"
    kind = "bfloat16" if half or case.source != "assent" else "float32"
    single = case.option("num_ppo_epochs", 1) == 1 == case.option("num_mini_batches", 1) and case.source == "assent"
    found: tuple[str, float, float] | None = None
    if MISMATCH in case.series and (worst := median(case[MISMATCH].values)) > ALLOWED[kind]:
        found = MISMATCH, worst, ALLOWED[kind]
    elif DISTANCE in case.series and single and (worst := median(case[DISTANCE].values)) > ON_POLICY[kind]:
        found = DISTANCE, worst, ON_POLICY[kind]
    elif MISMATCH not in case.series and not single:
        raise NotChecked("not logged: rollout/logprob_mismatch")
    if found is None:
        return None
    name, worst, allowed = found
    return Finding(
        severity="fault",
        verdict="the sampler and the trainer disagree about the same tokens: the ratio is not 1 before any update",
        evidence=(Evidence(metric=name, steps=case[name].span, value=worst, expected=f"at most {allowed:g}"),),
        cause="dropout is on in one of them, temperatures differ, or another engine computes with other weights or at "
        "another precision",
        next_action="switch dropout off, score with the sampling temperature, and give the sampler the newest weights "
        "before each round; with another engine (vLLM), correct for the rest (--importance-sampling-cap 2)",
        fix={"importance_sampling_cap": to(2.0)} if case.option("sampler") == "vllm" else {},
    )


RULE = Rule(
    name="sampler_differs",
    title="sampler and trainer disagree: the first ratio is not 1",
    metrics=(f"{MISMATCH} or {DISTANCE}",),
    least=3,
    stages=SAMPLED,
    check=check,
    causes=("dropout", "temperature", "another engine", "stale weights in the sampler"),
    source="dropout of 0.1 gave .86 nats a token (failures P9; TRL #454, trlX #107)",
)

FIRES = example({MISMATCH: [0.8, 0.9, 1.1, 0.7]}, stage="ppo", dtype="float32")
QUIET = example({MISMATCH: [2e-6, 3e-6, 2e-6, 4e-6]}, stage="ppo", dtype="float32")
