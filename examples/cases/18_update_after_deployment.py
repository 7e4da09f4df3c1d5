"""Case 18: an update after deployment. DPO on the logged pairs, or a new round of RLHF?

What the logs hold decides, by the rules of `assent plan --update`. Then, in a world small enough to enumerate, why
logged answers are training data for DPO and no episodes for PPO.

    python examples/cases/18_update_after_deployment.py
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import assent
from assent.objectives import preference_loss
from assent.planning.logged import read_logged
from assent.planning.update import Verdict, facts_of, moves_of, since_of, verdicts_of
from assent.sandbox.microworld import MicroWorld
from assent.sandbox.traffic import Traffic, moved, served_rows
from assent.sandbox.world import World

BETA, CLIP = 0.3, 0.2
LOGS: tuple[tuple[str, str | None, tuple[str, ...]], ...] = (
    ("ratings and log-probabilities, nothing moved", None, ()),
    ("ratings without log-probabilities", None, ("logprobs", "num_tokens")),
    ("no ratings", None, ("rating",)),
    ("taste has moved", "taste", ()),
    ("annoyed users alone still rate", "feedback", ()),
    ("the server computes other log-probabilities", "serving", ()),
)
QUESTIONS = ("thumbs", "reference", "ppo")
"""Each prompt of these logs has one answer, so that there are no pairs."""
FIRST_DAY, BASE_DAYS, DAYS, ROWS_A_DAY = 20_000, 14, 9, 150


def main() -> dict[str, Any]:
    return {"logs": of_logs(), **of_episodes()}


def of_logs() -> dict[str, dict[str, str]]:
    """For each log, the verdict on each way to use it."""
    print("What the logs hold decides:")
    found: dict[str, dict[str, str]] = {}
    release = Traffic(world=World())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = list(served_rows(release, first_day=FIRST_DAY, days=BASE_DAYS, rows_a_day=ROWS_A_DAY, seed=1))
        for title, what, without in LOGS:
            traffic = release if what is None else moved(release, what, 1.0)
            rows = served_rows(traffic, first_day=FIRST_DAY + BASE_DAYS, days=DAYS, rows_a_day=ROWS_A_DAY, seed=2)
            logs = write(folder / "logs.jsonl", rows, without)
            document = assent.monitor(baseline=write(folder / "release.jsonl", base, without), logs=logs)
            verdicts = [one for one in verdicts_on(logs, document) if one.question in QUESTIONS]
            found[title] = {one.question: one.verdict for one in verdicts}
            print(f"\n  {title}: {', '.join(document['causes']) or 'nothing moved'}")
            for one in verdicts[:2]:
                print(f"    {one.verdict:<12} {one.title}: {one.reason}")
    return found


def verdicts_on(logs: str, document: Mapping[str, Any]) -> list[Verdict]:
    """As if `assent monitor --policy` had found the server's log-probabilities to be the trainer's at the release."""
    moves = moves_of(document)
    since = since_of(document, moves)
    logged = read_logged(logs, {}).since(since)
    return verdicts_of(facts_of(logged, moves, since=since, up_above=0.5, is_compared=True))


def write(path: Path, rows: Iterable[Mapping[str, Any]], without: tuple[str, ...]) -> str:
    kept = ({name: value for name, value in row.items() if name not in without} for row in rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return str(path)


def of_episodes() -> dict[str, float]:
    """DPO on pairs that the release served; the policy gradient on answers that it served, with and without ratios."""
    world = MicroWorld(vocabulary=4, length=3, seed=0)
    optimum, _ = world.optimum(BETA)
    served = np.exp(world.reference)  # how often the release gave each answer
    pair_weights = np.outer(served, served)
    on_logs, evenly = (0.5 * np.abs(np.exp(dpo(world, weights)) - np.exp(optimum)).sum() for weights in
                       (pair_weights, np.ones_like(pair_weights)))  # fmt: skip
    print("\nDPO learns the same from the pairs that the release served as from all pairs evenly:")
    print(f"  total variation to the optimum {on_logs:.1e} and {evenly:.1e}: the loss does not ask who sampled")

    policy = 0.5 * (world.reference + optimum)  # an update on its way, from the release to the optimum
    policy -= np.log(np.exp(policy).sum())
    now = np.exp(policy)
    true = gradient(now, now * world.reward)
    as_if_own = gradient(now, served * world.reward)
    weighted = gradient(now, served * (now / served) * world.reward)
    ratio = now / served
    outside = float(served[np.abs(ratio - 1) > CLIP].sum())
    effective = float(1 / (served * ratio**2).sum())
    found = {
        "dpo_on_logs": float(on_logs),
        "dpo_evenly": float(evenly),
        "cosine_as_if_own": cosine(as_if_own, true),
        "cosine_weighted": cosine(weighted, true),
        "outside_clip": outside,
        "effective_share": effective,
    }
    print("PPO, halfway through an update, would read answers that another policy gave:")
    print(f"  taken as its own, they point elsewhere: cosine {found['cosine_as_if_own']:.2f} with its gradient")
    print(f"  weighted by the ratio they point right (cosine {found['cosine_weighted']:.2f}), but the ratio of "
          f"{outside:.0%} of them is outside the clip of {CLIP},")  # fmt: skip
    print(f"  and they are worth {effective:.0%} of their number; without logged log-probabilities there is no ratio")
    return found


def gradient(now: np.ndarray, weighted_reward: np.ndarray) -> np.ndarray:
    """(S,) of E[r] by the logits of a softmax policy, from answers with these weights: Σ w (e_y − π)."""
    return weighted_reward - now * weighted_reward.sum()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def dpo(world: MicroWorld, weights: np.ndarray) -> np.ndarray:
    """(S,) log-probabilities after DPO on all pairs, each with its weight and its Bradley-Terry probability."""
    reference, reward = torch.tensor(world.reference), torch.tensor(world.reward)
    first, second = torch.combinations(torch.arange(len(reward))).unbind(1)
    share = torch.tensor(weights)[first, second]
    share = share / share.mean()
    logits = reference.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([logits], max_iter=2000, tolerance_grad=1e-13, tolerance_change=0,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logps = logits.log_softmax(0)
        values, _ = preference_loss(
            "sigmoid", chosen=logps[first], rejected=logps[second], reference_chosen=reference[first],
            reference_rejected=reference[second], chosen_probability=torch.sigmoid(reward[first] - reward[second]),
            beta=BETA,
        )  # fmt: skip
        loss = (share * values).mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimiser.step(closure)
    return logits.detach().log_softmax(0).numpy()


if __name__ == "__main__":
    main()
