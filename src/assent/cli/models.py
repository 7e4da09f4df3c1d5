"""The commands about models and their answers: new-model, merge, serve-check, sample, score, best-of-n, eval …"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from assent.cli.flags import command
from assent.cli.outcome import Outcome, figures, summary
from assent.config.commands import MergeConfig, NewModelConfig
from assent.config.compare import CompareConfig
from assent.config.completions import BestOfNConfig, SampleConfig
from assent.config.doctor import DoctorConfig
from assent.config.evaluation import EvalConfig
from assent.config.explain import ExplainConfig
from assent.config.frontier import FrontierConfig
from assent.config.judge import JudgeConfig
from assent.config.monitor import MonitorConfig
from assent.config.scoring import ScoreConfig
from assent.config.serving import ServeCheckConfig
from assent.pipelines.steps import run_step


@command(NewModelConfig, positional="output_dir")
def new_model(config: NewModelConfig) -> Outcome:
    result = run_step("new-model", config)
    text = (
        f"{result['parameters']:,} parameters, vocabulary {result['vocab_size']:,} "
        f"from {result['characters']:,} characters -> {result['model_path']}"
    )
    return Outcome({"command": "new-model", **result}, text)


@command(MergeConfig, positional="adapter")
def merge(config: MergeConfig) -> Outcome:
    result = run_step("merge", config)
    lines = [f"merge: {config.adapter} into {result['base']} -> {result['model_path']}"]
    if result["trained_in_4bit"]:
        lines.append(
            "  the adapter was trained over 4-bit weights; merged into full ones, its log-probabilities differ"
        )
    return Outcome({"command": "merge", **result}, "\n".join(lines))


@command(SampleConfig)
def sample(config: SampleConfig) -> Outcome:
    return _complete("sample", config)


@command(ScoreConfig)
def score(config: ScoreConfig) -> Outcome:
    """Exit status 1 if rows could not be scored and were kept apart."""
    return _complete("score", config)


@command(BestOfNConfig)
def best_of_n(config: BestOfNConfig) -> Outcome:
    """Exit status 1 if no n reaches the gain asked for."""
    outcome = _complete("best-of-n", config)
    if "metrics" not in outcome.document:  # the status of its shards
        return outcome
    curve = outcome.document.get("curve", [])
    lines = [_point(point) for point in curve if _is_shown(point["n"], len(curve), outcome.document["n"])]
    head = [f"  {'n':>4}  {'score':<24}{'gain':<24}KL, nats"] if lines else []
    failed = outcome.document.get("gain_reached") is False
    if "kl_nats_upper_bound" in outcome.document:
        lines.append(f"  KL at most {outcome.document['kl_nats_upper_bound']:.2f} nats per completion")
    if failed:
        lines.append(f"no n reaches a gain of {config.gain:g}: raise --n")
    text, whole = ("\n".join([part or "", *head, *lines]) for part in (outcome.text, outcome.whole))
    return Outcome(outcome.document, text, exit_status=max(int(failed), outcome.exit_status), whole=whole)


@command(EvalConfig)
def evaluate(config: EvalConfig) -> Outcome:
    """Exit status 1 if there are prompts that some policy could not answer, or its answers not be judged."""
    result = run_step("eval", config)
    lines = list(result["lines"])
    if "shards" in result:  # not all of them are done
        lines.insert(0, f"eval {result['output_dir']}")
    elif result["evaluation"]:
        lines += ["", f"eval -> {result['evaluation']}", *_apart(result)]
    return Outcome({"command": "eval", **result}, "\n".join(lines), exit_status=int(bool(result.get("apart"))))


@command(JudgeConfig)
def judge(config: JudgeConfig) -> Outcome:
    """Exit status 1 if the judge has a fault: it prefers bad answers, or agrees with people by chance."""
    result = run_step("judge", config)
    status = int(any(finding["severity"] == "fault" for finding in result.get("findings", ())))
    return Outcome({"command": "judge", **result}, "\n".join(result["lines"]), exit_status=status)


@command(FrontierConfig)
def frontier(config: FrontierConfig) -> Outcome:
    result = run_step("frontier", config)
    text = "\n".join([*result["lines"], "", f"frontier -> {result['frontier']}", f"picture: {result['picture']}"])
    return Outcome({"command": "frontier", **result}, text)


@command(ServeCheckConfig, positional="model")
def serve_check(config: ServeCheckConfig) -> Outcome:
    from assent.commands.serve_check import serve_check as check

    document, lines = check(config)
    verdict = "differences found" if document["differs"] else "the engines agree with the trained model"
    return Outcome(
        {"command": "serve-check", **document}, "\n".join([*lines, f"serve-check: {verdict}"]), int(document["differs"])
    )


@command(ExplainConfig)
def explain(config: ExplainConfig) -> Outcome:
    from assent.commands.explain import explain as run

    document, lines = run(config)
    return Outcome({"command": "explain", **document}, "\n".join(lines))


@command(CompareConfig)
def compare(config: CompareConfig) -> Outcome:
    result = run_step("compare", config)
    return Outcome(
        {"command": "compare", **result}, "\n".join([*result["lines"], "", f"compare -> {result['comparison']}"])
    )


def _complete(name: str, config: BaseModel) -> Outcome:
    """A command whose work may be in shards. Exit status 1 if rows were kept apart."""
    result = run_step(name, config)
    document = {"command": name, **result}
    if "metrics" not in result:  # shards that are not all done
        return Outcome(
            document, "\n".join([f"{name} {result['output_dir']}", *result["lines"]]), len(result["apart"]) > 0
        )
    written = next(result[part] for part in ("completions", "scored") if part in result)
    lines = [f"{name} -> {written}"]
    if refused := result.get("refused"):
        lines.append(f"  {refused} rows were refused: {result['apart_rows']} says why")
    lines += _apart(result)
    text, whole = ("\n".join([*lines, *part(result["metrics"])]) for part in (summary, figures))
    return Outcome(document, text, exit_status=int("apart" in result), whole=whole)


def _apart(result: dict[str, Any]) -> list[str]:
    """What to say of rows that were kept apart."""
    if "apart" not in result:
        return []
    return [
        f"  {result['apart']} rows could not be worked on: {result['apart_rows']} says why; the same command retries"
    ]


def _is_shown(n: int, last: int, chosen: int) -> bool:
    """Powers of two, the last n and the one that was chosen."""
    return n & (n - 1) == 0 or n in (last, chosen)


def _point(point: Mapping[str, Any]) -> str:
    """A line of the curve: means with 95% intervals."""
    kl = point["kl_nats"]
    distance = f"≤{point['kl_nats_upper_bound']:.2f}" if kl is None else _interval(kl)
    return f"  {point['n']:>4}  {_interval(point['score']):<24}{_interval(point['gain']):<24}{distance}"


def _interval(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:.2f} (too few)"
    return f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


@command(DoctorConfig, positional="targets")
def doctor(config: DoctorConfig) -> Outcome:
    from assent.commands.doctor import doctor as examined

    document, lines, status = examined(config)
    return Outcome({"command": "doctor", **document}, "\n".join(lines), exit_status=status)


@command(MonitorConfig)
def monitor(config: MonitorConfig) -> Outcome:
    from assent.commands.monitor import monitor as look

    document, lines, status = look(config)
    whole = "\n".join([*lines, "", "what an update can take from these logs: assent plan --update"])
    return Outcome({"command": "monitor", **document}, "\n".join(lines), exit_status=status, whole=whole)
