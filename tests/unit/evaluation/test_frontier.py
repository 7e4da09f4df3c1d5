"""Best-of-N's curve from one set of samples: against the whole-curve estimator, enumeration, and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from assent.evaluation.frontier import (
    CurveData,
    Measured,
    Proxy,
    analyse,
    best_of_n_curve,
    compare_at_equal_kl,
    measure,
    sizes_up_to,
)
from assent.inference.best_of_n import (
    best_of_n_distribution,
    best_of_n_kl,
    best_of_n_kl_bound,
    expected_best_of_n,
)
from assent.models.module import AlignmentModel
from assent.rewards.function import FunctionReward, load_function
from assent.types import PromptGroup, Rollout
from tests.support.rollouts import plain_logprobs, sharp_llama


def some_proxy(pairs: int | None = 10) -> Proxy:
    return Proxy(name="some", reward=load_function("assent.sandbox.gold:reward"), pairs=pairs)


def test_sizes_go_up_to_the_largest() -> None:
    assert sizes_up_to(2) == [1, 2]
    assert sizes_up_to(20) == [1, 2, 3, 4, 6, 8, 12, 16, 20]


def test_a_curve_is_what_enumeration_gives() -> None:
    """4,000 samples of a policy of six outcomes, of which two score alike by the proxy but not by gold."""
    rng = np.random.default_rng(0)
    p = np.array([0.3, 0.25, 0.2, 0.15, 0.06, 0.04])
    proxy, gold = np.array([0.0, 1.0, 2.0, 2.0, 3.0, 4.0]), np.array([0.0, 0.2, 0.9, 0.3, 0.6, 0.1])
    rows = rng.choice(6, size=(1, 4000), p=p)
    drawn = [[(int(i), math.log(p[i])) for i in row] for row in rows]
    measured = Measured(gold=gold[rows], proxies={"some": proxy[rows]}, drawn=drawn)
    sizes = [1, 2, 8, 32]
    curve = best_of_n_curve(some_proxy(), measured, sizes=sizes)
    for column, n in enumerate(sizes):
        exact = best_of_n_distribution(p, proxy, n)
        assert curve.gold[0, column] == pytest.approx(exact @ gold, abs=0.02)
        assert curve.proxy is not None
        assert curve.proxy[0, column] == pytest.approx(exact @ proxy, abs=0.05)
        assert curve.kl[0, column] == pytest.approx(best_of_n_kl(p, proxy, n), abs=0.01)
    assert curve.kl_bounds == [best_of_n_kl_bound(n) for n in sizes]


def test_the_distance_uses_the_samples_own_probabilities() -> None:
    """All of 64 samples of ten equal outcomes: counting ties would be wrong by more than a tenth of a nat."""
    rows = np.random.default_rng(0).integers(10, size=(200, 64))
    drawn = [[(int(i), math.log(0.1)) for i in row] for row in rows]
    measured = Measured(gold=rows * 1.0, proxies={"some": rows * 1.0}, drawn=drawn)
    found = best_of_n_curve(some_proxy(), measured, sizes=[64]).kl.mean()
    assert found == pytest.approx(best_of_n_kl([0.1] * 10, np.arange(10), 64), abs=0.02)


def test_samples_of_equal_score_share_their_gold() -> None:
    scores, gold = np.array([[1.0, 2.0, 2.0, 2.0, 0.0]]), np.array([[0.5, 0.0, 0.3, 0.9, 1.0]])
    measured = Measured(gold=gold, proxies={"some": scores}, drawn=[[(i, -9.0) for i in range(5)]])
    curve = best_of_n_curve(some_proxy(), measured, sizes=[1, 2, 3, 5])
    whole = expected_best_of_n(scores[0], values=gold[0])
    assert curve.gold[0] == pytest.approx(whole[[0, 1, 2, 4]])
    assert curve.gold[0, 3] == pytest.approx(0.4)  # the three best, each as likely


def test_distance_is_the_policys_logprob_less_the_references() -> None:
    reference = AlignmentModel(sharp_llama(), kind="policy")
    rollouts = [
        Rollout(
            prompt_ids=(3, 4), ids=(5, 6 + i), logprobs=(-0.5, -0.25), finish_reason="length", text="e" * i,
            prompt_index=0, completion_index=i, policy_version="v",
        )
        for i in range(2)
    ]  # fmt: skip
    found = measure(
        rollouts,
        [PromptGroup(prompt="p")],
        gold=FunctionReward(letters, name="letters"),
        proxies=[],
        reference=reference,
    )
    under = [float(plain_logprobs(reference.hf, r.prompt_ids, r.ids).sum()) for r in rollouts]
    assert found.kl is not None
    assert found.kl == pytest.approx(np.array([[-0.75 - x for x in under]]), abs=1e-4)
    assert found.gold.tolist() == [[0.0, 1.0]]


def letters(prompts, completions):
    return [float(len(text)) for text in completions]


def measured_by(rng: np.random.Generator) -> Measured:
    """Ten prompts; the proxy is gold with much noise, so gold rises at first."""
    gold = rng.random((10, 64))
    return Measured(
        gold=gold,
        proxies={"some": gold + rng.standard_normal((10, 64))},
        drawn=[[(i, -30.0) for i in range(64)]] * 10,
    )


def test_an_entry_has_every_figure_and_is_json() -> None:
    base = measured_by(np.random.default_rng(0))
    curve = best_of_n_curve(some_proxy(), base, sizes=[1, 2, 4, 16, 64])
    entry = analyse(curve, base, seed=0)
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    assert entry["points"][0]["d"] == 0
    gain = entry["points"][0]["gain"]  # N = 1 is the reference itself, on every prompt
    assert (gain["value"], gain["low"], gain["high"]) == pytest.approx((0, 0, 0), abs=1e-12)
    narrow = analyse(curve, base, seed=0, confidence=0.5)["points"][3]["gold"]
    wide = entry["points"][3]["gold"]
    assert narrow["high"] - narrow["low"] < 0.5 * (wide["high"] - wide["low"])
    assert entry["points"][-1]["d"] == pytest.approx(math.sqrt(best_of_n_kl_bound(64)), abs=1e-6)
    assert entry["points"][2]["n"] == 4
    assert [fit["law"] for fit in entry["fits"]] == ["best_of_n", "rl"]
    assert all(fit["intercept"] == pytest.approx(base.gold.mean()) for fit in entry["fits"])
    assert entry["proxy"] == "some"
    down = best_of_n_curve(some_proxy(), base, sizes=[64, 16, 4, 2, 1])  # points stand by their distance
    for ours, theirs in zip(analyse(down, base, seed=0)["points"], entry["points"], strict=True):
        assert (ours["label"], ours["n"]) == (theirs["label"], theirs["n"])
        assert (ours["d"], ours["kl_bound"]) == pytest.approx((theirs["d"], theirs["kl_bound"]))
        for name in ("gold", "kl", "proxy", "gain"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-12)
    worse = CurveData(
        name="worse", method="dpo", proxy_name=None, pairs=None, labels=[{"label": "a"}],
        kl=np.ones((10, 1)), gold=np.zeros((10, 1)), proxy=None,
    )  # fmt: skip
    assert analyse(worse, base, seed=0)["highest"]["label"] == "reference"
    assert analyse(worse, base, seed=0)["highest"]["gold"] == pytest.approx(base.gold.mean())
    short = CurveData(
        name="two", method="dpo", proxy_name=None, pairs=None, labels=[{"label": "a"}, {"label": "b"}],
        kl=np.ones((10, 2)), gold=np.ones((10, 2)), proxy=None,
    )  # fmt: skip
    assert analyse(short, base, seed=0)["fits"] == []


def test_a_trained_curve_is_held_against_best_of_n_by_its_own_proxy() -> None:
    base = measured_by(np.random.default_rng(0))
    first = best_of_n_curve(some_proxy(), base, sizes=[1, 4, 64])
    base.proxies["other"] = base.gold
    second = best_of_n_curve(Proxy(name="other", reward=some_proxy().reward, pairs=99), base, sizes=[1, 4, 64])

    def trained(proxy: str | None, pairs: int | None) -> list[str]:
        curve = CurveData(
            name="ppo", method="ppo", proxy_name=proxy, pairs=pairs, labels=[{}], kl=np.ones((10, 1)),
            gold=base.gold[:, :1], proxy=None,
        )  # fmt: skip
        return [row["best_of_n"] for row in compare_at_equal_kl([first, second, curve], seed=0)]

    assert trained("other", 10) == ["best-of-n other"]
    assert trained(None, 10) == ["best-of-n some"]
    assert trained(None, None) == ["best-of-n some", "best-of-n other"]


def test_equal_kl_ends_at_the_peak_of_best_of_n() -> None:
    """Best-of-N gains 0.1 a unit of d up to d = 2 and has lost all at 3; the trained curve gains nothing at 1, 2.5."""
    ones = np.ones((10, 1))
    best = CurveData(
        name="best-of-n some", method="best-of-n", proxy_name="some", pairs=1, labels=[{}] * 4,
        kl=ones * [0.0, 1.0, 4.0, 9.0], gold=ones * [0.3, 0.4, 0.5, 0.3], proxy=None,
    )  # fmt: skip
    trained = CurveData(
        name="ppo", method="ppo", proxy_name="some", pairs=1, labels=[{}] * 2,
        kl=ones * [1.0, 6.25], gold=ones * [0.3, 0.3], proxy=None,
    )  # fmt: skip
    (row,) = compare_at_equal_kl([best, trained], seed=0)
    assert row["more_gold_at_equal_kl"]["value"] == pytest.approx(0.1)
    assert row["more_gold_at_equal_kl"]["num_points"] == 1
