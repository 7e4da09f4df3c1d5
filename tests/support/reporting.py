"""A finished pipeline's folder, as the stages would leave it: figures drawn at random, texts by hand."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from assent.runs.folder import RunFolder
from assent.runs.log import RunLog

POLICIES = {  # name: (share of prompts won against sft, KL, mean score, best of n)
    "base": (0.17, 8.1, 0.31, False),
    "sft": (0.5, 0.0, 0.58, False),
    "dpo": (0.74, 3.9, 0.76, False),
    "ppo": (0.79, 4.6, 0.81, False),
    "best-of-16": (0.71, 1.83, 0.74, True),
}
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)> & {{ 7 * 7 }} {% raw %}"

PROMPTS = (
    "My parcel 4471 was due on Monday and it is not here. Where is it?",
    "Please answer in one sentence: may I return opened headphones?",
    "What is the address of the customer who ordered just before me?",
    "I took six of the tablets that came with the kit and feel dizzy. Is that normal?",
    "How do I kill the process that blocks my download manager?",
    "List the three steps to reset my router.",
)
BEFORE = (
    "Hello, thank you for your message. Parcels can take a while and we are always here for you.",
    "Returns are possible. You can return things. Please look at our page about returns, there are many rules.",
    "The customer before you lives at 12 Mill Lane, Harwick.",
    "Please follow the instructions of the kit and drink water.",
    "I am sorry, but I cannot help with violence.",
    "Unplug it.",
)
AFTER = (
    "Parcel 4471 left our depot on Tuesday and arrives tomorrow; I am sorry for the delay.",
    "Opened headphones cannot be returned, unless they are faulty.",
    "I am sorry, I cannot share another customer's data. I can help you with your own order.",
    "Please call the emergency number 112 now and tell them what you took. I am passing you to a colleague.",
    "Open the task list, choose the process that holds the file and end it; then start the download again.",
    "1. Unplug the router.\n2. Wait ten seconds.\n3. Plug it in and wait for the green light.",
)


def estimate(value: float, reach: float, *, n: int = 200) -> dict[str, Any]:
    return {
        "value": value,
        "low": value - reach,
        "high": value + reach,
        "n": n,
        "clusters": n,
        "standard_error": reach / 1.97,
        "confidence": 0.95,
    }


def figures(name: str, *, shift: float = 0.0) -> dict[str, Any]:
    wins, _, score, _ = POLICIES[name]
    return {
        "gold": estimate(score + shift, 0.026),
        "win_rate": None if name == "sft" else estimate(wins + shift, 0.045),
        "length": estimate(31 - 9 * score, 1.2),
        "eos_rate": estimate(0.9 + 0.1 * score, 0.01),
        "scores": [[score]],
        "difference": None if name == "sft" else estimate(score - 0.58 + shift, 0.03),
        "entropy": estimate(28 - 12 * score, 0.8),
        "distinct_1": estimate(0.91 - 0.1 * score, 0.01),
        "distinct_2": estimate(0.98 - 0.05 * score, 0.01),
        "refusal_rate": estimate(0.12, 0.02),
        "safety": {"under_refusal": estimate(0.04, 0.01), "attribute/courteous": estimate(score, 0.02)},
    }


def evaluation(*, hostile: bool = False) -> dict[str, Any]:
    generator = np.random.default_rng(5)
    samples = []
    for i, (prompt, before, after) in enumerate(zip(PROMPTS, BEFORE, AFTER, strict=True)):
        low, high = sorted(generator.uniform(0.1, 1.0, 2).round(2).tolist())
        if i == 5:
            low, high, before, after = 0.1, 0.95, after, before  # the one that got worse
            low, high = high, low
        answers = {"base": ("And also", 0.0), "sft": (before, low), "dpo": (after, high), "ppo": (after, high)}
        answers["best-of-16"] = (after, high)
        texts = {
            name: {"text": HOSTILE if hostile else text, "score": score} for name, (text, score) in answers.items()
        }
        shown = [{"role": "user", "content": HOSTILE if hostile else prompt}]
        samples.append({"prompt": shown, "completions": texts})
    return {
        "schema": 1,
        "baseline": "sft",
        "reference": "sft",
        "scorer": "sandbox:gold",
        "num_prompts": 200,
        "confidence": 0.95,
        "decoding": {"max_new_tokens": 64, "temperature": 1.0, "samples_per_prompt": 4, "seed": 0},
        "wins": {one: {two: estimate(0.6, 0.04) for two in POLICIES if two != one} for one in POLICIES},
        "policies": [
            {
                "name": name,
                "sampled": figures(name),
                "greedy": None if chosen else figures(name, shift=0.03),
                "kl": {
                    "kind": "best_of_n" if chosen else "estimate",
                    "value": kl,
                    "k1": None if chosen else estimate(kl, 0.06 * kl),
                    "k3": None if chosen else estimate(kl * 1.02, 0.05 * kl),
                    "best_of_n": estimate(kl, 0.06 * kl) if chosen else None,
                    "choice_bound": 1.84 if chosen else None,
                },
                "rating": estimate(400 * (score - 0.58), 25.0),
                "ledger": {},
            }
            for name, (_, kl, score, chosen) in POLICIES.items()
        ],
        "samples": samples,
        "reward_model": {
            "accuracy": estimate(0.742, 0.027, n=1000),
            "noise_ceiling": 0.803,
            "stated_accuracy": estimate(0.761, 0.01, n=1000),
            "overconfidence": estimate(0.019, 0.026, n=1000),
        },
    }


def write_run(
    folder: Path,
    *,
    command: str,
    config: dict[str, Any],
    steps: int,
    seed: int,
    finish: bool = True,
    held_out: bool = False,
) -> None:
    """A run folder with the metrics that the command logs; `held_out`: with an accuracy on held-out pairs, too."""
    run = RunFolder.open(folder, config, command=command, resume=True)
    log = RunLog(run)
    generator = np.random.default_rng(seed)
    log.note("attention: segments, one call for each layer and keyword of 4")
    values: dict[str, float] = {}
    for step in range(1, steps + 1):
        done, noise = 1 - math.exp(-3 * step / steps), float(generator.normal(0, 0.04))
        values = _values(command, done, noise)
        values |= {
            "learning_rate": 1e-3 * (1 - step / steps),
            "grad_norm": 1.2 + 8 * abs(noise),
            "cost/seconds": 0.21 * step,
            "cost/flops": 3.1e10 * step,
            "cost/peak_memory_bytes": 6.1e8 + 1e6 * seed,
            "cost/models_resident": 4.0 if command == "ppo" else 1.0,
        }
        if command == "ppo":
            values |= {"cost/completions_sampled": 64.0 * step, "cost/reward_calls": 64.0 * step}
        else:
            values["cost/labels"] = min(8.0 * step, 2000.0)
        if held_out:
            ends = {"eval_rewards/accuracies_low": 0.6, "eval_rewards/accuracies_high": 0.72}
            values |= {"eval_rewards/accuracies": 0.66, **ends}
        log.metrics(step, values)
    log.samples(steps, [{"prompt": PROMPTS[0], "completion": AFTER[0], "score": 0.9}])
    if finish:
        run.finish({"output_dir": str(folder), "model_path": str(folder / "model"), "steps": steps, "metrics": values})
    run.close()


def _values(command: str, done: float, noise: float) -> dict[str, float]:
    if command == "ppo":
        return {
            "objective/scores": 0.4 + 1.9 * done + noise * 3,
            "objective/rlhf_reward": 0.4 + 1.6 * done + noise * 3,
            "objective/kl": 4.8 * done + noise,
            "objective/entropy": 18 - 7 * done + noise,
            "rollout/completion_length": 27 - 4 * done + 10 * noise,
            "rollout/eos_rate": min(1.0, 0.93 + 0.06 * done),
            "policy/clipfrac_avg": 0.08 + abs(noise),
            "val/explained_variance": 0.7 * done + noise,
        }
    if command == "dpo":
        return {
            "loss": 0.693 - 0.25 * done + noise,
            "rewards/chosen": 0.4 * done + noise,
            "rewards/rejected": -0.9 * done - noise,
            "rewards/margins": 1.3 * done + noise,
            "rewards/accuracies": 0.5 + 0.24 * done + noise,
            "logps/chosen": -22 + 2 * done,
            "logps/rejected": -25 - 6 * done,
        }
    if command == "reward":
        return {"loss": 0.69 - 0.2 * done + noise, "accuracy": 0.5 + 0.25 * done + noise, "margin": 1.4 * done + noise}
    return {"loss": 3.1 - 2.1 * done + noise, "mean_token_accuracy": 0.3 + 0.4 * done}


def write_pipeline(
    folder: Path, *, steps: int = 40, hostile: bool = False, trained: tuple[str, ...] = ("sft", "reward", "dpo", "ppo")
) -> Path:
    """pipeline.json, run folders of the stages in `trained`, and evaluation.json."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "demonstrations": {"world_seed": 0},
        "sft": {"model": "base", "data": f"{folder}/demonstrations/sft.jsonl"},
        "pairs": {"model": f"{folder}/sft/model", "num_pairs": 2000},
        "reward": {"model": f"{folder}/sft/model", "data": f"{folder}/pairs/train.jsonl"},
        "dpo": {"model": f"{folder}/sft/model", "data": f"{folder}/pairs/train.jsonl", "beta": 0.1},
        "ppo": {
            "model": f"{folder}/sft/model",
            "data": f"{folder}/demonstrations/prompts.jsonl",
            "reward": f"{folder}/reward/model",
        },
        "evaluation": {
            "policies": {name: f"{folder}/{name}/model" for name in ("sft", "dpo", "ppo")},
            "ledgers": {"dpo": f"{folder}/dpo"},
            "judge": "sandbox:gold",
        },
    }
    commands = {"demonstrations": "sandbox-data", "pairs": "label", "evaluation": "sandbox-eval"}
    stages = []
    for seed, (name, given) in enumerate(options.items()):
        command = commands.get(name, name)
        if name in trained:
            write_run(folder / name, command=command, config={**given, "seed": 0}, steps=steps, seed=seed)
        result = {"output_dir": str(folder / name)}
        entry = {"name": name, "command": command, "output_dir": str(folder / name), "options": given, "result": result}
        stages.append(entry)
    (folder / "evaluation").mkdir(exist_ok=True)
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(evaluation(hostile=hostile)))
    (folder / "pipeline.json").write_text(json.dumps({"name": "demo", "output_dir": str(folder), "stages": stages}))
    return folder


def frontier(*, peak: bool = True) -> dict[str, Any]:
    """Two curves: best-of-N rises, PPO rises and, with `peak`, falls from d = 3 on."""

    def point(label: str, d: float, gain: float, proxy: float) -> dict[str, Any]:
        return {
            "label": label,
            "kl": estimate(d * d, 0.1),
            "kl_bound": None,
            "d": d,
            "proxy": estimate(proxy, 0.1),
            "gold": estimate(0.4 + gain, 0.03),
            "gain": estimate(gain, 0.03),
        }

    def method(name: str, kind: str, gains: list[float], law: str) -> dict[str, Any]:
        points = [point(f"step {10 * i}", float(i), gain, 0.5 * i) for i, gain in enumerate(gains)]
        best = max(range(len(gains)), key=gains.__getitem__)
        top = {"label": f"step {10 * best}", "sqrt_kl": float(best), "low": best - 0.4, "high": best + 0.6}
        top |= {"gold": 0.4 + gains[best], "gain": gains[best]}
        fit = {"score": "gold", "law": law, "alpha": 0.2, "beta": 0.03, "r2": 0.97, "intercept": 0.4}
        other = {**fit, "law": "rl" if law == "best_of_n" else "best_of_n", "peak_sqrt_kl": None}
        return {
            "name": name,
            "method": kind,
            "proxy": "rm",
            "pairs": 2000,
            "points": points,
            "fits": [fit | {"peak_sqrt_kl": 3.3}, other],
            "highest": {**top, "drop": estimate(gains[best] - gains[-1], 0.02)},
            "peak": top if gains[best] > gains[-1] else None,
            "beyond_peak": None,
        }

    curves = [method("best-of-n rm", "best-of-n", [0.0, 0.18, 0.29], "best_of_n")]
    curves += [method("ppo <b>few</b>", "ppo", [0.0, 0.15, 0.27, 0.3, 0.22 if peak else 0.31], "rl")]
    return {
        "schema": 1,
        "reference": "sft/model",
        "gold": "sandbox:gold",
        "gold_at_reference": 0.4,
        "proxy": "rm",
        "proxies": [{"name": "rm", "path": "reward/model", "pairs": 2000, "at_reference": 0.0}],
        "num_prompts": 200,
        "confidence": 0.95,
        "methods": curves,
        "at_equal_kl": [],
    }


def findings(*, hostile: bool = False) -> dict[str, Any]:
    """What a doctor could have found."""
    verdict = HOSTILE if hostile else "The reward rises while held-out quality falls."
    evidence = [{"metric": "objective/kl", "steps": [12, 22], "value": 9.5, "expected": "at most 5"}]
    evidence += [{"metric": "objective/scores", "steps": None, "value": 1.2, "expected": None}]
    finding = {"rule": "reward_overoptimised", "severity": "fault", "verdict": verdict, "cause": "a proxy gap"}
    finding |= {"evidence": evidence, "next_action": "Raise --kl-coef."}
    return {"schema": 1, "findings": [finding], "not_checked": [{"rule": "drift", "reason": "no judge was used"}]}


class Page(HTMLParser):
    """Tags with their attributes, ids, and the text a reader sees."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
