"""From a finding to the fix: what the logs hold decides how the next model can be trained from them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from assent.diagnosis.drift.signals import Drift


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to use the logs.

    way      what would be done
    verdict  sound, not sound, or not possible with these logs
    reason   one sentence
    """

    way: str
    verdict: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        return {"way": self.way, "verdict": self.verdict, "reason": self.reason}


def ways(drift: Drift, found: Collection[str]) -> tuple[Way, ...]:
    """What an update can take from these logs. found: names of the rules that have a finding."""
    has = drift.signals
    return (
        _feedback("rating/level" in has, found),
        _logprobs("serving/logprob" in has, found),
        Way(way="PPO on the logged answers", verdict="not sound",
            reason="PPO's gradient holds for answers of the policy that it updates, and its ratio for the policy that "
            "sampled them a moment ago; give it the logged prompts, and let it sample"),
        _reward_model("reward_model/agrees" in has, found),
        _sampling(found),
    )  # fmt: skip


def _feedback(has_ratings: bool, found: Collection[str]) -> Way:
    way = "DPO on logged pairs, KTO on logged thumbs"
    if not has_ratings:
        return Way(way=way, verdict="not possible", reason="no ratings or outcomes are logged: have answers rated")
    against = {
        "taste_moved": "older ratings are of another taste: take those since it moved, and collect more",
        "feedback_selected": "who rates depends on the answer: weight by the probability of a rating, or ask at random",
        "behaviour_moved": "part of the answers are of another model: take those of the release, or roll back first",
    }
    reason = next((text for rule, text in against.items() if rule in found), None)
    if reason is not None:
        return Way(way=way, verdict="not sound", reason=reason)
    return Way(
        way=way,
        verdict="sound",
        reason="the optimum of these losses does not depend on who sampled the answers, as long as the answers that "
        "matter are among them",
    )


def _logprobs(are_logged: bool, found: Collection[str]) -> Way:
    way = "logged log-probabilities as the reference's"
    if not are_logged:
        return Way(way=way, verdict="not possible", reason="none are logged: the released model's folder computes them")
    if "serving_differs" in found:
        return Way(way=way, verdict="not sound", reason="the server's are not the trainer's: compute them anew")
    return Way(way=way, verdict="sound", reason="they have not moved; --policy compares them with the trainer's")


def _reward_model(is_known: bool, found: Collection[str]) -> Way:
    way = "the reward model of the release"
    if not is_known:
        return Way(
            way=way, verdict="not possible", reason="without both ratings and scores nobody knows how good it is"
        )
    if "reward_model_aged" in found or "taste_moved" in found:
        return Way(way=way, verdict="not sound", reason="it no longer says what people say: label, and train it again")
    return Way(way=way, verdict="sound", reason="it agrees with fresh ratings as it did at the release")


def _sampling(found: Collection[str]) -> Way:
    way = "new samples, rated again"
    if "prompts_moved" in found:
        return Way(way=way, verdict="sound", reason="needed: on the new prompts the release has answers and no labels")
    return Way(way=way, verdict="sound", reason="always, and dear: only where the logs do not do")
